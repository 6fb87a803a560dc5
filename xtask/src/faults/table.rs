// SPDX-License-Identifier: MIT OR Apache-2.0
//! The record of a run as tables for people.

use std::collections::BTreeMap;

use super::races::Race;
use super::{Purpose, Record};

/// The tables that belong to a purpose.
pub(super) fn text(record: &Record, races: &BTreeMap<String, Race>, purpose: Purpose) -> String {
    let mut text = String::new();
    if purpose == Purpose::Faults {
        text += &format!(
            "\n  {:24} {:>12} {:>10}\n",
            "fault point", "passed", "fired"
        );
        for (name, counts) in &record.points {
            text += &format!("  {name:24} {:>12} {:>10}\n", counts.passed, counts.fired);
        }
        text += &format!("\n  {:56} {:>8} {:>9}\n", "sweep", "faults", "failures");
        for (name, (faults, failures)) in &record.sweeps {
            text += &format!("  {name:56} {faults:>8} {failures:>9}\n");
        }
        for seed in &record.seeds {
            text += &format!("\n  storm of seed {seed}; --seed {seed} runs it again\n");
        }
    }
    if !races.is_empty() {
        text += &format!(
            "\n  {:48} {:>10} {:>8} {:>8}\n",
            "race", "iterations", "failures", "seconds"
        );
        for (name, race) in races {
            text += &format!(
                "  {name:48} {:>10} {:>8} {:>8.0}\n",
                race.iterations, race.failures, race.seconds
            );
        }
    }
    text
}

/// Points that never fired.
pub(super) fn silent(record: &Record) -> Vec<&str> {
    let silent = record.points.iter().filter(|(_, counts)| counts.fired == 0);
    silent.map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Counts;
    use super::*;

    #[test]
    fn every_point_is_listed_and_silent_ones_are_found() {
        let mut record = Record::default();
        for (name, fired) in [("freeze", 2), ("post_send", 0)] {
            let counts = Counts { passed: 9, fired };
            record.points.insert(name.to_owned(), counts);
        }
        let race = Race {
            iterations: 42,
            failures: 3,
            seconds: 61.2,
        };
        let races = [("close".to_owned(), race)].into();
        let report = text(&record, &races, Purpose::Faults);
        assert!(
            report.contains("post_send") && report.contains("close"),
            "{report}"
        );
        assert_eq!(silent(&record), ["post_send"]);
        let report = text(&record, &races, Purpose::Races);
        assert!(!report.contains("post_send"), "{report}");
        let row = report.lines().find(|line| line.contains("close")).unwrap();
        let row: Vec<_> = row.split_whitespace().collect();
        assert_eq!(row, ["close", "42", "3", "61"], "{report}");
    }
}
