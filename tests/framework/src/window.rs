// SPDX-License-Identifier: MIT OR Apache-2.0

//! Forced windows: moments of the driver's that a test makes long, so that a race is decided the hard way.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

const FOLDER: &str = "/sys/kernel/debug/dmaplane/windows";

/// A window that is open until this is dropped.
#[derive(Debug)]
pub struct Window(PathBuf);

impl Window {
    /// Makes the driver stay at the moment `name` for `length`.
    ///
    /// # Errors
    /// When there is no such window; the error lists those that exist.
    pub fn open(name: &str, length: Duration) -> Result<Self> {
        let path = PathBuf::from(FOLDER).join(name);
        fs::write(&path, length.as_micros().to_string()).with_context(|| {
            let names = fs::read_dir(FOLDER).map(|entries| {
                let names = entries.flatten().map(|entry| entry.file_name());
                names.collect::<Vec<_>>()
            });
            format!("cannot open the window {name}; there are {names:?}")
        })?;
        Ok(Self(path))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, "0") {
            eprintln!("cannot close the window {}: {error}", self.0.display());
        }
    }
}
