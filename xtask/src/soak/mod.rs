// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `soak`: everything again and again, with random seeds on random topologies.

mod bound;
mod history;
mod parts;
mod repeat;
mod report;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::vm::random;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::accel::AccelChoice;
use dmaplane_vmtest::guest::topology::Topology;
use dmaplane_vmtest::interrupt;
use dmaplane_vmtest::kernel::Profile;
use history::History;
use parts::PARTS;
use repeat::{Choices, Everything, IN_VAIN, Stopped, repeat};
use report::Report;

/// Repeats everything with random seeds and topologies, and keeps a history of it.
///
/// Each run is one part of everything: some suites, the faults, the races or the fuzzer of system
/// calls in guests, or a fuzzer on this machine; with --topology or --profile, only what runs
/// there. The history of all runs on this machine is a file in the cache; a soak that is stopped by
/// Ctrl-C ends with its table, and the next one goes on with the same history. A run that gave no
/// result, for example because its guest did not boot, is listed; the exit code is then 14 unless
/// another run failed. Ten such runs in a row end the soak.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct SoakArgs {
    /// How long.
    #[arg(long, value_name = "HOURS", conflicts_with = "minutes")]
    hours: Option<f64>,
    /// How long.
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// Where the choice of parts and seeds starts.
    #[arg(long)]
    seed: Option<u64>,
    /// Only on this topology.
    #[arg(long, value_name = "NAME")]
    topology: Option<String>,
    /// Only on this kernel.
    #[arg(long, value_enum)]
    profile: Option<Profile>,
    /// Only this part.
    #[arg(long, value_name = "NAME")]
    part: Option<String>,
    /// What executes the guests.
    #[arg(long, value_enum)]
    accel: Option<AccelChoice>,
    /// Prints the history's table and runs nothing.
    #[arg(long)]
    table: bool,
    /// Writes everything as JSON: exit code, seed, runs, failures, the bound. With --table, of the
    /// history.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: SoakArgs) -> Result<ExitCode> {
    let history = History::new(&ctx.cache_sub("soak")?);
    let before = history.read()?;
    if args.table {
        print!("{}", report::table(&before));
        if let Some(json) = &args.json {
            Report::new(history.path(), &before).write(json)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let minutes = args.minutes.or(args.hours.map(|hours| hours * 60.0));
    let time = Duration::from_secs_f64(minutes.unwrap_or(60.0).max(0.0) * 60.0);
    let seed = match args.seed {
        Some(seed) => seed,
        None => random()?,
    };
    let topologies = chosen(
        "topology",
        Topology::all(&ctx.root)?
            .into_iter()
            .map(|topology| topology.name),
        args.topology.as_deref(),
    )?;
    let parts = chosen(
        "part",
        PARTS.iter().map(|part| part.name.to_owned()),
        args.part.as_deref(),
    )?;
    let parts: Vec<_> = PARTS
        .iter()
        .filter(|part| parts.iter().any(|name| name == part.name))
        .filter(|part| part.fits(args.topology.as_deref(), args.profile))
        .collect();
    if parts.is_empty() {
        return Err(exit::coded(
            exit::FAILED,
            "this part does not run there: it has a topology and a profile of its own, or needs a kernel that can inject \
             faults (--profile base or debug); leave --topology and --profile out",
        ));
    }
    let profiles = match args.profile {
        Some(profile) => vec![profile],
        None => vec![Profile::Stock, Profile::Stock, Profile::Debug],
    };
    interrupt::notice()?;
    ctx.ui.step(format!(
        "soaking for {} min from seed {seed}; history: {}",
        time.as_secs() / 60,
        history.path().display()
    ));
    let everything = Everything {
        parts,
        topologies,
        profiles,
        choices: Choices(seed),
    };
    let commit = commit(ctx);
    let accel = args.accel.unwrap_or(AccelChoice::Auto);
    let mut runs = Vec::new();
    let stopped = repeat(
        time,
        everything,
        |chosen| {
            interrupt::check()?;
            let ended = chosen.part.run(ctx, accel, chosen);
            // Ctrl-C also ends builds, whose failure then means nothing.
            ended.or_else(|err| interrupt::check().and(Err(err)))
        },
        |chosen, ended, seconds| {
            if ended.exit_code == exit::GUEST_INFRASTRUCTURE {
                ctx.ui.warn(format!(
                    "no result of {} on {}: {}",
                    chosen.part.name, chosen.place, ended.words
                ));
            }
            let run = ended.run(&commit, chosen, seconds);
            let written = history.add(&run);
            runs.push(run);
            written
        },
    );
    if matches!(stopped, Stopped::InVain) {
        ctx.ui.warn(format!(
            "{IN_VAIN} runs in a row gave no result; the soak ends here"
        ));
    }
    print!("{}", report::table(&runs));
    let verdict = repeat::verdict(&runs, stopped);
    if let Some(json) = &args.json {
        let report = Report {
            exit_code: verdict.as_ref().map_or_else(exit::number_of, |code| *code),
            error: verdict.as_ref().err().map(|err| format!("{err:#}")),
            seed: Some(seed),
            ..Report::new(history.path(), &runs)
        };
        report.write(json)?;
    }
    let all = history.read()?;
    println!("all runs in {}:", history.path().display());
    println!("{}", report::rate(&all));
    Ok(ExitCode::from(verdict?))
}

/// Those that the user wants; an unknown name lists those that exist.
fn chosen(
    what: &str,
    all: impl Iterator<Item = String>,
    wanted: Option<&str>,
) -> Result<Vec<String>> {
    let all: Vec<String> = all.collect();
    match wanted {
        None => Ok(all),
        Some(name) if all.iter().any(|other| other == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(exit::coded(
            exit::FAILED,
            format!("no {what} {name:?}; there are: {}", all.join(", ")),
        )),
    }
}

fn commit(ctx: &Ctx) -> String {
    let mut git = Command::new("git");
    git.args(["rev-parse", "--short", "HEAD"])
        .current_dir(&ctx.root);
    let said = dmaplane_vmtest::exec::output(&mut git);
    said.map_or_else(|_| "unknown".to_owned(), |said| said.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_those_that_exist() {
        let all = || ["storm", "many"].map(str::to_owned).into_iter();
        let err = chosen("part", all(), Some("strom"))
            .unwrap_err()
            .to_string();
        assert!(err.contains("storm, many"), "{err}");
        assert_eq!(chosen("part", all(), Some("many")).unwrap(), ["many"]);
        assert_eq!(chosen("part", all(), None).unwrap().len(), 2);
    }
}
