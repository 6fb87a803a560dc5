// SPDX-License-Identifier: MIT OR Apache-2.0

//! Delay points of the driver: a test makes the driver sleep there, which widens the window of a race.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

const FOLDER: &str = "/sys/kernel/debug/dmaplane/delay_points";

/// A delay point that is in effect until this is dropped.
#[derive(Debug)]
pub struct DelayPoint(PathBuf);

impl DelayPoint {
    /// Makes the driver sleep for `length` at the delay point `name`.
    ///
    /// # Errors
    /// When there is no such delay point; the error lists those that exist.
    pub fn open(name: &str, length: Duration) -> Result<Self> {
        let path = PathBuf::from(FOLDER).join(name);
        fs::write(&path, length.as_micros().to_string()).with_context(|| {
            let names = fs::read_dir(FOLDER).map(|entries| {
                let names = entries.flatten().map(|entry| entry.file_name());
                names.collect::<Vec<_>>()
            });
            format!("cannot set the delay point {name}; there are {names:?}")
        })?;
        Ok(Self(path))
    }
}

impl Drop for DelayPoint {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, "0") {
            eprintln!("cannot reset the delay point {}: {error}", self.0.display());
        }
    }
}
