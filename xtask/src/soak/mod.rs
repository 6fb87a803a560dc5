// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `soak`: everything again and again, with random seeds on random topologies.

mod bound;
mod history;
mod repeat;
mod told;

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::ctx::Ctx;
use crate::exit;
use crate::faults::{self, Purpose};
use crate::guest::accel::AccelChoice;
use crate::guest::cli::{self, Options, random};
use crate::guest::session::{Driver, Lab};
use crate::guest::suite::Selection;
use crate::guest::topology::Topology;
use crate::guest::verdict::Kind;
use crate::kernel::Profile;
use history::History;
use repeat::{Choices, Chosen, Everything, IN_VAIN, Stopped, repeat};

/// Parts of everything, each of which takes minutes.
const PARTS: &[(&str, &str)] = &[
    (
        "basics",
        "binary(buffer) | binary(channel) | binary(endpoint) | binary(copy)",
    ),
    (
        "transfer",
        "binary(transfer) | binary(transfer_bounds) | binary(operations)",
    ),
    (
        "ends",
        "binary(ending) | binary(revoke) | binary(death) | binary(windows) | binary(races)",
    ),
    ("death steps", "binary(death_steps)"),
    ("late write", "binary(late_write)"),
    ("hostile", "binary(hostile) | binary(channel_hostile)"),
    ("storm", "binary(storm)"),
    ("many", "binary(many) | binary(module) | binary(numa)"),
    ("network", "binary(network)"),
];

/// Repeats everything with random seeds and topologies, and keeps a history of it.
///
/// Each run is one guest with one part of the suites, the faults, the races or the fuzzer of system
/// calls. The history of all runs on this machine is a file in the cache; a soak that is stopped by
/// Ctrl-C ends with its table, and the next one goes on with the same history. A run that gave no
/// result, as its guest did not boot, is told and makes exit code 14 unless another one failed; ten
/// in a row end the soak.
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
    /// What guests run on.
    #[arg(long, value_enum)]
    accel: Option<AccelChoice>,
    /// Prints the history's table and runs nothing.
    #[arg(long)]
    table: bool,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: SoakArgs) -> Result<ExitCode> {
    let history = History::new(&ctx.cache_sub("soak")?);
    let before = history.read()?;
    if args.table {
        print!("{}", told::table(&before));
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
        PARTS
            .iter()
            .map(|(name, _)| *name)
            .chain(["faults", "race table", "fuzz ioctl"])
            .map(str::to_owned),
        args.part.as_deref(),
    )?;
    let profiles = match args.profile {
        Some(profile) => vec![profile],
        None => vec![Profile::Base, Profile::Base, Profile::Debug],
    };
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
        |chosen| once(ctx, accel, chosen),
        |chosen, ended, seconds| {
            if ended.exit_code == exit::GUEST_INFRASTRUCTURE {
                ctx.ui.warn(format!(
                    "no result of {} on {} {}: {}",
                    chosen.part,
                    chosen.topology,
                    chosen.profile.name(),
                    ended.words
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
    print!("{}", told::table(&runs));
    let all = history.read()?;
    println!("all runs in {}:", history.path().display());
    println!("{}", told::rate(&all));
    Ok(ExitCode::from(repeat::verdict(&runs, stopped)?))
}

/// One run in guests.
fn once(ctx: &Ctx, accel: AccelChoice, chosen: &Chosen) -> Result<Kind> {
    if chosen.part == "fuzz ioctl" {
        return crate::fuzz::ioctl(ctx, accel, 180, chosen.seed);
    }
    let lab = Lab::prepare(ctx, &chosen.topology, chosen.profile, accel, Driver::Loaded)?;
    let mut options = Options {
        seed: Some(chosen.seed),
        ..Options::default()
    };
    let purpose = match chosen.part.as_str() {
        "faults" => Some(Purpose::Faults),
        "race table" => Some(Purpose::Races),
        _ => None,
    };
    if let Some(purpose) = purpose {
        // A part of the full length: minutes and not an hour.
        let fewer = ("DMAPLANE_ITERATIONS".to_owned(), "50".to_owned());
        options.selection.env.extend([fewer]);
        return faults::run(ctx, &lab, purpose, options);
    }
    let filter = PARTS.iter().find(|(name, _)| *name == chosen.part);
    options.selection = Selection {
        filter: filter.map(|(_, filter)| (*filter).to_owned()),
        ..Selection::default()
    };
    cli::test(ctx, &lab, &options)
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
    let said = crate::exec::output(&mut git);
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
