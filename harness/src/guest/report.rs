// SPDX-License-Identifier: MIT OR Apache-2.0
//! The report of a suite's run: a few lines for people, JSON for machines.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::ctx::Ctx;
use crate::guest::accel::Accel;
use crate::guest::junit::{Ended, TestResult};
use crate::guest::plan::Report;
use crate::guest::session::TestEnv;
use crate::guest::suite::SuiteRun;
use crate::guest::verdict::{Kind, Verdict};
use crate::guest::vng::Runner;
use crate::kernel::Profile;

/// How many reasons are printed; the file has all.
const REASONS: usize = 20;

/// What `--json` writes.
#[derive(Serialize)]
struct RunReport<'a> {
    exit_code: u8,
    verdict: &'a Verdict,
    topology: &'a str,
    profile: Profile,
    accel: Accel,
    runner: Runner,
    kernel: KernelName<'a>,
    seed: u64,
    seconds: f64,
    failed_boots: u32,
    passed: usize,
    failed: usize,
    skipped: usize,
    tests: &'a [TestResult],
    missing: &'a [String],
    guests: Vec<GuestReport<'a>>,
    /// The folder with consoles, JUnit, configuration and command lines, if it was kept.
    artefacts: Option<PathBuf>,
}

#[derive(Serialize)]
struct KernelName<'a> {
    release: &'a str,
    key: &'a str,
}

#[derive(Serialize)]
struct GuestReport<'a> {
    name: &'a str,
    report: &'a Option<Report>,
    qemu_command: &'a str,
    qemu_ended: &'a str,
}

/// What to do with a run's results.
#[derive(Clone, Debug, Default)]
pub struct Reporting {
    /// Where to write everything as JSON.
    pub json: Option<PathBuf>,
    /// Whether to keep the artefacts of a good run too.
    pub keep: bool,
}

/// Prints the verdict, keeps the artefacts, writes the JSON.
pub fn emit(
    ctx: &Ctx,
    test_env: &TestEnv,
    run: &mut SuiteRun,
    seed: u64,
    reporting: &Reporting,
) -> Result<Kind> {
    let kind = run.verdict.kind;
    let excused = &run.verdict.excused;
    let artefacts = if kind == Kind::Ok && !reporting.keep && excused.is_empty() {
        None
    } else {
        Some(run.outcome.dir.keep(ctx)?)
    };
    for line in &run.summary {
        println!("{line}");
    }
    for (kind, reason) in run.verdict.reasons.iter().take(REASONS) {
        println!("  {}: {reason}", kind.words());
    }
    if run.verdict.reasons.len() > REASONS {
        println!("  and {} more", run.verdict.reasons.len() - REASONS);
    }
    for (guest, finding) in &run.verdict.excused {
        println!(
            "  excused by vm/splats/allow.toml: guest {guest}, line {}: {}",
            finding.line,
            finding.text.trim()
        );
    }
    if let Some(path) = &artefacts {
        if kind == Kind::Infrastructure {
            print_last_lines(run);
        }
        println!("  artefacts: {}", path.display());
    }
    println!("{}", line(test_env, run));
    let text = json(test_env, run, seed, artefacts.clone())?;
    if let Some(path) = &artefacts {
        write(&path.join("result.json"), &text)?;
    }
    if let Some(path) = &reporting.json {
        write(path, &text)?;
    }
    Ok(kind)
}

/// `vm-test numa2 base tcg: ok, 42 passed, 0 failed, 3 skipped in 95 s`.
fn line(test_env: &TestEnv, run: &SuiteRun) -> String {
    format!(
        "vm-test {}: {}, {} passed, {} failed, {} skipped in {} s",
        test_env.title(),
        run.verdict.kind.words(),
        run.tests.count(Ended::Passed),
        run.tests.count(Ended::Failed) + run.tests.missing.len(),
        run.tests.count(Ended::Skipped),
        run.outcome.time.as_secs(),
    )
}

fn print_last_lines(run: &SuiteRun) {
    for guest in run
        .outcome
        .guests
        .iter()
        .filter(|guest| guest.report.is_none())
    {
        let lines: Vec<_> = guest.console.lines().collect();
        println!("  the last lines of guest {}'s console:", guest.name);
        for line in &lines[lines.len().saturating_sub(15)..] {
            println!("    {line}");
        }
    }
}

fn json(
    test_env: &TestEnv,
    run: &SuiteRun,
    seed: u64,
    artefacts: Option<PathBuf>,
) -> Result<String> {
    let report = RunReport {
        exit_code: run.verdict.kind.code(),
        verdict: &run.verdict,
        topology: &test_env.topology.name,
        profile: test_env.profile,
        accel: test_env.accel,
        runner: test_env.runner(),
        kernel: KernelName {
            release: &test_env.kernel().release,
            key: &test_env.kernel().key,
        },
        seed,
        seconds: run.outcome.time.as_secs_f64(),
        failed_boots: run.outcome.failed_boots,
        passed: run.tests.count(Ended::Passed),
        failed: run.tests.count(Ended::Failed) + run.tests.missing.len(),
        skipped: run.tests.count(Ended::Skipped),
        tests: &run.tests.results,
        missing: &run.tests.missing,
        guests: run
            .outcome
            .guests
            .iter()
            .map(|guest| GuestReport {
                name: &guest.name,
                report: &guest.report,
                qemu_command: &guest.command_line,
                qemu_ended: &guest.qemu,
            })
            .collect(),
        artefacts,
    };
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
