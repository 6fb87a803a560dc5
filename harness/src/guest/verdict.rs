// SPDX-License-Identifier: MIT OR Apache-2.0
//! The judgement of a run: three proofs, and a kind of failure for each that is missing.
//!
//! A run is good when the guests' reports are there and say so, the tests' report is complete, and
//! the consoles are clean. QEMU's exit status proves nothing.

use serde::Serialize;

use crate::exit;
use crate::guest::junit::{Ended, TestResult};
use crate::guest::plan::{Cause, Report};
use crate::guest::scanner::{Finding, Rules};
use crate::guest::session::{End, GuestOutcome, Outcome};

/// Taint bits that a bug sets: bad page, oops, warning, soft lockup.
const TAINT_OF_BUGS: u64 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14;

/// The kind of a verdict, from good to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All proofs are there.
    Ok,
    /// A test or a job failed, or its report is incomplete.
    Tests,
    /// Something was left behind.
    Leak,
    /// Time ran out.
    Hang,
    /// The kernel complained, or died without a word.
    Splat,
    /// Nothing is known: a guest did not boot, or could not be prepared.
    Infrastructure,
}

impl Kind {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Tests => exit::GUEST_TESTS,
            Self::Leak => exit::GUEST_LEAK,
            Self::Hang => exit::GUEST_HANG,
            Self::Splat => exit::GUEST_SPLAT,
            Self::Infrastructure => exit::GUEST_INFRASTRUCTURE,
        }
    }

    /// How it reads after "vm-test numa2 base tcg: ".
    pub fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Tests => "TESTS FAILED",
            Self::Leak => "LEAK",
            Self::Hang => "HANG",
            Self::Splat => "SPLAT",
            Self::Infrastructure => "INFRASTRUCTURE FAILED",
        }
    }
}

/// The judgement.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The worst that was found.
    pub kind: Kind,
    /// Every reason, each with the kind that it alone would give.
    pub reasons: Vec<(Kind, String)>,
    /// What the consoles showed, by guest.
    pub findings: Vec<(String, Finding)>,
    /// What they showed that the list of known bugs excuses.
    pub excused: Vec<(String, Finding)>,
}

/// What the tests said, where tests ran.
#[derive(Clone, Debug, Default)]
pub struct Tests {
    /// All results.
    pub results: Vec<TestResult>,
    /// Tests without a result.
    pub missing: Vec<String>,
    /// Why there is no report at all.
    pub unreadable: Option<String>,
}

impl Tests {
    /// How many tests ended like this.
    pub fn count(&self, end: Ended) -> usize {
        self.results
            .iter()
            .filter(|test| test.result == end)
            .count()
    }
}

/// Judges a run.
pub fn judge(outcome: &Outcome, rules: &Rules, tests: Option<&Tests>) -> Verdict {
    let mut verdict = Verdict {
        kind: Kind::Ok,
        reasons: Vec::new(),
        findings: Vec::new(),
        excused: Vec::new(),
    };
    match &outcome.end {
        End::Off => {}
        End::NotBooted(guest) => {
            // Whatever its console shows happened before anything of ours.
            let said = outcome
                .guest(guest)
                .map_or("", |guest| guest.qemu_said.as_str());
            let said = said
                .lines()
                .last()
                .map(|line| format!("; QEMU said: {line}"));
            let said = said.unwrap_or_default();
            verdict.add(
                Kind::Infrastructure,
                format!("guest {guest} did not boot{said}"),
            );
            return verdict;
        }
        End::TimedOut(guest) => {
            verdict.add(
                Kind::Hang,
                format!("guest {guest} was not off when its time was over"),
            );
        }
    }
    for guest in &outcome.guests {
        verdict.console(guest, rules);
        verdict.report(guest, outcome, rules);
    }
    if let Some(tests) = tests {
        verdict.tests(tests);
    }
    verdict
}

impl Verdict {
    fn add(&mut self, kind: Kind, reason: impl Into<String>) {
        self.kind = self.kind.max(kind);
        self.reasons.push((kind, reason.into()));
    }

