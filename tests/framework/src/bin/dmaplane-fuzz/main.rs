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
    /// Seconds to run.
    #[arg(long)]
    seconds: u64,
    /// Where the random choices start.
    #[arg(long)]
    seed: u64,
    /// Folder of known inputs.
    #[arg(long, value_name = "FOLDER")]
    corpus: PathBuf,
    /// Folder for new inputs, for the one that is being played, and for what was seen.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Address of an RDMA device.
    #[arg(long, value_name = "IP")]
    address: IpAddr,
    /// Plays known and new inputs once more in the end, and leaves which places each of them reaches.
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
    let last = args.out.join("last.input");
    let mut count = 0u64;
    let mut show = |input: &[u64]| {
        count += 1;
        // Each write is a round trip to the host. The one that a kernel dies of is among the next few.
        if count % 16 == 1 {
            let _ = fs::write(&last, bytes(input));
        }
    };
    let (seen, fresh) = guided(&guided_by, &mut show, |_, _| {})?;
    for input in &fresh {
        let name = file_name(input);
        fs::write(args.out.join(&name), bytes(input)).with_context(|| name.clone())?;
    }
    if args.places {
        let again = Guided {
            time: Duration::ZERO,
            corpus: in_order(guided_by.corpus, fresh),
            ..guided_by
        };
        let mut places = Places::default();
        guided(&again, &mut show, |input, reached| {
            places.add(file_name(input), reached);
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
            .is_some_and(|extension| extension == "input")
        {
            paths.push(path);
        }
    }
    // The same order everywhere: the inputs played before decide which objects an input finds.
    paths.sort();
    let input = |path: &PathBuf| -> Result<Vec<u64>> {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    };
    paths.iter().map(input).collect()
}

/// All inputs, in the order in which the next run loads them: what an input reaches depends on it.
fn in_order(known: Vec<Vec<u64>>, fresh: Vec<Vec<u64>>) -> Vec<Vec<u64>> {
    let mut all = known;
    all.extend(fresh);
    all.sort_by_key(|input| name(input));
    all.dedup();
    all
}

fn file_name(input: &[u64]) -> String {
    format!("{:016x}.input", name(input))
}

fn bytes(input: &[u64]) -> Vec<u8> {
    input.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// FNV-1a: the same input has the same name everywhere.
fn name(input: &[u64]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes(input).into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_played_again_in_the_order_of_their_files() {
        let input = |word: u64| vec![word; 3];
        let known: Vec<_> = (0..20).map(input).collect();
        let fresh: Vec<_> = (15..40).map(input).collect();
        let all = in_order(known, fresh);
        assert_eq!(all.len(), 40, "one of each");
        let names: Vec<_> = all.iter().map(|input| file_name(input)).collect();
        assert!(names.is_sorted(), "{names:?}");
    }
}
