// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs as a table for people, and what they say together.

use std::collections::BTreeMap;

use super::bound;
use super::history::Run;

/// The runs of one part at one place.
#[derive(Default)]
struct Row {
    runs: u64,
    failures: u64,
    not_made: u64,
    seconds: u64,
}

/// The runs by part and place, and what they say together.
pub(super) fn table(runs: &[Run]) -> String {
    let mut rows: BTreeMap<(&str, &str, &str), Row> = BTreeMap::new();
    // Guests that do not boot do so many times for one cause.
    let mut vain: BTreeMap<&str, (u64, &Run)> = BTreeMap::new();
    for run in runs {
        let row = rows
            .entry((&run.part, &run.topology, &run.profile))
            .or_default();
        row.runs += u64::from(run.counts());
        row.failures += u64::from(run.failed());
        row.not_made += u64::from(!run.counts());
        row.seconds += run.seconds;
        if !run.counts() {
            let (count, last) = vain.entry(&run.words).or_insert((0, run));
            *count += 1;
            *last = run;
        }
    }
    let mut text = format!(
        "\n  {:14} {:8} {:8} {:>6} {:>9} {:>9} {:>8}\n",
        "part", "topology", "profile", "runs", "failures", "no result", "seconds"
    );
    for ((part, topology, profile), row) in rows {
        text += &format!(
            "  {part:14} {topology:8} {profile:8} {:>6} {:>9} {:>9} {:>8}\n",
            row.runs, row.failures, row.not_made, row.seconds
        );
    }
    for run in runs.iter().filter(|run| run.failed()) {
        text += &format!("  FAILED: {}\n", one(run));
    }
    for (count, last) in vain.into_values() {
        text += &format!("  NO RESULT, {count} times; the last: {}\n", one(last));
    }
    text + &rate(runs) + "\n"
}

/// One run in a line.
fn one(run: &Run) -> String {
    format!(
        "{} on {} {} at {}: {}; seed {}",
        run.part,
        run.topology,
        run.profile,
        run.commit,
        run.words.lines().next().unwrap_or_default(),
        run.seed
    )
}

/// What the runs say about the failure rate.
pub(super) fn rate(runs: &[Run]) -> String {
    let count = runs.iter().filter(|run| run.counts()).count() as u64;
    let failures = runs.iter().filter(|run| run.failed()).count() as u64;
    let seconds: u64 = runs.iter().map(|run| run.seconds).sum();
    let mut text = format!(
        "soak: {count} runs in {} min, {failures} failed",
        seconds / 60
    );
    let not_made = runs.len() as u64 - count;
    if not_made > 0 {
        text += &format!(", {not_made} more gave no result");
    }
    if count == 0 {
        return text + "; nothing is proven";
    }
    let bound = 100.0 * bound::upper(failures, count);
    text + &format!("; with 95 % confidence fewer than {bound:.2} % of such runs fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(exit_code: u8, words: &str) -> Run {
        Run {
            at: 1,
            commit: "abc".to_owned(),
            part: "storm".to_owned(),
            topology: "pair".to_owned(),
            profile: "base".to_owned(),
            seed: 4711,
            exit_code,
            words: words.to_owned(),
            seconds: 60,
        }
    }

    #[test]
    fn a_failure_is_told_with_its_seed() {
        // A guest that did not boot counts neither way.
        let told = table(&[run(0, "ok"), run(11, "SPLAT"), run(14, "no QEMU")]);
        assert!(told.contains("SPLAT; seed 4711"), "{told}");
        assert!(told.contains("2 runs in 3 min, 1 failed"), "{told}");
    }

    #[test]
    fn what_gave_no_result_is_told_once_for_each_cause() {
        let vain = run(14, "no QEMU\nmore about it");
        let told = table(&[vain.clone(), run(14, "no network"), vain]);
        assert!(told.contains("NO RESULT, 2 times"), "{told}");
        assert!(told.contains(": no QEMU; seed"), "{told}");
        assert!(told.contains("NO RESULT, 1 times"), "{told}");
        let row = told.lines().find(|line| line.starts_with("  storm "));
        let row: Vec<_> = row.unwrap_or_default().split_whitespace().collect();
        assert_eq!(row[3..], ["0", "0", "3", "180"], "{told}");
        assert!(
            told.contains("0 failed, 3 more gave no result; nothing is proven"),
            "{told}"
        );
    }
}