    fn console(&mut self, guest: &GuestOutcome, rules: &Rules) {
        if guest.console.trim().is_empty() {
            self.add(
                Kind::Infrastructure,
                format!("guest {} has an empty console", guest.name),
            );
        }
        let scan = rules.scan(&guest.console);
        for finding in &scan.findings {
            self.finding(guest, finding, "its console");
        }
        let excused = scan.excused.iter().cloned();
        let excused = excused.map(|finding| (guest.name.clone(), finding));
        self.excused.extend(excused);
        let Some(report) = &guest.report else { return };
        let new = report.taint_after & !report.taint_before & TAINT_OF_BUGS;
        if new != 0 && scan.findings.is_empty() && scan.excused.is_empty() {
            let what = format!(
                "guest {}: tainted ({new:#x}), and its console hides why",
                guest.name
            );
            self.add(Kind::Splat, what);
        }
    }

    fn finding(&mut self, guest: &GuestOutcome, finding: &Finding, place: &str) {
        let kind = if finding.leak {
            Kind::Leak
        } else {
            Kind::Splat
        };
        let during = finding.test.as_ref().map(|test| format!(", during {test}"));
        let (line, text) = (finding.line, finding.text.trim());
        let during = during.unwrap_or_default();
        // Who reads a log of CI has no artefacts.
        let callers = finding.callers();
        let trace = match callers.is_empty() {
            true => String::new(),
            false => format!("; call trace: {}", callers.join(" < ")),
        };
        self.add(
            kind,
            format!(
                "guest {}, line {line} of {place}{during}: {text}{trace}",
                guest.name
            ),
        );
        self.findings.push((guest.name.clone(), finding.clone()));
    }

    fn report(&mut self, guest: &GuestOutcome, outcome: &Outcome, rules: &Rules) {
        let name = &guest.name;
        let Some(report) = &guest.report else {
            if outcome.end == End::Off {
                // After the runner's first line only the kernel, or someone on the host, can end
                // the guest before its report.
                let killed = guest.qemu.contains("signal");
                let kind = if killed {
                    Kind::Infrastructure
                } else {
                    Kind::Splat
                };
                self.add(
                    kind,
                    format!("guest {name} died: no report (QEMU: {})", guest.qemu),
                );
            }
            return;
        };
        if let Some(failure) = &report.failure {
            let kind = match failure.cause {
                Cause::Setup => Kind::Infrastructure,
                Cause::Limit => Kind::Hang,
                Cause::Driver | Cause::Peer => Kind::Tests,
            };
            self.add(kind, format!("guest {name}: {}", failure.message));
        }
        self.jobs(name, report);
        for leak in &report.leaks {
            self.add(Kind::Leak, format!("guest {name}: {leak}"));
        }
        let kmemleak = report.kmemleak.as_deref().unwrap_or_default();
        for finding in rules.scan(kmemleak).findings {
            self.finding(guest, &finding, "kmemleak's report");
        }
    }

    fn jobs(&mut self, guest: &str, report: &Report) {
        for job in &report.jobs {
            // SIGTERM is how services are stopped.
            if job.code != Some(0) && !(job.service && job.signal == Some(15)) {
                let how = match (job.code, job.signal) {
                    (Some(code), _) => format!("exit code {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "no status".to_owned(),
                };
                self.add(
                    Kind::Tests,
                    format!("guest {guest}: {} ended with {how}", job.name),
                );
            }
        }
    }

    fn tests(&mut self, tests: &Tests) {
        if let Some(why) = &tests.unreadable {
            self.add(Kind::Tests, format!("no complete test report: {why}"));
        }
        for test in tests
            .results
            .iter()
            .filter(|test| test.result == Ended::Failed)
        {
            let message = test.message.as_deref().unwrap_or("no message");
            self.add(
                Kind::Tests,
                format!("{} {}: {message}", test.binary, test.name),
            );
        }
        for test in &tests.missing {
            self.add(Kind::Tests, format!("{test}: no result"));
        }
    }
}

#[cfg(test)]
mod tests;
