// SPDX-License-Identifier: MIT OR Apache-2.0

//! The driver's counters of placement, and the settings that an administrator may change.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Placement misses since the driver was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Misses {
    /// Pages elsewhere than wanted.
    pub misplaced_pages: u64,
    /// Buffers refused because their nodes had no more memory.
    pub refusals: u64,
    /// Pages in smaller folios than would have fit.
    pub small_pages: u64,
}

impl Misses {
    /// Reads the running driver's.
    ///
    /// # Errors
    /// When a file cannot be read or holds no number.
    pub fn read() -> Result<Self> {
        let get = |name| number(&Path::new("/sys/kernel/debug/dmaplane/placement").join(name));
        Ok(Self {
            misplaced_pages: get("misplaced_pages")?,
            refusals: get("refusals")?,
            small_pages: get("small_pages")?,
        })
    }

    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            misplaced_pages: self.misplaced_pages - before.misplaced_pages,
            refusals: self.refusals - before.refusals,
            small_pages: self.small_pages - before.small_pages,
        }
    }
}

fn number(path: &Path) -> Result<u64> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let number = text.trim().parse();
    number.with_context(|| format!("{} holds {text:?}", path.display()))
}

/// A setting of the driver's that is put back on drop.
#[derive(Debug)]
pub struct Tuned {
    path: std::path::PathBuf,
    before: u64,
}

impl Tuned {
    /// Sets it.
    ///
    /// # Errors
    /// When there is no such setting.
    pub fn set(name: &str, value: u64) -> Result<Self> {
        let path = Path::new("/sys/kernel/debug/dmaplane/tuning").join(name);
        let before = number(&path)?;
        fs::write(&path, value.to_string())
            .with_context(|| format!("cannot set {}", path.display()))?;
        Ok(Self { path, before })
    }
}

impl Drop for Tuned {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.to_string()) {
            eprintln!("cannot set {} back: {error}", self.path.display());
        }
    }
}
