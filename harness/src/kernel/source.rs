// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's source: fetched, verified twice, unpacked once.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::pin::KernelPin;
use crate::ctx::Ctx;
use crate::exec::{self, Lock};
use crate::setup::package;
use crate::{exit, hash};

/// Names a package or tarball that is used instead of a download.
pub(crate) const TARBALL_VARIABLE: &str = "DMAPLANE_KERNEL_TARBALL";

/// The unpacked source tree; it is fetched and unpacked if it is not there.
///
/// `given` is the user's own file: the tarball, or the package with the tarball in it.
///
/// # Errors
/// What could not be fetched, or both sums of a file that differs from the pin.
pub(crate) fn ensure(ctx: &Ctx, pin: &KernelPin, given: Option<&Path>) -> Result<PathBuf> {
    let sum = &pin.tarball.sha256;
    let parent = ctx.cache_sub("src")?;
    let tree = parent.join(format!("linux-{}-{}", pin.version, &sum[..12]));
    let given = match given {
        Some(path) => Some(path.to_owned()),
        None => env::var_os(TARBALL_VARIABLE)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from),
    };
    // A file that the user names is checked even when it is not needed any more: a wrong one must
    // not look accepted.
    if let Some(path) = &given {
        check_given(pin, path)?;
    }
    if tree.join("Makefile").is_file() {
        return Ok(tree);
    }
    let _lock = Lock::take(ctx, &parent.join("lock"), "the kernel's source")?;
    if tree.join("Makefile").is_file() {
        return Ok(tree);
    }
    // Unpacked next to its place and then renamed: the tree is there completely or not at all.
    let temporary = exec::scratch(&parent)?;
    let tarball = match given {
        Some(path) if !is_package(&path) => path,
        Some(path) => from_package(ctx, pin, &path, temporary.path())?,
        None => {
            let remedy = format!(
                "Get the package {} {} (Debian's snapshot archive keeps every version that ever \
                 was) or {} by other means and give it: cargo xtask kernel --tarball FILE, or set \
                 {TARBALL_VARIABLE}=FILE for every command.",
                pin.package.name, pin.package.version, pin.tarball.name
            );
            let deb = package::fetch(ctx, &pin.package, &remedy)?;
            from_package(ctx, pin, &deb, temporary.path())?
        }
    };
    hash::verify(&tarball, sum)?;
    let progress = ctx.ui.spinner(format!("unpacking Linux {}", pin.version));
    let unpacked = temporary.path().join("tree");
    fs::create_dir(&unpacked)?;
    let mut tar = Command::new("tar");
    tar.arg("-xf")
        .arg(&tarball)
        .arg("-C")
        .arg(&unpacked)
        .arg("--strip-components=1");
    exec::output(&mut tar)?;
    fs::rename(&unpacked, &tree)
        .with_context(|| format!("cannot move the source to {}", tree.display()))?;
    progress.done();
    Ok(tree)
}

fn is_package(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "deb")
}

fn check_given(pin: &KernelPin, path: &Path) -> Result<()> {
    if !path.is_file() {
        return Err(exit::environment(format!(
            "{} is no file; --tarball and {TARBALL_VARIABLE} name {} or the package {}",
            path.display(),
            pin.tarball.name,
            pin.package.name
        )));
    }
    let sum = if is_package(path) {
        &pin.package.sha256
    } else {
        &pin.tarball.sha256
    };
    hash::verify(path, sum)
}

/// Takes the tarball out of the package.
fn from_package(ctx: &Ctx, pin: &KernelPin, deb: &Path, dir: &Path) -> Result<PathBuf> {
    let progress = ctx.ui.spinner(format!("opening {}", pin.package.name));
    let out = dir.join("package");
    package::unpack(deb, &out)?;
    let tarball = out.join("usr/src").join(&pin.tarball.name);
    if !tarball.is_file() {
        return Err(exit::environment(format!(
            "{} holds no {}; vm/kernel/pin.toml names another file",
            deb.display(),
            pin.tarball.name
        )));
    }
    progress.done();
    Ok(tarball)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::pin::Pin;

    #[test]
    fn a_wrong_file_given_by_hand_is_refused_with_both_sums() {
        let pin: Pin = toml::from_str(include_str!("../../../vm/kernel/pin.toml")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, sum) in [
            ("linux.tar.xz", &pin.kernel.tarball.sha256),
            ("linux.deb", &pin.kernel.package.sha256),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, "not a kernel").unwrap();
            let text = check_given(&pin.kernel, &path).unwrap_err().to_string();
            assert!(text.contains(&format!("expected {sum}")), "{text}");
        }
        let text = check_given(&pin.kernel, &dir.path().join("no"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("is no file"), "{text}");
    }
}
