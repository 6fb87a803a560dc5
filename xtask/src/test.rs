// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `test`: everything, in two lanes of steps side by side, with one table at the end.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::runs::{self, Run};
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::kernel::Profile;
use dmaplane_vmtest::setup::{self, Need};
use dmaplane_vmtest::{exit, ui};

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

/// Rows of vm/runs.toml that take long, the first ones.
const LONG_ROWS: usize = 2;

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
        Need::Tests
    };
    let nextest = setup::ensure(ctx, need)?.nextest;
    let mut host = Command::new(nextest);
    host.args([
        "nextest",
        "run",
        "--locked",
        "--workspace",
        "--exclude",
        GUEST_TESTS,
    ]);
    let mut documents = Command::new("cargo");
    documents.args(["test", "--locked", "--workspace", "--doc"]);
    let (late, early): (Vec<_>, Vec<_>) = runs
        .into_iter()
        .partition(|run| run.profile == Profile::Debug);
    let kernel = |name: &str| {
        let mut command = xtask(ctx);
        command.args(["kernel", "--profile", name]);
        command
    };
    // Lint needs the debug kernel: the driver is linted with this machine's own compilers against it.
    let mut lint = xtask(ctx);
    lint.arg("lint");
    // Both kernels come from the same source, which is fetched once.
    let stock = vec![Planned::new("kernel stock", kernel("stock"))];
    let mut steps = lane(ctx, stock, &Mutex::default(), |step| run_step(ctx, step))?;
    let mut debug = kernel("debug");
    debug.arg("--nice");
    // What waits for nothing, for whichever lane is free; the long ones first.
    let mut shared = vec![
        Planned::new("host tests", host),
        Planned::new("doc tests", documents),
    ];
    let mut beside = vec![Planned::new("kernel debug", debug)];
    if args.host_only {
        shared.push(Planned::new("lint", lint));
    } else {
        let mut check = xtask(ctx);
        check.args(["vm-test", "--self-test"]);
        // Lint goes behind the long rows, when the debug kernel is there, which it wants.
        let (long, short) = early.split_at(LONG_ROWS.min(early.len()));
        let rows = |runs: &[Run]| -> Vec<_> {
            runs.iter()
                .map(|run| Planned::run(ctx, run, args.long))
                .collect()
        };
        shared.extend(rows(long));
        shared.push(Planned::new("lint", lint));
        shared.extend(rows(short));
        shared.push(Planned::new("vm-test self-test", check));
        beside.extend(late.iter().map(|run| Planned::run(ctx, run, args.long)));
    }
    steps.extend(in_two_lanes(ctx, beside, shared)?);
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&steps)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table(&steps, started.elapsed()));
    Ok(ExitCode::from(verdict(&steps)))
}

/// A step that is still to be run.
struct Planned {
    name: String,
    command: Command,
}

impl Planned {
    fn new(name: &str, command: Command) -> Self {
        Self {
            name: name.to_owned(),
            command,
        }
    }

    fn run(ctx: &Ctx, run: &Run, long: bool) -> Self {
        let mut command = run_command(ctx, run);
        if long {
            command.arg("--long");
        }
        Self::new(&run_title(run), command)
    }
}

/// Runs steps in two lanes side by side: an emulated guest leaves processors idle, which build a kernel or run another
/// guest meanwhile. The second lane runs `beside` in order; whichever lane has nothing of its own takes the next of
/// `shared`. What the second lane prints appears when its step is over.
fn in_two_lanes(ctx: &Ctx, beside: Vec<Planned>, shared: Vec<Planned>) -> Result<Vec<Step>> {
    let log = ctx.log_dir()?;
    let shared = Mutex::new(VecDeque::from(shared));
    std::thread::scope(|scope| {
        let beside = scope.spawn(|| {
            let hidden = |step: &mut Planned| {
                let path = log.join(format!("test-{}.log", step.name.replace(' ', "-")));
                let file = File::create(&path)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                step.command.stdout(file.try_clone()?).stderr(file);
                let done = run_step(ctx, step);
                let text = fs::read(&path).context("the step's log")?;
                eprintln!("==> test: {}, which ran beside the others:", step.name);
                std::io::stdout().lock().write_all(&text)?;
                done
            };
            lane(ctx, beside, &shared, hidden)
        });
        let front = lane(ctx, Vec::new(), &shared, |step| run_step(ctx, step));
        let beside = beside.join();
        let mut steps = front?;
        steps.extend(beside.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        Ok(steps)
    })
}

/// Runs steps one after the other, also after one that failed: its own, then those that nobody has taken.
fn lane(
    ctx: &Ctx,
    own: Vec<Planned>,
    shared: &Mutex<VecDeque<Planned>>,
    run: impl Fn(&mut Planned) -> Result<Step>,
) -> Result<Vec<Step>> {
    let take = || shared.lock().ok()?.pop_front();
    let forget = || {
        if let Ok(mut shared) = shared.lock() {
            shared.clear();
        }
    };
    let mut own = own.into_iter();
    let mut steps = Vec::new();
    while let Some(mut planned) = own.next().or_else(take) {
        ctx.ui.step(format!("test: {}", planned.name));
        let step = run(&mut planned).inspect_err(|_| forget())?;
        // Ctrl-C goes to the whole process group; what follows is not wanted any more, in the other lane either.
        if step.exit_code == exit::INTERRUPTED {
            forget();
            return Err(exit::coded(exit::INTERRUPTED, "interrupted"));
        }
        steps.push(step);
    }
    Ok(steps)
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

/// This very program, even when cargo has replaced its file since.
fn xtask(ctx: &Ctx) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("xtask")
        .args((0..ctx.verbose).map(|_| "--verbose"));
    command
}

fn run_step(ctx: &Ctx, step: &mut Planned) -> Result<Step> {
    let started = Instant::now();
    let status = step
        .command
        .current_dir(&ctx.root)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", step.command.get_program().display()))?;
    let exit_code = match (status.code(), status.signal()) {
        (Some(code), _) => own_code(&step.name, code),
        (None, Some(2)) => exit::INTERRUPTED,
        (None, _) => exit::FAILED,
    };
    Ok(Step {
        name: step.name.clone(),
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
