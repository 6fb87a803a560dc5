// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `test`: everything, in order, with one table at the end.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::ctx::Ctx;
use crate::kernel::Profile;
use crate::runs::{self, Run};
use crate::setup::{self, Need};
use crate::{exit, ui};

/// The crate whose tests run inside guests.
const GUEST_TESTS: &str = "dmaplane-guest-tests";

/// Runs everything: lint, host tests, guest tests.
///
/// A failing step does not keep the others from running. The exit code is that of the first step
/// that failed.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct TestArgs {
    /// All suites on every topology, and the debug kernel on the other topologies as well, as every night.
    #[arg(long)]
    long: bool,
    /// Only what needs no guest: lint, host tests, documentation tests.
    #[arg(long, conflicts_with = "long")]
    host_only: bool,
    /// Prints the runs of guests as JSON, a job each for a workflow, and runs nothing.
    #[arg(long, conflicts_with = "host_only")]
    matrix: bool,
    /// Writes the table of steps as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One step and how it ended.
#[derive(Serialize)]
struct Step {
    name: String,
    ok: bool,
    /// As `--help` lists them.
    exit_code: u8,
    seconds: f64,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: TestArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let runs = runs::load(&ctx.root, args.long)?;
    if args.matrix {
        println!("{}", serde_json::to_string(&runs)?);
        return Ok(ExitCode::SUCCESS);
    }
    let need = if args.host_only {
        Need::Lint
    } else {
        Need::Everything
    };
    let nextest = setup::ensure(ctx, need)?.nextest;
    let mut steps = Vec::new();
    let mut step = |name: &str, command: &mut Command| -> Result<()> {
        steps.push(run_step(ctx, name, command)?);
        // Ctrl-C goes to the whole process group; what follows is not wanted any more.
        if steps
            .last()
            .is_some_and(|s| s.exit_code == exit::INTERRUPTED)
        {
            return Err(exit::coded(exit::INTERRUPTED, "interrupted"));
        }
        Ok(())
    };
    step(
        "kernel stock",
        xtask(ctx).args(["kernel", "--profile", "stock"]),
    )?;
    // A guest leaves a processor idle at times, and a debug kernel takes a quarter of an hour.
    let _ahead = Ahead::start(ctx)?;
    let mut host = Command::new(nextest);
    host.args([
        "nextest",
        "run",
        "--locked",
        "--workspace",
        "--exclude",
        GUEST_TESTS,
    ]);
    step("host tests", &mut host)?;
    step(
        "doc tests",
        Command::new("cargo").args(["test", "--locked", "--workspace", "--doc"]),
    )?;
    let (late, early): (Vec<_>, Vec<_>) = runs
        .into_iter()
        .partition(|run| run.profile == Profile::Debug);
    if !args.host_only {
        for run in &early {
            step(&run_title(run), &mut run_command(ctx, run))?;
        }
        step(
            "vm-test self-test",
            xtask(ctx).args(["vm-test", "--self-test"]),
        )?;
    }
    // From here on the other kernel is needed: the driver is linted with this machine's own compilers against it.
    step(
        "kernel debug",
        xtask(ctx).args(["kernel", "--profile", "debug"]),
    )?;
    step("lint", xtask(ctx).arg("lint"))?;
    if !args.host_only {
        for run in &late {
            step(&run_title(run), &mut run_command(ctx, run))?;
        }
    }
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&steps)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table(&steps, started.elapsed()));
    Ok(ExitCode::from(verdict(&steps)))
}

fn run_title(run: &Run) -> String {
    format!("vm-test {}", run.title())
}

fn run_command(ctx: &Ctx, run: &Run) -> Command {
    let mut command = xtask(ctx);
    command.args(["vm-test", "--topology", &run.topology]);
    command.args(["--profile", run.profile.name(), "-E", &run.tests]);
    command.args(["--runner", run.runner.name()]);
    command
}

/// Builds the debug kernel while other steps run, with whatever they leave of the processors. The step
/// that needs it waits for the lock of this build, and says what went wrong with it.
struct Ahead(Child);

