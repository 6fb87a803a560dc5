// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `fuzz`: what the driver reads from peers and from user space, fed with whatever reaches new code.

mod guest;
mod host;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::ctx::Ctx;
use crate::exit;
use crate::guest::accel::AccelChoice;

/// What to fuzz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Greetings and control messages of a hostile peer, on the host.
    Wire,
    /// Ring indices, entries, ranges and operations of a hostile process, on the host.
    Ring,
    /// System calls and ring entries, in a guest whose kernel tells its coverage.
    Ioctl,
}

/// What a fuzzer on the host came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing that breaks.
    Nothing,
    /// An input that breaks something, which is told and kept.
    Crash,
}

/// Fuzzes for a time. What reaches new code is kept with --save; what breaks something ends the run.
///
/// `wire` and `ring` run libFuzzer on logic/ on this machine, with the ordinary toolchain. `ioctl`
/// runs in a guest of the debug profile, whose driver is built with coverage.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct FuzzArgs {
    /// What to fuzz.
    target: Target,
    /// How long.
    #[arg(long, default_value_t = 5, value_name = "MINUTES")]
    minutes: u64,
    /// Where the random choices start.
    #[arg(long)]
    seed: Option<u64>,
    /// Puts what reached new code into the corpus in the checkout.
    #[arg(long)]
    save: bool,
    /// What guests run on.
    #[arg(long, value_enum)]
    accel: Option<AccelChoice>,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: FuzzArgs) -> Result<ExitCode> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => crate::guest::cli::random()?,
    };
    let target = match args.target {
        Target::Wire => "wire",
        Target::Ring => "ring",
        Target::Ioctl => {
            let accel = args.accel.unwrap_or(AccelChoice::Auto);
            let kind = guest::run(ctx, accel, args.minutes * 60, seed, args.save)?;
            return Ok(ExitCode::from(kind.code()));
        }
    };
    let found = host::run(ctx, target, args.minutes * 60, seed, args.save)?;
    Ok(ExitCode::from(match found {
        Found::Nothing => 0,
        Found::Crash => exit::FAILED,
    }))
}

/// Runs a fuzzer on the host for so many seconds, as a part of something larger.
pub(crate) fn host(ctx: &Ctx, target: &str, seconds: u64, seed: u64) -> Result<Found> {
    host::run(ctx, target, seconds, seed, false)
}

/// Runs the fuzzer of system calls for so many seconds, as a part of something larger.
pub(crate) fn ioctl(
    ctx: &Ctx,
    accel: AccelChoice,
    seconds: u64,
    seed: u64,
) -> Result<crate::guest::verdict::Kind> {
    guest::run(ctx, accel, seconds, seed, false)
}
