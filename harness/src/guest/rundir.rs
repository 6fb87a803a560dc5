// SPDX-License-Identifier: MIT OR Apache-2.0
//! The folder of one run: `CACHE/run/…` while it runs, `CACHE/artefacts/…` if it is to be kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::ctx::Ctx;
use crate::guest::scanner;

/// How many kept runs there are at most; the oldest go first.
const KEEP: usize = 30;

/// The folder of one run. Dropping it removes it unless it has been kept.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    kept: bool,
}

impl RunDir {
    /// Makes the folder of a run of this name, and removes those of runs that were killed.
    pub fn create(ctx: &Ctx, name: &str) -> Result<Self> {
        let parent = ctx.cache_sub("run")?;
        sweep(&parent);
        let base = format!("{}-{name}", stamp()?);
        let pid = std::process::id();
        // Two attempts may fall into one second.
        for number in 0.. {
            let path = parent.join(format!("{base}.{number}.{pid}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, kept: false }),
                Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(err) => {
                    return Err(err).with_context(|| format!("cannot create {}", path.display()));
                }
            }
        }
        unreachable!("some number is free")
    }

    /// Where it is now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the folder to where it stays; returns its new path.
    pub fn keep(&mut self, ctx: &Ctx) -> Result<PathBuf> {
        if self.kept {
            return Ok(self.path.clone());
        }
        let parent = ctx.cache_sub("artefacts")?;
        let name = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // The process id was there for sweeping; the number stays if it distinguishes runs.
        let name = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(name, _)| name);
        let name = name.strip_suffix(".0").unwrap_or(name);
        let mut to = parent.join(name);
        let mut number = 1;
        while to.exists() {
            to = parent.join(format!("{name}.{number}"));
            number += 1;
        }
        fs::rename(&self.path, &to)
            .with_context(|| format!("cannot move {} to {}", self.path.display(), to.display()))?;
        self.path = to;
        self.kept = true;
        prune(&parent);
        Ok(self.path.clone())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing is lost if it stays: the next run sweeps.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Removes folders whose process is gone.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .rsplit_once('.')
            .and_then(|(_, pid)| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn prune(parent: &Path) {
    let mut kept: Vec<_> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    kept.sort();
    let excess = kept.len().saturating_sub(KEEP);
    for old in &kept[..excess] {
        let _ = fs::remove_dir_all(old);
    }
}

/// Now in UTC, as `20270131T235959`.
fn stamp() -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let (year, month, day) = scanner::day_of(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Ok(format!(
        "{year}{month:02}{day:02}T{hour:02}{minute:02}{second:02}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_removed_unless_kept() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::in_folder(dir.path());
        let run = RunDir::create(&ctx, "x").unwrap();
        let path = run.path().to_owned();
        assert!(path.is_dir());
        drop(run);
        assert!(!path.exists());
        let mut run = RunDir::create(&ctx, "x").unwrap();
        let kept = run.keep(&ctx).unwrap();
        drop(run);
        assert!(kept.is_dir() && kept.parent().unwrap().ends_with("artefacts"));
    }

    #[test]
    fn the_folder_of_a_killed_run_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = Ctx::in_folder(dir.path());
        // Process ids end at 4194304.
        let stale = dir.path().join("run/20260101T000000-x.0.99999999");
        fs::create_dir_all(&stale).unwrap();
        let _run = RunDir::create(&ctx, "x").unwrap();
        assert!(!stale.exists());
    }
}
