// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `fuzz`: feeds the code that reads from peers and user space with inputs that reach ever more of it.

mod corpus;
mod guest;
mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use corpus::Changes;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::accel::AccelChoice;
use dmaplane_vmtest::guest::verdict::Kind;
use guest::Seen;

/// What to fuzz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    /// Greetings and control messages of a hostile peer, on the host.
    Wire,
    /// Ring indices, entries, ranges and operations of a hostile process, on the host.
    Ring,
    /// System calls and ring entries, in a guest whose kernel reports its coverage.
    Ioctl,
}

/// The result of a fuzzer on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No input broke anything.
    Nothing,
    /// An input that breaks something; it is in this folder.
    Crash(PathBuf),
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report {
    target: Target,
    /// As `--help` lists them.
    exit_code: u8,
    /// In words.
    words: &'static str,
    /// The seed that repeats it.
    seed: u64,
    /// How long it was meant to run.
    seconds: u64,
    /// A guest's figures, if it left them.
    seen: Option<Seen>,
    /// The folder with the input that broke something.
    artefacts: Option<PathBuf>,
    /// What changed in the corpus of inputs.
    changes: Changes,
}

/// Fuzzes for a time. --save keeps inputs that reach new code; an input that breaks something ends the run.
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
    /// Adds inputs that reached new code to the corpus in the checkout. The corpus of `ioctl` holds
    /// 256 inputs; when it is full, a new input replaces one that reaches less by itself.
    #[arg(long)]
    save: bool,
    /// Writes the result as JSON: target, exit code, seed, what was reached, what broke.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What executes the guests.
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
        None => crate::vm::random()?,
    };
    let seconds = args.minutes * 60;
    let mut report = Report {
        target: args.target,
        exit_code: 0,
        words: Kind::Ok.words(),
        seed,
        seconds,
        seen: None,
        artefacts: None,
        changes: Changes::default(),
    };
    if args.target == Target::Ioctl {
        let accel = args.accel.unwrap_or(AccelChoice::Auto);
        let fuzzed = guest::run(ctx, accel, seconds, seed, args.save)?;
        report.exit_code = fuzzed.kind.code();
        report.words = fuzzed.kind.words();
        report.seen = fuzzed.seen;
        report.artefacts = fuzzed.artefacts;
        report.changes = fuzzed.changes;
    } else {
        let found = host::run(ctx, args.target.name(), seconds, seed, args.save)?;
        if let Found::Crash(folder) = found {
            report.exit_code = exit::FAILED;
            report.words = "FAILED";
            report.artefacts = Some(folder);
        }
    }
    if let Some(json) = &args.json {
        report.write(json)?;
    }
    Ok(ExitCode::from(report.exit_code))
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Wire => "wire",
            Self::Ring => "ring",
            Self::Ioctl => "ioctl",
        }
    }
}

impl Report {
    fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Runs a fuzzer on the host for `seconds`, as a part of something larger.
pub(crate) fn host(ctx: &Ctx, target: &str, seconds: u64, seed: u64) -> Result<Found> {
    host::run(ctx, target, seconds, seed, false)
}

/// Runs the fuzzer of system calls for `seconds`, as a part of something larger.
pub(crate) fn ioctl(ctx: &Ctx, accel: AccelChoice, seconds: u64, seed: u64) -> Result<Kind> {
    Ok(guest::run(ctx, accel, seconds, seed, false)?.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_says_what_was_reached_and_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fuzz.json");
        let seen = r#"{"played": 9, "calls": 800, "places": 70, "known": 60, "fresh": 2, "milliseconds": 5000}"#;
        let report = Report {
            target: Target::Ioctl,
            exit_code: Kind::Splat.code(),
            words: Kind::Splat.words(),
            seed: 7,
            seconds: 300,
            seen: Some(serde_json::from_str(seen).unwrap()),
            artefacts: Some(PathBuf::from("artefacts/x")),
            changes: Changes {
                added: vec!["a.input".to_owned()],
                removed: Vec::new(),
            },
        };
        report.write(&file).unwrap();
        let report: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        let wanted = serde_json::json!({
            "target": "ioctl", "exit_code": 11, "words": "SPLAT", "seed": 7, "seconds": 300,
            "seen": serde_json::from_str::<serde_json::Value>(seen).unwrap(),
            "artefacts": "artefacts/x", "changes": {"added": ["a.input"], "removed": []},
        });
        assert_eq!(report, wanted);
    }
}
