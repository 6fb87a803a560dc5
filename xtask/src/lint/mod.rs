// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `lint`: every check runs, and everything that failed is listed together at the end.

mod faults;
mod panics;
mod rooms;
pub(crate) mod source;

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::kernel::{self, Profile};
use dmaplane_vmtest::setup::{self, Need, Tools};
use dmaplane_vmtest::{driver, exec, exit, ui};

/// Checks formatting, lints, documentation, licences, headers and house rules.
///
/// All checks run; what failed is listed together at the end.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct LintArgs {
    /// Only the checks whose names contain this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Prints the results as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Passed,
    Failed,
    /// Not run, for the reason that its message gives.
    Skipped,
}

/// One check's result.
#[derive(Serialize)]
struct Report {
    name: &'static str,
    outcome: Outcome,
    seconds: f64,
    /// What it found, or why it did not run.
    message: String,
}

/// The result of a check that could run.
enum Verdict {
    Clean,
    Skip(String),
    /// Findings, as text.
    Dirty(String),
}

type Check = fn(&Ctx, &Tools) -> Result<Verdict>;

const CHECKS: &[(&str, Check)] = &[
    ("source rules", source::check),
    ("rooms", rooms::check),
    ("rustfmt", rustfmt),
    ("rustfmt of the driver", rustfmt_driver),
    ("clippy", clippy),
    ("clippy of the driver", clippy_driver),
    ("panic paths of the driver", panics::check),
    ("faults left out of the driver", faults::check),
    ("rustdoc", rustdoc),
    ("cargo-deny", deny),
    ("UAPI header", uapi_header),
    ("actionlint", actionlint),
];

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: LintArgs) -> Result<ExitCode> {
    let reports = reports(ctx, args.only.as_deref())?;
    if reports.is_empty() {
        let names: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
        return Err(exit::coded(
            2,
            format!("no such check; there are: {}", names.join(", ")),
        ));
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    summarize(&reports)
}

fn reports(ctx: &Ctx, only: Option<&str>) -> Result<Vec<Report>> {
    let tools = setup::ensure(ctx, Need::Lint)?;
    let chosen = CHECKS
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| name.contains(only)));
    let mut reports = Vec::new();
    for (name, check) in chosen {
        ctx.ui.step(format!("lint: {name}"));
        let started = Instant::now();
        // A check that could not run has not passed.
        let verdict = check(ctx, &tools).unwrap_or_else(|err| Verdict::Dirty(format!("{err:#}")));
        let (outcome, message) = match verdict {
            Verdict::Clean => (Outcome::Passed, String::new()),
            Verdict::Skip(why) => (Outcome::Skipped, why),
            Verdict::Dirty(what) => (Outcome::Failed, what),
        };
        reports.push(Report {
            name,
            outcome,
            seconds: started.elapsed().as_secs_f64(),
            message,
        });
    }
    Ok(reports)
}

fn summarize(reports: &[Report]) -> Result<ExitCode> {
    for report in reports.iter().filter(|r| r.outcome == Outcome::Failed) {
        eprintln!("\n---- {} ----\n{}", report.name, report.message.trim_end());
    }
    eprintln!();
    for report in reports {
        let seconds = ui::duration(std::time::Duration::from_secs_f64(report.seconds));
        match report.outcome {
            Outcome::Passed => eprintln!("  ok      {:24} {seconds}", report.name),
            Outcome::Skipped => eprintln!("  skipped {:24} {}", report.name, report.message),
            Outcome::Failed => eprintln!("  FAILED  {:24} {seconds}", report.name),
        }
    }
    let failed: Vec<_> = reports
        .iter()
        .filter(|r| r.outcome == Outcome::Failed)
        .map(|r| r.name)
        .collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(exit::coded(
        exit::FAILED,
        format!("lint failed: {}", failed.join(", ")),
    ))
}

/// Runs a command; its output is the finding when it fails.
fn judge(ctx: &Ctx, command: &mut Command) -> Result<Verdict> {
    ctx.ui.detail(format!("{command:?}"));
    let out = command
        .current_dir(&ctx.root)
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if out.status.success() {
        return Ok(Verdict::Clean);
    }
    let text = [out.stdout, out.stderr].concat();
    Ok(Verdict::Dirty(String::from_utf8_lossy(&text).into_owned()))
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).args(["--color", "never"]);
    command
}

