// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tests' own report, and whether it is complete.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use quick_junit::TestCaseStatus;
use serde::Serialize;

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestResult {
    /// The test binary, as nextest names it.
    pub binary: String,
    /// The test's name in it.
    pub name: String,
    /// How it ended.
    pub result: Ended,
    /// Seconds that it ran.
    pub seconds: f64,
    /// The first line of the failure, or the reason of the skip.
    pub message: Option<String>,
}

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// It did what it should.
    Passed,
    /// It did not, or was killed.
    Failed,
    /// This guest lacks something that it needs.
    Skipped,
}

/// What a test that skips itself prints, before its reason: the harness of the standard library
/// knows no skipping at run time, so such a test passes.
const SKIP: &str = "SKIP: ";

/// The name of a test: binary and function.
pub type TestId = (String, String);

/// The results in nextest's JUnit file.
pub fn parse(xml: &str) -> Result<Vec<TestResult>> {
    let report = quick_junit::Report::deserialize_from_str(xml).context("the JUnit report")?;
    let mut results = Vec::new();
    for suite in report.test_suites {
        for case in suite.test_cases {
            let (result, message) = match &case.status {
                TestCaseStatus::Success { flaky_runs } if flaky_runs.is_empty() => {
                    let output = case.system_out.as_ref().map(|text| text.as_str());
                    match output.and_then(skip_reason) {
                        Some(reason) => (Ended::Skipped, Some(reason)),
                        None => (Ended::Passed, None),
                    }
                }
                TestCaseStatus::Success { .. } => (
                    Ended::Failed,
                    Some("it failed before it passed on a retry".to_owned()),
                ),
                TestCaseStatus::NonSuccess {
                    message,
                    ty,
                    description,
                    ..
                } => {
                    let text = description.as_ref().or(message.as_ref()).or(ty.as_ref());
                    (Ended::Failed, text.map(|text| gist(text.as_str())))
                }
                TestCaseStatus::Skipped { message, .. } => (
                    Ended::Skipped,
                    message.as_ref().map(|text| first_line(text.as_str())),
                ),
            };
            results.push(TestResult {
                binary: suite.name.as_str().to_owned(),
                name: case.name.as_str().to_owned(),
                result,
                seconds: case.time.unwrap_or_default().as_secs_f64(),
                message,
            });
        }
    }
    Ok(results)
}

/// The tests that should be in the report and are not.
pub fn missing(expected: &BTreeSet<TestId>, results: &[TestResult]) -> Vec<String> {
    let there: BTreeSet<TestId> = results
        .iter()
        .map(|test| (test.binary.clone(), test.name.clone()))
        .collect();
    expected
        .difference(&there)
        .map(|(binary, name)| format!("{binary} {name}"))
        .collect()
}

/// The reason of a skip. The harness does not end its own line before a test prints, so the mark
/// follows `... `.
fn skip_reason(output: &str) -> Option<String> {
    let line = output.lines().find(|line| line.contains(SKIP))?;
    let (before, reason) = line.split_once(SKIP)?;
    let own = before.is_empty() || before.ends_with(" ... ");
    own.then(|| reason.trim().to_owned())
}

/// The gist of a failure: a panic's location and message; else the first line.
fn gist(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.iter().position(|line| line.contains(" panicked at ")) {
        Some(at) => lines[at..lines.len().min(at + 2)].join(" "),
        None => first_line(text),
    }
}

fn first_line(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="guest" tests="3" failures="1" errors="0" time="1.5">
  <testsuite name="dmaplane-guest-tests::buffers" tests="3" disabled="0" errors="0" failures="1">
    <testcase name="fork" classname="buffers" time="0.25"></testcase>
    <testcase name="strict" classname="buffers" time="1.0">
      <failure message="thread 'strict' panicked at x.rs:1&#10;more" type="test failure">noise
thread 'strict' panicked at x.rs:1:
strict: node 1 is full

Stack backtrace:</failure>
    </testcase>
    <testcase name="bar" classname="buffers" time="0.1">
      <system-out>running 1 test
test bar ... SKIP: no BAR here
ok</system-out>
    </testcase>
  </testsuite>
</testsuites>"#;

    fn id(name: &str) -> TestId {
        ("dmaplane-guest-tests::buffers".to_owned(), name.to_owned())
    }

    #[test]
    fn results_are_read() {
        let results = parse(XML).unwrap();
        let ends: Vec<_> = results
            .iter()
            .map(|test| (test.name.as_str(), test.result))
            .collect();
        let want = [
            ("fork", Ended::Passed),
            ("strict", Ended::Failed),
            ("bar", Ended::Skipped),
        ];
        assert_eq!(ends, want);
        assert_eq!(
            results[1].message.as_deref(),
            Some("thread 'strict' panicked at x.rs:1: strict: node 1 is full")
        );
        assert_eq!(results[0].seconds, 0.25);
        assert_eq!(results[2].message.as_deref(), Some("no BAR here"));
    }

    #[test]
    fn half_a_report_is_none() {
        assert!(parse(&XML[..XML.len() / 2]).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn a_test_that_vanished_is_missed() {
        let expected = ["fork", "strict", "bar", "gone"].map(id).into();
        let missing = missing(&expected, &parse(XML).unwrap());
        assert_eq!(missing, ["dmaplane-guest-tests::buffers gone"]);
    }
}
