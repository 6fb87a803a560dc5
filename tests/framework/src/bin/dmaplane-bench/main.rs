// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures inside a guest, for `cargo xtask bench`: rows of JSON, each with a reference of the same guest.

mod rings;
mod row;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

/// What to measure.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// NOP entries per second through a channel, by entries for each system call.
    Rings,
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
    };
    let text = serde_json::to_string_pretty(&rows)?;
    fs::write(&args.out, text).with_context(|| format!("cannot write {}", args.out.display()))
}