impl Ahead {
    fn start(ctx: &Ctx) -> Result<Self> {
        let child = xtask(ctx)
            .args(["kernel", "--profile", "debug", "--nice"])
            .current_dir(&ctx.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        child.map(Self).context("cannot build a kernel beside")
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Ctrl-C ends it too, as it is of this process group; killed alone it would leave its make behind.
        if let Err(error) = self.0.wait() {
            eprintln!("cannot wait for the debug kernel: {error}");
        }
    }
}

/// This very program, even when cargo has replaced its file since.
fn xtask(ctx: &Ctx) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("xtask")
        .args((0..ctx.verbose).map(|_| "--verbose"));
    command
}

fn run_step(ctx: &Ctx, name: &str, command: &mut Command) -> Result<Step> {
    ctx.ui.step(format!("test: {name}"));
    let started = Instant::now();
    let status = command
        .current_dir(&ctx.root)
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let exit_code = match (status.code(), status.signal()) {
        (Some(code), _) => own_code(name, code),
        (None, Some(2)) => exit::INTERRUPTED,
        (None, _) => exit::FAILED,
    };
    Ok(Step {
        name: name.to_owned(),
        ok: exit_code == 0,
        exit_code,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Other programs have codes of their own (nextest's failing test is 100); ours are passed on.
fn own_code(name: &str, code: i32) -> u8 {
    let ours = !name.ends_with(" tests");
    match u8::try_from(code) {
        Ok(0) => 0,
        Ok(exit::INTERRUPTED) => exit::INTERRUPTED,
        Ok(code) if ours => code,
        _ => exit::FAILED,
    }
}

fn verdict(steps: &[Step]) -> u8 {
    steps
        .iter()
        .map(|step| step.exit_code)
        .find(|code| *code != 0)
        .unwrap_or(0)
}

fn table(steps: &[Step], total: Duration) -> String {
    let mut text = String::from("\n");
    // Where the minutes went is what one looks for.
    let mut longest: Vec<_> = steps.iter().collect();
    longest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    for step in longest {
        let state = if step.ok {
            "ok".to_owned()
        } else {
            format!("FAILED ({})", step.exit_code)
        };
        let time = ui::duration(Duration::from_secs_f64(step.seconds));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:24} {state:12} {time:>8}", step.name);
    }
    let failed: Vec<_> = steps
        .iter()
        .filter(|s| !s.ok)
        .map(|s| s.name.as_str())
        .collect();
    let total = ui::duration(total);
    let _ = if failed.is_empty() {
        writeln!(text, "test: ok, {} steps in {total}", steps.len())
    } else {
        writeln!(text, "test: FAILED in {total}: {}", failed.join(", "))
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, exit_code: u8) -> Step {
        Step {
            name: name.to_owned(),
            ok: exit_code == 0,
            exit_code,
            seconds: 61.0,
        }
    }

    #[test]
    fn the_first_failure_decides_the_exit_code() {
        assert_eq!(verdict(&[step("a", 0), step("b", 11), step("c", 10)]), 11);
        assert_eq!(verdict(&[step("a", 0)]), 0);
    }

    #[test]
    fn only_our_own_exit_codes_are_passed_on() {
        assert_eq!(own_code("vm-test pair base", 13), 13);
        assert_eq!(own_code("host tests", 100), exit::FAILED);
        assert_eq!(own_code("host tests", 130), exit::INTERRUPTED);
        assert_eq!(own_code("doc tests", 0), 0);
    }

    #[test]
    fn the_table_lists_every_step_and_every_failure() {
        let text = table(
            &[step("a", 0), step("b", 11), step("c", 1)],
            Duration::from_secs(183),
        );
        assert!(text.contains("FAILED (11)"), "{text}");
        assert!(text.contains("1m01s"), "{text}");
        assert!(text.ends_with("test: FAILED in 3m03s: b, c\n"), "{text}");
        let good = table(&[step("a", 0)], Duration::from_secs(61));
        assert!(good.ends_with("test: ok, 1 steps in 1m01s\n"), "{good}");
    }
}
