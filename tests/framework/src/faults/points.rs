// SPDX-License-Identifier: MIT OR Apache-2.0

//! Fault attributes in debugfs: the driver's and the kernel's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Where the driver's points are.
pub(super) const FOLDER: &str = "/sys/kernel/debug/dmaplane/faults";
/// What their names begin with.
const PREFIX: &str = "fail_dmaplane_";
/// Whether a point fires for those tasks alone that want it.
const FILTER: &str = "task-filter";
/// Whether the calling thread wants it.
const WANTED: &str = "/proc/thread-self/make-it-fail";
/// The kernel's points that the sweeps use.
const KERNEL: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

/// A fault point of the driver that fires as configured until this is dropped.
#[derive(Debug)]
pub struct Point {
    folder: PathBuf,
    /// How often it had fired before.
    before: u64,
}

/// What a point has counted since the driver was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How often it was passed.
    pub passed: u64,
    /// How often it fired.
    pub fired: u64,
}

/// The names of the driver's points, without the common beginning.
///
/// # Errors
/// When the driver has none.
pub fn names() -> Result<Vec<String>> {
    let entries = fs::read_dir(FOLDER).with_context(|| format!("no fault points in {FOLDER}"))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_prefix(PREFIX).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// What every point has counted.
///
/// # Errors
/// When a counter cannot be read.
pub fn counts() -> Result<BTreeMap<String, Counts>> {
    names()?
        .into_iter()
        .map(|name| {
            let folder = Path::new(FOLDER).join(format!("{PREFIX}{name}"));
            let counts = Counts {
                passed: number(&folder.join("passed"))?,
                fired: number(&folder.join("fired"))?,
            };
            Ok((name, counts))
        })
        .collect()
}

/// Lets all points, the kernel's too, fire without a word in the log, and the kernel's hit every kind of allocation.
///
/// # Errors
/// When a file cannot be written.
pub fn quiet() -> Result<()> {
    for name in KERNEL {
        set(&Path::new("/sys/kernel/debug").join(name), "verbose", 0)?;
    }
    for file in [
        "failslab/ignore-gfp-wait",
        "fail_page_alloc/ignore-gfp-wait",
    ] {
        write(&Path::new("/sys/kernel/debug").join(file), "N")?;
    }
    write(
        Path::new("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem"),
        "N",
    )?;
    set(
        Path::new("/sys/kernel/debug/fail_page_alloc"),
        "min-order",
        0,
    )?;
    for name in names()? {
        set(
            &Path::new(FOLDER).join(format!("{PREFIX}{name}")),
            "verbose",
            0,
        )?;
    }
    Ok(())
}

impl Point {
    /// Fires with a probability, in percent, at most `times`.
    ///
    /// # Errors
    /// When there is no such point; the error lists those that exist.
    pub fn with(name: &str, probability: u64, times: Option<u32>) -> Result<Self> {
        let point = Self::find(name)?;
        point.arm((1, probability), times, false)?;
        Ok(point)
    }

    /// Writes the filter each time: a test that was killed may have left another.
    fn arm(
        &self,
        (interval, probability): (u64, u64),
        times: Option<u32>,
        filtered: bool,
    ) -> Result<()> {
        write(&self.folder.join(FILTER), if filtered { "Y" } else { "N" })?;
        set(&self.folder, "interval", interval)?;
        set(&self.folder, "times", times.map_or(-1, i64::from))?;
        set(&self.folder, "probability", probability)
    }

    /// Fires each time.
    ///
    /// # Errors
    /// As [`Point::with`].
    pub fn always(name: &str) -> Result<Self> {
        Self::with(name, 100, None)
    }

    /// Fires the next time, and then no more.
    ///
    /// # Errors
    /// As [`Point::with`].
    pub fn once(name: &str) -> Result<Self> {
        Self::with(name, 100, Some(1))
    }

    /// Fires the next time that the calling thread itself passes it: not for work queues, heartbeats among them.
    ///
    /// # Errors
    /// As [`Point::with`].
    pub fn once_here(name: &str) -> Result<Self> {
        let point = Self::find(name)?;
        write(Path::new(WANTED), "1")?;
        point.arm((1, 100), Some(1), true)?;
        Ok(point)
    }

    /// Fires each `interval`-th time.
    ///
    /// # Errors
    /// As [`Point::with`].
    pub fn every(name: &str, interval: u64) -> Result<Self> {
        let point = Self::find(name)?;
        point.arm((interval, 100), None, false)?;
        Ok(point)
    }

    /// How often it has fired since it was configured.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn fired(&self) -> Result<u64> {
        Ok(number(&self.folder.join("fired"))? - self.before)
    }

    fn find(name: &str) -> Result<Self> {
        let path = Path::new(FOLDER).join(format!("{PREFIX}{name}"));
        let there = || names().map_or_else(|error| error.to_string(), |names| names.join(", "));
        let found = path.is_dir().then_some(path);
        let folder =
            found.with_context(|| format!("no fault point {name}; there are: {}", there()))?;
        let before = number(&folder.join("fired"))?;
        Ok(Self { folder, before })
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        let settings = [("probability", 0), ("times", 1), ("interval", 1)];
        let mut results: Vec<_> = settings
            .map(|(file, value)| set(&self.folder, file, value))
            .into();
        results.push(write(&self.folder.join(FILTER), "N"));
        results.push(write(Path::new(WANTED), "0"));
        for error in results.into_iter().filter_map(Result::err) {
            eprintln!("{error:#}");
        }
    }
}

fn set(folder: &Path, file: &str, value: impl std::fmt::Display) -> Result<()> {
    write(&folder.join(file), &value.to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
}

fn number(path: &Path) -> Result<u64> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.trim()
        .parse()
        .with_context(|| format!("{} holds {text:?}", path.display()))
}
