// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures inside a guest, for `cargo xtask bench`: rows of JSON, each with a reference of the same guest.

mod kv;
mod latency;
mod memory;
mod overhead;
mod pairing;
mod perftest;
mod rings;
mod row;
mod stream;
mod tiers;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

/// What to measure.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// NOP entries per second through a channel, by entries for each system call.
    Rings,
    /// A message of 4 KiB there and back, next to perftest's.
    Latency,
    /// Writes by size and depth, next to perftest's.
    Stream,
    /// Chunks of 1 MiB with immediates, next to perftest's writes.
    Kv,
    /// A device's memory by mapping tier, next to host memory.
    Tiers,
    /// What trace events and histograms cost.
    Overhead,
    /// Making, registering and reaching memory.
    Memory,
}

/// Measures and writes rows of JSON.
#[derive(Parser)]
struct Args {
    /// What to measure.
    what: What,
    /// Where the rows go.
    #[arg(long)]
    out: PathBuf,
    /// What the guest runs on, for the rows.
    #[arg(long)]
    accel: String,
    /// A tenth of the work, for a first look.
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let rows = match args.what {
        What::Rings => rings::measure(&args.accel, args.quick)?,
        What::Latency => latency::measure(&args.accel, args.quick)?,
        What::Stream => stream::measure(&args.accel, args.quick)?,
        What::Kv => kv::measure(&args.accel, args.quick)?,
        What::Tiers => tiers::measure(&args.accel, args.quick)?,
        What::Overhead => overhead::measure(&args.accel, args.quick)?,
        What::Memory => memory::measure(&args.accel, args.quick)?,
    };
    let text = serde_json::to_string_pretty(&rows)?;
    fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))
}
