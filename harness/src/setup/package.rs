// SPDX-License-Identifier: MIT OR Apache-2.0
//! Single Debian packages, fetched from the machine's own mirror, verified, unpacked into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::apt::Private;
use crate::ctx::Ctx;
use crate::exec::{self, Lock};
use crate::kernel::pin::PackagePin;
use crate::{exit, hash};

/// The package as a file in the cache, downloaded if it is not there and verified always.
///
/// `remedy` says how the user can supply the file by hand.
///
/// # Errors
/// What could not be fetched and why, or both checksums.
pub fn fetch(ctx: &Ctx, pin: &PackagePin, remedy: &str) -> Result<PathBuf> {
    let dir = ctx.cache_sub("dl")?;
    let _lock = Lock::take(ctx, &dir.join("lock"), "a download")?;
    let prefix = format!("{}_{}_", pin.name, pin.version.replace(':', "%3a"));
    if let Some(path) = find(&dir, &prefix)? {
        match hash::verify(&path, &pin.sha256) {
            Ok(()) => return Ok(path),
            // An interrupted or damaged download of an earlier run: one fresh try is worth it.
            Err(err) => {
                ctx.ui.warn(format!("{err:#}"));
                fs::remove_file(&path)?;
            }
        }
    }
    let progress = ctx
        .ui
        .spinner(format!("downloading {} {}", pin.name, pin.version));
    let temporary = exec::scratch(&dir)?;
    let unavailable = |err: &anyhow::Error| {
        exit::environment(format!(
            "cannot fetch the package {} {} of the suite {}: {err:#}\n{remedy}",
            pin.name, pin.version, pin.suite
        ))
    };
    Private::suite(ctx, &pin.suite)
        .and_then(|apt| apt.download(&pin.name, &pin.version, temporary.path()))
        .map_err(|err| unavailable(&err))?;
    let got = find(temporary.path(), &format!("{}_", pin.name))?
        .with_context(|| format!("apt-get download left no {prefix}*.deb"))?;
    hash::verify(&got, &pin.sha256)?;
    let path = dir.join(got.file_name().context("a download without a name")?);
    fs::rename(&got, &path)?;
    progress.done();
    Ok(path)
}

/// Unpacks a package into a folder, without installing it.
///
/// # Errors
/// When dpkg-deb is missing or refuses the file.
pub fn unpack(deb: &Path, dir: &Path) -> Result<()> {
    if exec::which("dpkg-deb").is_none() {
        return Err(exit::environment(
            "dpkg-deb is needed to open a Debian package; install dpkg, or give the tarball itself",
        ));
    }
    fs::create_dir_all(dir)?;
    exec::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(dir))?;
    Ok(())
}

fn find(dir: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(".deb") {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_found_by_name_and_version_only() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a_1_all.deb", "ab_1_all.deb", "a_2_all.deb.part"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = find(dir.path(), "a_1_").unwrap().unwrap();
        assert!(found.ends_with("a_1_all.deb"));
        assert_eq!(find(dir.path(), "a_2_").unwrap(), None);
    }
}
