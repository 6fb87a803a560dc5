// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that no distribution has in the right version: built or installed into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::ctx::Ctx;
use crate::{exec, exit};

/// virtme-ng's pinned version.
const VIRTME_NG: &str = "1.42";

/// A tool from the crate registry.
pub(crate) struct Crate {
    /// The crate.
    pub name: &'static str,
    /// Its pinned version.
    pub version: &'static str,
    /// The program that it installs.
    pub program: &'static str,
    /// Whether any version that is on PATH does as well.
    pub path_will_do: bool,
}

/// The kernel's build needs at least 0.71.1, and its output is part of the kernel's key.
pub(crate) const BINDGEN: Crate = Crate {
    name: "bindgen-cli",
    version: "0.72.1",
    program: "bindgen",
    path_will_do: false,
};
/// Runs the tests on the host and in guests.
pub(crate) const NEXTEST: Crate = Crate {
    name: "cargo-nextest",
    version: "0.9.143",
    program: "cargo-nextest",
    path_will_do: true,
};
/// Checks licences, sources and bans.
pub(crate) const DENY: Crate = Crate {
    name: "cargo-deny",
    version: "0.20.2",
    program: "cargo-deny",
    path_will_do: true,
};

impl Crate {
    /// Where the tool is or will be, and whether it is there.
    pub(crate) fn find(&self, cache: &Path) -> (PathBuf, bool) {
        if self.path_will_do
            && let Some(path) = exec::which(self.program)
        {
            return (path, true);
        }
        let root = cache.join("tools");
        let path = root.join("bin").join(self.program);
        // cargo's own record of what it installed has the version, so the tool need not run.
        let record = fs::read_to_string(root.join(".crates.toml")).unwrap_or_default();
        let present = path.is_file() && records(&record, self.name, self.version);
        (path, present)
    }

    /// Builds it into the cache.
    ///
    /// # Errors
    /// What could not be fetched or built.
    pub(crate) fn install(&self, ctx: &Ctx) -> Result<()> {
        let root = ctx.cache_sub("tools")?;
        let target = exec::scratch(&root)?;
        let log = ctx.log_dir()?.join(format!("{}.log", self.name));
        let mut command = Command::new("cargo");
        command
            .args(["install", "--locked", "--version", self.version, "--root"])
            .arg(&root)
            .arg(self.name)
            .env("CARGO_TARGET_DIR", target.path())
            // They run for seconds and are built for minutes.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env_remove("LD_LIBRARY_PATH")
            // Outside of the checkout, whose cargo configuration is not meant for this.
            .current_dir(&root);
        let what = format!("building {} {}", self.name, self.version);
        let mut progress = ctx.ui.spinner(&what);
        exec::logged(ctx, command, &what, &log, |line| {
            progress.message(line.trim());
        })
        .map_err(|err| {
            exit::environment(format!(
                "{err:#}\nTo provide it by other means: cargo install --locked --version {} \
                     --root {} {}",
                self.version,
                root.display(),
                self.name
            ))
        })?;
        progress.done();
        Ok(())
    }
}

fn records(record: &str, name: &str, version: &str) -> bool {
    record.contains(&format!("\"{name} {version} ("))
}

/// The folder with `vng`, and whether the pinned version is in it.
pub(crate) fn find_virtme(cache: &Path) -> (PathBuf, bool) {
    let venv = cache.join("venv");
    let bin = venv.join("bin");
    let present = bin.join("vng").is_file()
        && fs::read_dir(venv.join("lib")).is_ok_and(|mut pythons| {
            pythons.any(|python| {
                python.is_ok_and(|python| {
                    python
                        .path()
                        .join(format!("site-packages/virtme_ng-{VIRTME_NG}.dist-info"))
                        .is_dir()
                })
            })
        });
    (bin, present)
}

/// Installs virtme-ng into a virtual environment in the cache.
///
/// # Errors
/// What python or pip said.
pub(crate) fn install_virtme(ctx: &Ctx) -> Result<()> {
    let venv = ctx.cache.join("venv");
    let log = ctx.log_dir()?.join("virtme-ng.log");
    let progress = ctx.ui.spinner(format!("installing virtme-ng {VIRTME_NG}"));
    let mut create = Command::new("python3");
    create.args(["-m", "venv", "--clear"]).arg(&venv);
    let remedy = |err: anyhow::Error| {
        exit::environment(format!(
            "{err:#}\nOn Debian and Ubuntu `python3 -m venv` needs the package python3-venv. To \
             provide virtme-ng by other means: python3 -m venv {0} && {0}/bin/pip install \
             virtme-ng=={VIRTME_NG}",
            venv.display()
        ))
    };
    exec::logged(ctx, create, "making a virtual environment", &log, |_| {}).map_err(remedy)?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", &format!("virtme-ng=={VIRTME_NG}")]);
    exec::logged(ctx, pip, "installing virtme-ng by pip", &log, |_| {}).map_err(remedy)?;
    progress.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "[v1]\n\"bindgen-cli 0.72.1 (registry+x)\" = [\"bindgen\"]\n";

    #[test]
    fn the_record_has_the_exact_version() {
        assert!(records(RECORD, "bindgen-cli", "0.72.1"));
        assert!(!records(RECORD, "bindgen-cli", "0.72"));
        assert!(!records(RECORD, "bindgen", "0.72.1"));
    }

    #[test]
    fn a_tool_is_there_only_with_its_file_and_its_record() {
        let cache = tempfile::tempdir().unwrap();
        let bin = cache.path().join("tools/bin");
        fs::create_dir_all(&bin).unwrap();
        assert!(!BINDGEN.find(cache.path()).1);
        fs::write(bin.join("bindgen"), "").unwrap();
        assert!(!BINDGEN.find(cache.path()).1);
        fs::write(cache.path().join("tools/.crates.toml"), RECORD).unwrap();
        assert!(BINDGEN.find(cache.path()).1);
    }

    #[test]
    fn virtme_is_there_only_in_the_pinned_version() {
        let cache = tempfile::tempdir().unwrap();
        let venv = cache.path().join("venv");
        fs::create_dir_all(venv.join("bin")).unwrap();
        fs::write(venv.join("bin/vng"), "").unwrap();
        let packages = venv.join("lib/python3.11/site-packages");
        fs::create_dir_all(packages.join("virtme_ng-1.40.dist-info")).unwrap();
        assert!(!find_virtme(cache.path()).1);
        fs::create_dir_all(packages.join(format!("virtme_ng-{VIRTME_NG}.dist-info"))).unwrap();
        assert!(find_virtme(cache.path()).1);
    }
}
