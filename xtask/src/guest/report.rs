// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a suite's run is told: to a person in a few lines, to a machine as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::ctx::Ctx;
use crate::guest::accel::Accel;
use crate::guest::junit::{Ended, TestResult};
use crate::guest::plan::Report;
use crate::guest::session::Lab;
use crate::guest::suite::SuiteRun;
use crate::guest::verdict::{Kind, Verdict};
use crate::guest::vng::Runner;
use crate::kernel::Profile;

/// How many reasons a person gets to read; the file has all.
const REASONS: usize = 20;

/// What `--json` writes.
#[derive(Serialize)]
struct Told<'a> {
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
    guests: Vec<GuestTold<'a>>,
    /// The folder with consoles, JUnit, configuration and command lines, if it was kept.
    artefacts: Option<PathBuf>,
}

#[derive(Serialize)]
struct KernelName<'a> {
    release: &'a str,
    key: &'a str,
}

#[derive(Serialize)]
struct GuestTold<'a> {
    name: &'a str,
    report: &'a Option<Report>,
    qemu_command: &'a str,
    qemu_ended: &'a str,
}

/// What to do with a run's results.
#[derive(Clone, Debug, Default)]
pub(crate) struct Telling {
    /// Where to write everything as JSON.
    pub(crate) json: Option<PathBuf>,
    /// Whether to keep the artefacts of a good run too.
    pub(crate) keep: bool,
}

/// Prints the verdict, keeps the artefacts, writes the JSON.
pub(crate) fn tell(
    ctx: &Ctx,
    lab: &Lab,
    run: &mut SuiteRun,
    seed: u64,
    telling: &Telling,
) -> Result<Kind> {
    let kind = run.verdict.kind;
    let excused = &run.verdict.excused;
    let artefacts = if kind == Kind::Ok && !telling.keep && excused.is_empty() {
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
    println!("{}", line(lab, run));
    let text = json(lab, run, seed, artefacts.clone())?;
    if let Some(path) = &artefacts {
        write(&path.join("result.json"), &text)?;
    }
    if let Some(path) = &telling.json {
        write(path, &text)?;
    }
    Ok(kind)
}

/// `vm-test numa2 base tcg: ok, 42 passed, 0 failed, 3 skipped in 95 s`.
fn line(lab: &Lab, run: &SuiteRun) -> String {
    format!(
        "vm-test {}: {}, {} passed, {} failed, {} skipped in {} s",
        lab.title(),
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

fn json(lab: &Lab, run: &SuiteRun, seed: u64, artefacts: Option<PathBuf>) -> Result<String> {
    let told = Told {
        exit_code: run.verdict.kind.code(),
        verdict: &run.verdict,
        topology: &lab.topology.name,
        profile: lab.profile,
        accel: lab.accel,
        runner: lab.runner(),
        kernel: KernelName {
            release: &lab.kernel().release,
            key: &lab.kernel().key,
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
            .map(|guest| GuestTold {
                name: &guest.name,
                report: &guest.report,
                qemu_command: &guest.command_line,
                qemu_ended: &guest.qemu,
            })
            .collect(),
        artefacts,
    };
    Ok(serde_json::to_string_pretty(&told)? + "\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
