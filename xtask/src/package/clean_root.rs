// SPDX-License-Identifier: MIT OR Apache-2.0
//! A clean Debian in a folder of the cache, in which packages are tried.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exec::{self, Lock};
use dmaplane_vmtest::exit;
use dmaplane_vmtest::setup::apt;

/// The distribution that the packages are for.
const SUITE: &str = "trixie";
/// The suite that has the kernel of the pinned series.
pub(super) const BACKPORTS: &str = "trixie-backports";

/// Mounts what programs of the root need, in a mount namespace that ends with them: nothing is left mounted, however
/// the run ends. Arguments: root, folder of downloaded packages, command.
const ENTER: &str = r#"
set -eu
root=$1 archives=$2
shift 2
mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
mount --bind "$archives" "$root/var/cache/apt/archives"
exec chroot "$root" "$@"
"#;

/// The root.
pub(super) struct CleanRoot<'a> {
    ctx: &'a Ctx,
    /// Where it is.
    pub(super) dir: PathBuf,
    archives: PathBuf,
    _lock: Lock,
}

impl<'a> CleanRoot<'a> {
    /// Makes a new root in place of the old one.
    ///
    /// # Errors
    /// What is missing and how to get it, or what debootstrap said.
    pub(super) fn create(ctx: &'a Ctx) -> Result<Self> {
        if !apt::is_root() {
            return Err(exit::environment(
                "--check installs packages in a root of its own, which only root can make; run it as root, or try the \
                 packages in a container: packaging/check.sh",
            ));
        }
        if exec::which("debootstrap").is_none() {
            return Err(exit::environment(
                "--check needs debootstrap: apt-get install debootstrap",
            ));
        }
        let mirror = apt::mirror().map_err(|err| exit::environment(format!("{err:#}")))?;
        let uri = mirror.uris.first().context("a mirror without address")?;
        let parent = ctx.cache_sub("package")?;
        let lock = Lock::take(ctx, &parent.join("lock"), "the clean root")?;
        let dir = parent.join(SUITE);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        let archives = ctx.cache_sub("package/archives")?;
        let mut command = Command::new("debootstrap");
        command
            .arg("--variant=minbase")
            .arg(format!("--cache-dir={}", archives.display()))
            .arg(SUITE)
            .arg(&dir)
            .arg(uri);
        let log = ctx.log_dir()?.join("debootstrap.log");
        let mut progress = ctx.ui.spinner(format!("making a clean root of {SUITE}"));
        exec::logged(ctx, command, "debootstrap", &log, |line| {
            progress.message(line);
        })
        .map_err(|err| exit::environment(format!("{err:#}")))?;
        progress.done();

        fs::create_dir_all(archives.join("partial"))?;
        let etc = dir.join("etc/apt");
        fs::write(etc.join("sources.list"), "")?;
        let stanza = mirror.stanza(&[SUITE, BACKPORTS]);
        fs::write(etc.join("sources.list.d/debian.sources"), stanza)?;
        // The archives are in the cache, which other users cannot enter.
        fs::write(
            etc.join("apt.conf.d/50download"),
            "APT::Sandbox::User \"root\";\nAcquire::Retries \"3\";\nAPT::Keep-Downloaded-Packages \"true\";\n",
        )?;
        // Services are not started in a root that is not booted.
        super::deb::write_file(
            &dir.join("usr/sbin/policy-rc.d"),
            0o755,
            b"#!/bin/sh\nexit 101\n",
        )?;
        Ok(Self {
            ctx,
            dir,
            archives,
            _lock: lock,
        })
    }

    /// Copies files into a folder of the root.
    ///
    /// # Errors
    /// What could not be copied.
    pub(super) fn copy(&self, files: &[PathBuf], folder: &str) -> Result<()> {
        let target = self.dir.join(folder);
        fs::create_dir_all(&target)?;
        for file in files {
            let name = file.file_name().context("a file without a name")?;
            fs::copy(file, target.join(name))
                .with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    /// Runs a command in the root, and calls `on_line` for each line that it prints.
    ///
    /// # Errors
    /// Its last lines, when it fails.
    pub(super) fn run(
        &self,
        what: &str,
        command: &[&str],
        log: &Path,
        on_line: impl FnMut(&str),
    ) -> Result<()> {
        let mut enter = Command::new("unshare");
        enter
            .args(["--mount", "--", "sh", "-c", ENTER, "sh"])
            .args([&self.dir, &self.archives])
            .args(command)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", "/")
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        for name in ["http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(name) {
                enter.env(name, value);
            }
        }
        exec::logged(self.ctx, enter, what, log, on_line)
    }
}
