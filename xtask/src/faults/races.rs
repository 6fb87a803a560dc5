// SPDX-License-Identifier: MIT OR Apache-2.0
//! The result of each race: the guest records those that finished, the tests' report has those that failed.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Record;
use dmaplane_vmtest::guest::junit::{Ended, TestResult};
use dmaplane_vmtest::guest::verdict::Tests;

/// The suite of races, and a race in another suite.
const SUITE: &str = "race_table";
const UNPLUGGING: &str = "revoke_by_unplugging_again_and_again";

/// The result of one race.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Race {
    /// How often it ran, including the time that it failed.
    pub(super) iterations: u64,
    /// How often it failed: a failure ends its test.
    pub(super) failures: u64,
    /// How long all of it took.
    pub(super) seconds: f64,
}

/// All races by name. One that failed has its test's name, because the guest recorded nothing about it.
pub(super) fn of(record: Option<&Record>, tests: &Tests) -> BTreeMap<String, Race> {
    let mut races = BTreeMap::new();
    let recorded = record.into_iter().flat_map(|record| &record.races);
    for (name, (iterations, milliseconds)) in recorded {
        let race = Race {
            iterations: *iterations,
            failures: 0,
            seconds: *milliseconds as f64 / 1000.0,
        };
        races.insert(name.clone(), race);
    }
    let failed = |test: &&TestResult| test.result == Ended::Failed;
    for test in tests.results.iter().filter(failed) {
        if is_race(&test.binary, &test.name) {
            let race = Race {
                iterations: rounds(test.message.as_deref().unwrap_or_default()),
                failures: 1,
                seconds: test.seconds,
            };
            races.insert(test.name.clone(), race);
        }
    }
    for test in &tests.missing {
        if let Some((binary, name)) = test.split_once(' ')
            && is_race(binary, name)
        {
            let race = Race {
                failures: 1,
                ..Race::default()
            };
            races.insert(name.to_owned(), race);
        }
    }
    races
}

fn is_race(binary: &str, name: &str) -> bool {
    binary.rsplit("::").next() == Some(SUITE) || name == UNPLUGGING
}

/// How many rounds ran up to and including the failed one, according to the test; 0 if it failed outside of a round.
fn rounds(message: &str) -> u64 {
    let number = message.split_once(", round ").map(|(_, rest)| {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        &rest[..end.unwrap_or(rest.len())]
    });
    let number = number.and_then(|number| number.parse::<u64>().ok());
    number.map_or(0, |number| number.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(binary: &str, name: &str, result: Ended, message: &str) -> TestResult {
        TestResult {
            binary: format!("dmaplane-guest-tests::{binary}"),
            name: name.to_owned(),
            result,
            seconds: 2.5,
            message: Some(message.to_owned()),
        }
    }

    #[test]
    fn a_race_that_failed_is_among_those_that_did_not() {
        let mut record = Record::default();
        record.races.insert("close".to_owned(), (1000, 61_500));
        let message = "thread 'race_kill' panicked at run.rs:1: race_table::race_kill: seed 7, \
            delay point Some(\"work_completed\"), round 41: a late write";
        let tests = Tests {
            results: vec![
                test(SUITE, "race_close", Ended::Passed, ""),
                test(SUITE, "race_kill", Ended::Failed, message),
                test("revoke_device", UNPLUGGING, Ended::Failed, "no slot"),
                test("storm", "storm", Ended::Failed, "of no interest"),
            ],
            missing: vec!["dmaplane-guest-tests::race_table race_unload".to_owned()],
            ..Tests::default()
        };
        let races = of(Some(&record), &tests);
        let race = |name: &str| {
            let race = races[name];
            (race.iterations, race.failures, race.seconds)
        };
        assert_eq!(race("close"), (1000, 0, 61.5));
        assert_eq!(race("race_kill"), (42, 1, 2.5));
        assert_eq!(race(UNPLUGGING), (0, 1, 2.5));
        assert_eq!(race("race_unload"), (0, 1, 0.0));
        assert_eq!(races.len(), 4);
    }
}
