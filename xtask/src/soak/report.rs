// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs as a table for people, as JSON for machines, and what they show together.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::bound;
use super::history::Run;

/// What several runs show together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Sum {
    /// Runs with a result.
    pub(super) completed: u64,
    /// Of them, those that failed.
    pub(super) failures: u64,
    /// Runs without one.
    pub(super) no_result: u64,
    /// How long all of them took.
    pub(super) seconds: u64,
    /// The largest share of such runs that fails, with 95 % confidence.
    pub(super) upper_bound: f64,
}

/// What `--json` writes.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    /// As `--help` lists them.
    pub(super) exit_code: u8,
    /// Why it is not 0, if that is no run's fault.
    pub(super) error: Option<String>,
    /// The seed of the choices; none for the history's table.
    pub(super) seed: Option<u64>,
    /// Where the runs of all soaks are.
    pub(super) history: &'a Path,
    /// The runs of this one; of the history's table, all.
    pub(super) runs: &'a [Run],
    /// What these show together.
    #[serde(flatten)]
    pub(super) sum: Sum,
}

/// The runs of one part at one place.
#[derive(Default)]
struct Row {
    runs: u64,
    failures: u64,
    not_made: u64,
    seconds: u64,
}

/// The runs by part and place, and what they show together.
pub(super) fn table(runs: &[Run]) -> String {
    let mut rows: BTreeMap<(&str, &str, &str), Row> = BTreeMap::new();
    // Guests that do not boot often fail for the same cause.
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

impl Sum {
    fn of(runs: &[Run]) -> Self {
        let completed = runs.iter().filter(|run| run.counts()).count() as u64;
        let failures = runs.iter().filter(|run| run.failed()).count() as u64;
        Self {
            completed,
            failures,
            no_result: runs.len() as u64 - completed,
            seconds: runs.iter().map(|run| run.seconds).sum(),
            upper_bound: bound::upper(failures, completed),
        }
    }
}

/// What the runs say about the failure rate.
pub(super) fn rate(runs: &[Run]) -> String {
    let sum = Sum::of(runs);
    let mut text = format!(
        "soak: {} runs in {} min, {} failed",
        sum.completed,
        sum.seconds / 60,
        sum.failures
    );
    if sum.no_result > 0 {
        text += &format!(", {} more gave no result", sum.no_result);
    }
    if sum.completed == 0 {
        return text + "; nothing is proven";
    }
    let bound = 100.0 * sum.upper_bound;
    text + &format!("; with 95 % confidence fewer than {bound:.2} % of such runs fail")
}

impl<'a> Report<'a> {
    /// A report of these runs; without an error until one is set.
    pub(super) fn new(history: &'a Path, runs: &'a [Run]) -> Self {
        Self {
            exit_code: 0,
            error: None,
            seed: None,
            history,
            runs,
            sum: Sum::of(runs),
        }
    }

    /// Writes the JSON.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
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
    fn a_failure_is_reported_with_its_seed() {
        // A guest that did not boot counts neither way.
        let report = table(&[run(0, "ok"), run(11, "SPLAT"), run(14, "no QEMU")]);
        assert!(report.contains("SPLAT; seed 4711"), "{report}");
        assert!(report.contains("2 runs in 3 min, 1 failed"), "{report}");
    }

    #[test]
    fn runs_without_result_are_reported_once_for_each_cause() {
        let vain = run(14, "no QEMU\nmore about it");
        let report = table(&[vain.clone(), run(14, "no network"), vain]);
        assert!(report.contains("NO RESULT, 2 times"), "{report}");
        assert!(report.contains(": no QEMU; seed"), "{report}");
        assert!(report.contains("NO RESULT, 1 times"), "{report}");
        let row = report.lines().find(|line| line.starts_with("  storm "));
        let row: Vec<_> = row.unwrap_or_default().split_whitespace().collect();
        assert_eq!(row[3..], ["0", "0", "3", "180"], "{report}");
        assert!(
            report.contains("0 failed, 3 more gave no result; nothing is proven"),
            "{report}"
        );
    }

    #[test]
    fn the_json_has_the_runs_and_what_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("soak.json");
        let runs = [run(0, "ok"), run(11, "SPLAT"), run(14, "no QEMU")];
        let report = Report {
            exit_code: 11,
            seed: Some(7),
            ..Report::new(Path::new("history.jsonl"), &runs)
        };
        report.write(&file).unwrap();
        let text = fs::read_to_string(file).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["exit_code"], 11);
        assert_eq!(report["seed"], 7);
        let sum = ["completed", "failures", "no_result", "seconds"].map(|name| &report[name]);
        assert_eq!(sum, [2, 1, 1, 180]);
        assert_eq!(report["runs"][1]["words"], "SPLAT");
        assert!(report["upper_bound"].as_f64().unwrap() > 0.9, "{text}");
    }
}
