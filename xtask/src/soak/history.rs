// SPDX-License-Identifier: MIT OR Apache-2.0
//! The history of all soak runs on this machine: one JSON object a line, in the cache.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use dmaplane_vmtest::guest::verdict::Kind;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Run {
    /// When it ended, seconds since 1970.
    pub(super) at: u64,
    /// The commit of the checkout, if git knows it.
    pub(super) commit: String,
    /// What was run.
    pub(super) part: String,
    /// Where.
    pub(super) topology: String,
    /// On which kernel.
    pub(super) profile: String,
    /// The seed that repeats it.
    pub(super) seed: u64,
    /// How it ended, as an exit code.
    pub(super) exit_code: u8,
    /// In words.
    pub(super) words: String,
    /// How long it took.
    pub(super) seconds: u64,
}

impl Run {
    /// Whether it failed. A guest that did not boot says nothing.
    pub(super) fn failed(&self) -> bool {
        self.exit_code != 0 && self.exit_code != Kind::Infrastructure.code()
    }

    /// Whether it gave a result.
    pub(super) fn counts(&self) -> bool {
        self.exit_code != Kind::Infrastructure.code()
    }
}

/// The file.
pub(super) struct History(PathBuf);

impl History {
    /// The history in this folder.
    pub(super) fn new(folder: &Path) -> Self {
        Self(folder.join("history.jsonl"))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// All earlier runs. A line that was cut off, by a power failure for instance, is left out.
    pub(super) fn read(&self) -> Result<Vec<Run>> {
        let Ok(file) = File::open(&self.0) else {
            return Ok(Vec::new());
        };
        let mut runs = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("cannot read {}", self.0.display()))?;
            runs.extend(serde_json::from_str::<Run>(&line).ok());
        }
        Ok(runs)
    }

    /// Adds a run, at once on the disk.
    pub(super) fn add(&self, run: &Run) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.0)
            .with_context(|| format!("cannot open {}", self.0.display()))?;
        let line = serde_json::to_string(run)? + "\n";
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        Ok(())
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_kept_and_a_cut_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::new(dir.path());
        assert!(history.read().unwrap().is_empty());
        let run = Run {
            at: now(),
            commit: "abc".to_owned(),
            part: "faults".to_owned(),
            topology: "numa2".to_owned(),
            profile: "base".to_owned(),
            seed: 7,
            exit_code: 10,
            words: "TESTS FAILED".to_owned(),
            seconds: 3,
        };
        history.add(&run).unwrap();
        let mut file = OpenOptions::new()
            .append(true)
            .open(history.path())
            .unwrap();
        file.write_all(b"{\"at\": 3").unwrap();
        assert_eq!(history.read().unwrap(), std::slice::from_ref(&run));
        assert!(run.failed() && run.counts());
    }
}
