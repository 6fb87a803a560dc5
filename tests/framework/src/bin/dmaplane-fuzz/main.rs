// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fuzzer of system calls, guided by the kernel's coverage of the driver. Runs inside a guest.

mod places;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use dmaplane_testkit::hostile::{Guided, Plan, guided};
use places::Places;

/// Ill-treats the driver by system calls and ring entries, and keeps what reaches new code of it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How long.
    #[arg(long)]
    seconds: u64,
    /// Where the random choices start.
    #[arg(long)]
    seed: u64,
    /// Folder of known tapes.
    #[arg(long, value_name = "FOLDER")]
    corpus: PathBuf,
    /// Folder for new tapes, for the one that is being played, and for what was seen.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Address of an RDMA device.
    #[arg(long, value_name = "IP")]
    address: IpAddr,
    /// Plays known and new tapes once more in the end, and leaves which places each of them reaches.
    #[arg(long)]
    places: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dmaplane::terminal::note(format_args!("dmaplane-fuzz: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let plan = Plan {
        seed: args.seed,
        threads: 1,
        calls: u64::MAX,
        address: args.address,
        limit: Duration::MAX,
    };
    let guided_by = Guided {
        plan,
        time: Duration::from_secs(args.seconds),
        corpus: load(&args.corpus)?,
    };
    let last = args.out.join("last.tape");
    let mut count = 0u64;
    let mut show = |tape: &[u64]| {
        count += 1;
        // Each write is a round trip to the host. The one that a kernel dies of is among the next few.
        if count % 16 == 1 {
            let _ = fs::write(&last, bytes(tape));
        }
    };
    let (seen, fresh) = guided(&guided_by, &mut show, |_, _| {})?;
    for tape in &fresh {
        let name = file_name(tape);
        fs::write(args.out.join(&name), bytes(tape)).with_context(|| name.clone())?;
    }
    if args.places {
        let again = Guided {
            time: Duration::ZERO,
            corpus: in_order(guided_by.corpus, fresh),
            ..guided_by
        };
        let mut places = Places::default();
        guided(&again, &mut show, |tape, reached| {
            places.add(file_name(tape), reached);
        })?;
        let text = serde_json::to_string(&places)?;
        fs::write(args.out.join("places.json"), text)?;
    }
    let text = serde_json::to_string_pretty(&seen)?;
    fs::write(args.out.join("seen.json"), &text)?;
    println!("{text}");
    Ok(())
}

fn load(folder: &Path) -> Result<Vec<Vec<u64>>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "tape")
        {
            paths.push(path);
        }
    }
    // In one order everywhere: what is played before decides what a tape meets.
    paths.sort();
    let tape = |path: &PathBuf| -> Result<Vec<u64>> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    };
    paths.iter().map(tape).collect()
}

/// All tapes as the next run would load them: each is to be judged by what it reaches there.
fn in_order(known: Vec<Vec<u64>>, fresh: Vec<Vec<u64>>) -> Vec<Vec<u64>> {
    let mut all = known;
    all.extend(fresh);
    all.sort_by_key(|tape| name(tape));
    all.dedup();
    all
}

fn file_name(tape: &[u64]) -> String {
    format!("{:016x}.tape", name(tape))
}

fn bytes(tape: &[u64]) -> Vec<u8> {
    tape.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// FNV-1a: the same tape has the same name everywhere.
fn name(tape: &[u64]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes(tape).into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tapes_are_played_again_in_the_order_of_their_files() {
        let tape = |word: u64| vec![word; 3];
        let known: Vec<_> = (0..20).map(tape).collect();
        let fresh: Vec<_> = (15..40).map(tape).collect();
        let all = in_order(known, fresh);
        assert_eq!(all.len(), 40, "one of each");
        let names: Vec<_> = all.iter().map(|tape| file_name(tape)).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
