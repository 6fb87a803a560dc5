// SPDX-License-Identifier: MIT OR Apache-2.0

//! The driver's gauges: how many objects of each kind live, all 0 when nobody uses it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::poll;

/// Where the driver shows them.
pub const FOLDER: &str = "/sys/kernel/debug/dmaplane/gauges";

/// The gauges that every driver has.
pub const NAMES: [&str; 12] = [
    "contexts",
    "buffers",
    "bytes",
    "pools",
    "exports",
    "imports",
    "regions",
    "grants",
    "channels",
    "listeners",
    "endpoints",
    "operations",
];

/// A reading of all gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauges(BTreeMap<String, u64>);

impl Gauges {
    /// Reads the running driver's.
    ///
    /// # Errors
    /// When debugfs is not mounted, the driver is not loaded, or a gauge is missing or no number.
    pub fn read() -> Result<Self> {
        Self::read_at(Path::new(FOLDER))
    }

    fn read_at(folder: &Path) -> Result<Self> {
        let mut gauges = BTreeMap::new();
        let entries = fs::read_dir(folder).with_context(|| {
            format!(
                "no gauges in {}: is debugfs mounted, the driver loaded?",
                folder.display()
            )
        })?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = fs::read_to_string(entry.path())
                .with_context(|| format!("cannot read the gauge {name}"))?;
            let value = text
                .strip_suffix('\n')
                .unwrap_or(&text)
                .parse()
                .with_context(|| format!("the gauge {name} holds {text:?}, not a number"))?;
            gauges.insert(name, value);
        }
        for name in NAMES {
            ensure!(gauges.contains_key(name), "the driver has no gauge {name}");
        }
        Ok(Self(gauges))
    }

    /// One gauge; panics when the driver has none of this name, which reading excludes for
    /// [`NAMES`].
    pub fn get(&self, name: &str) -> u64 {
        self.0[name]
    }

    /// All of them, by name.
    pub fn all(&self) -> &BTreeMap<String, u64> {
        &self.0
    }

    /// What differs from `before`, as `name before -> now`; empty when nothing does.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, now) in &self.0 {
            let was = before.0.get(name).copied().unwrap_or(0);
            if *now != was {
                found.push(format!("{name} {was} -> {now}"));
            }
        }
        found
    }
}

impl fmt::Display for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        f.write_str(&text.join(", "))
    }
}

/// Waits until the gauges are as they were.
///
/// # Errors
/// When they are not after `limit`; names each that differs.
pub fn settle(before: &Gauges, limit: Duration) -> Result<()> {
    settle_as(before, limit, Gauges::read)
}

/// As [`settle`], for the gauges that `read` gives.
///
/// # Errors
/// As [`settle`], and those of `read`.
pub fn settle_as(
    before: &Gauges,
    limit: Duration,
    mut read: impl FnMut() -> Result<Gauges>,
) -> Result<()> {
    let mut last = Vec::new();
    let settled = poll::until(limit, || {
        last = read()?.differences(before);
        Ok(last.is_empty().then_some(()))
    })?;
    ensure!(
        settled.is_some(),
        "gauges are not back after {limit:?}, something leaks or hangs: {}",
        last.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(values: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in NAMES {
            fs::write(folder.path().join(name), "0\n").expect("write a gauge");
        }
        for (name, value) in values {
            fs::write(folder.path().join(name), value).expect("write a gauge");
        }
        folder
    }

    #[test]
    fn gauges_are_read_and_compared() {
        let before = folder(&[]);
        let after = folder(&[("bytes", "65536\n"), ("buffers", "2\n")]);
        let before = Gauges::read_at(before.path()).expect("gauges");
        let after = Gauges::read_at(after.path()).expect("gauges");
        assert_eq!(after.get("bytes"), 65536);
        assert_eq!(
            after.differences(&before),
            ["buffers 0 -> 2", "bytes 0 -> 65536"]
        );
        assert!(before.differences(&before).is_empty());
    }

    #[test]
    fn garbage_and_missing_gauges_are_errors() {
        let garbage = folder(&[("bytes", "many\n")]);
        let error = Gauges::read_at(garbage.path()).expect_err("not a number");
        assert!(error.to_string().contains("bytes"), "{error}");
        let missing = folder(&[]);
        fs::remove_file(missing.path().join("endpoints")).expect("remove a gauge");
        let error = Gauges::read_at(missing.path()).expect_err("a gauge is missing");
        assert!(error.to_string().contains("endpoints"), "{error}");
    }
}