fn rustfmt(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    // cargo fmt has no --color of its own.
    judge(ctx, Command::new("cargo").args(["fmt", "--all", "--check"]))
}

/// The driver is formatted as the kernel formats its own Rust code.
///
/// Each file is given on stdin: rustfmt would otherwise follow the modules that the driver includes by
/// path, which belong to the workspace and its style.
fn rustfmt_driver(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let kernel = kernel::ensure(ctx, Profile::Debug)?;
    let config = kernel.source.join(".rustfmt.toml");
    let mut found = String::new();
    let files = source::tracked(ctx)?;
    for name in files
        .iter()
        .filter(|f| f.starts_with("driver/") && f.ends_with(".rs"))
    {
        let Ok(file) = File::open(ctx.root.join(name)) else {
            continue;
        };
        found += &unformatted(file, &config)?.replace("<stdin>", name);
    }
    Ok(if found.is_empty() {
        Verdict::Clean
    } else {
        Verdict::Dirty(found)
    })
}

/// What rustfmt would change in a file of the kernel's edition. Only the output says so: on stdin its `--check` exits
/// with 0 whatever it finds (`findings/rustfmt-check-passes-on-stdin.sh`).
fn unformatted(file: File, config: &Path) -> Result<String> {
    let out = Command::new("rustfmt")
        .args(["--check", "--edition", "2021", "--config-path"])
        .arg(config)
        .stdin(file)
        .output()
        .context("cannot start rustfmt")?;
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    if text.is_empty() && !out.status.success() {
        bail!("rustfmt fails without output: {}", out.status);
    }
    Ok(text)
}

fn clippy(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let mut command = cargo(&["clippy", "--workspace", "--all-targets", "--locked"]);
    command.arg("--keep-going");
    judge(ctx, command.args(["--", "-D", "warnings"]))
}

fn clippy_driver(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    driver::clippy(ctx, Profile::Debug)?;
    Ok(Verdict::Clean)
}

fn rustdoc(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    command
        .arg("--document-private-items")
        .env("RUSTDOCFLAGS", "-D warnings");
    judge(ctx, &mut command)
}

/// Advisories are left to the workflow, which has the network for their database.
fn deny(ctx: &Ctx, tools: &Tools) -> Result<Verdict> {
    let mut command = Command::new(&tools.deny);
    command.args(["--color", "never", "--workspace", "--locked"]);
    command.args(["check", "licenses", "bans", "sources"]);
    judge(ctx, &mut command)
}

fn uapi_header(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--locked", "--package", "dmaplane-uapi"]);
    command.args([
        "--features",
        "header",
        "--bin",
        "uapi-header",
        "--",
        "--check",
    ]);
    judge(ctx, &mut command)
}

fn actionlint(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    match exec::which("actionlint") {
        Some(path) => judge(ctx, &mut Command::new(path)),
        None => Ok(Verdict::Skip("actionlint is not installed".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &'static str, outcome: Outcome) -> Report {
        Report {
            name,
            outcome,
            seconds: 0.1,
            message: "what".to_owned(),
        }
    }

    #[test]
    fn rustfmt_finds_what_is_not_formatted() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join(".rustfmt.toml");
        std::fs::write(&config, "edition = \"2021\"\n").unwrap();
        let look = |text: &str| {
            let path = dir.path().join("file.rs");
            std::fs::write(&path, text).unwrap();
            unformatted(File::open(path).unwrap(), &config).unwrap()
        };
        assert_eq!(look("fn main() {}\n"), "");
        assert!(look("fn  main( ) {}\n").contains("fn main() {}"));
        assert!(!look("fn main( {").is_empty());
    }

    #[test]
    fn all_failures_are_named_together() {
        let reports = [
            report("a", Outcome::Failed),
            report("b", Outcome::Passed),
            report("c", Outcome::Skipped),
            report("d", Outcome::Failed),
        ];
        let err = summarize(&reports).unwrap_err();
        assert_eq!(err.to_string(), "lint failed: a, d");
        assert_eq!(exit::number_of(&err), exit::FAILED);
        assert!(summarize(&reports[1..3]).is_ok());
    }
}
