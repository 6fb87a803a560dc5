// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the runs with faults leave for the host: one file, to which every test adds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::nth::Swept;
use super::points::{Counts, counts};

/// The file, in the folder that is shared with the host.
const FILE: &str = "faults.json";

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The driver's points.
    pub points: BTreeMap<String, Counts>,
    /// What was swept: faults injected, and rounds that failed for them.
    pub sweeps: BTreeMap<String, (u32, u32)>,
    /// Storms: their seeds.
    pub seeds: Vec<u64>,
    /// Races: name, iterations, milliseconds.
    pub races: BTreeMap<String, (u64, u64)>,
}

fn path() -> PathBuf {
    let folder = env::var_os("DMAPLANE_SHARE").map_or_else(env::temp_dir, PathBuf::from);
    folder.join(FILE)
}

/// Adds to the file, and brings the counts of the points in it up to date.
///
/// # Errors
/// When the file or a counter cannot be read or written.
pub fn record(add: impl FnOnce(&mut Record)) -> Result<()> {
    let path = path();
    let mut record: Record = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).context("the record of faults")?,
        Err(_) => Record::default(),
    };
    add(&mut record);
    // Kernels without fault injection have races all the same.
    if let Ok(counts) = counts() {
        record.points = counts;
    }
    fs::write(&path, serde_json::to_vec_pretty(&record)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Record {
    /// Adds a sweep.
    pub fn sweep(&mut self, name: &str, swept: Swept) {
        let total = self.sweeps.entry(name.to_owned()).or_default();
        total.0 += swept.faults;
        total.1 += swept.failures;
    }

    /// Adds iterations of a race.
    pub fn race(&mut self, name: &str, iterations: u64, milliseconds: u64) {
        let total = self.races.entry(name.to_owned()).or_default();
        total.0 += iterations;
        total.1 += milliseconds;
    }
}
