// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `soak`: everything again and again, with random seeds on random topologies.

mod bound;
mod history;

use std::collections::BTreeMap;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

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
use history::{History, Run};

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
/// Ctrl-C ends with its table, and the next one goes on with the same history.
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

/// A reproducible sequence (splitmix64).
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[(self.next() % all.len() as u64) as usize]
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: SoakArgs) -> Result<ExitCode> {
    let history = History::new(&ctx.cache_sub("soak")?);
    let before = history.read()?;
    if args.table {
        print!("{}", table(&before));
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
    let commit = commit(ctx);
    let start = Instant::now();
    let mut choices = Choices(seed);
    let mut runs = Vec::new();
    while start.elapsed() < time {
        let part = choices.of(&parts).clone();
        let topology = choices.of(&topologies).clone();
        let profile = *choices.of(&profiles);
        let seed = choices.next() >> 32;
        let begun = Instant::now();
        let accel = args.accel.unwrap_or(AccelChoice::Auto);
        let kind = match once(ctx, accel, &part, &topology, profile, seed) {
            Ok(kind) => kind,
            // Ctrl-C: what was run is told all the same.
            Err(err) if exit::number_of(&err) == exit::INTERRUPTED => break,
            Err(err) => return Err(err),
        };
        // The fuzzer has a place of its own.
        let fuzz = part == "fuzz ioctl";
        let run = Run {
            at: history::now(),
            commit: commit.clone(),
            part,
            topology: if fuzz { "numa2".to_owned() } else { topology },
            profile: if fuzz { Profile::Debug } else { profile }
                .name()
                .to_owned(),
            seed,
            exit_code: kind.code(),
            words: kind.words().to_owned(),
            seconds: begun.elapsed().as_secs(),
        };
        history.add(&run)?;
        runs.push(run);
    }
    print!("{}", table(&runs));
    let worst = runs
        .iter()
        .filter(|run| run.failed())
        .map(|run| run.exit_code);
    let code = worst.max().unwrap_or(0);
    let all = history.read()?;
    println!("all runs in {}:", history.path().display());
    println!("{}", rate(&all));
    Ok(ExitCode::from(code))
}

/// One run in guests.
fn once(
    ctx: &Ctx,
    accel: AccelChoice,
    part: &str,
    topology: &str,
    profile: Profile,
    seed: u64,
) -> Result<Kind> {
    if part == "fuzz ioctl" {
        return crate::fuzz::ioctl(ctx, accel, 180, seed);
    }
    let lab = Lab::prepare(ctx, topology, profile, accel, Driver::Loaded)?;
    let mut options = Options {
        seed: Some(seed),
        ..Options::default()
    };
    let purpose = match part {
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
    let filter = PARTS.iter().find(|(name, _)| *name == part);
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

/// The runs by part and place, and what they say together.
fn table(runs: &[Run]) -> String {
    let mut rows: BTreeMap<(&str, &str, &str), (u64, u64, u64)> = BTreeMap::new();
    for run in runs {
        let row = rows
            .entry((&run.part, &run.topology, &run.profile))
            .or_default();
        row.0 += u64::from(run.counts());
        row.1 += u64::from(run.failed());
        row.2 += run.seconds;
    }
    let mut text = format!(
        "\n  {:14} {:8} {:8} {:>6} {:>9} {:>8}\n",
        "part", "topology", "profile", "runs", "failures", "seconds"
    );
    for ((part, topology, profile), (count, failures, seconds)) in rows {
        text += &format!(
            "  {part:14} {topology:8} {profile:8} {count:>6} {failures:>9} {seconds:>8}\n"
        );
    }
    for run in runs.iter().filter(|run| run.failed()) {
        text += &format!(
            "  FAILED: {} on {} {} at {}: {}; seed {}\n",
            run.part, run.topology, run.profile, run.commit, run.words, run.seed
        );
    }
    text + &rate(runs) + "\n"
}

/// What the runs say about the failure rate.
fn rate(runs: &[Run]) -> String {
    let count = runs.iter().filter(|run| run.counts()).count() as u64;
    let failures = runs.iter().filter(|run| run.failed()).count() as u64;
    let seconds: u64 = runs.iter().map(|run| run.seconds).sum();
    format!(
        "soak: {count} runs in {} min, {failures} failed; with 95 % confidence fewer than {:.2} % of such runs fail",
        seconds / 60,
        100.0 * bound::upper(failures, count)
    )
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

    #[test]
    fn a_failure_is_told_with_its_seed() {
        let run = |exit_code| Run {
            at: 1,
            commit: "abc".to_owned(),
            part: "storm".to_owned(),
            topology: "pair".to_owned(),
            profile: "base".to_owned(),
            seed: 4711,
            exit_code,
            words: "SPLAT".to_owned(),
            seconds: 60,
        };
        // A guest that did not boot counts neither way.
        let told = table(&[run(0), run(11), run(14)]);
        assert!(told.contains("seed 4711"), "{told}");
        assert!(told.contains("2 runs in 3 min, 1 failed"), "{told}");
    }
}
