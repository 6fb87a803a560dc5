// SPDX-License-Identifier: MIT OR Apache-2.0
//! The standard library's sources of the running rustc, from which the kernel builds `core`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::package;
use crate::ctx::Ctx;
use crate::kernel::pin::Pin;
use crate::{exec, exit};

/// How long rustup may take: where it cannot reach its server it must not hold up everything else.
const RUSTUP_SECONDS: &str = "60";

/// The file by which a folder is recognised as the library.
const LANDMARK: &str = "core/src/lib.rs";

/// The running rustc, and the two places where its library may be.
pub(crate) struct Places {
    version: String,
    component: PathBuf,
    cached: PathBuf,
}

impl Places {
    /// Asks rustc.
    ///
    /// # Errors
    /// When rustc does not run.
    pub(crate) fn probe(cache: &Path) -> Result<Self> {
        let sysroot = exec::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let component = Path::new(&sysroot).join("lib/rustlib/src/rust/library");
        let text = exec::output(Command::new("rustc").arg("-V"))?;
        let version = text
            .split_whitespace()
            .nth(1)
            .context("rustc -V names no version")?
            .to_owned();
        let cached = cache.join("rust-src").join(&version).join("library");
        Ok(Self {
            version,
            component,
            cached,
        })
    }

    /// `library/`, if it is there.
    pub(crate) fn find(&self) -> Option<&Path> {
        [&self.component, &self.cached]
            .into_iter()
            .find(|dir| dir.join(LANDMARK).is_file())
            .map(PathBuf::as_path)
    }

    /// Gets it: by rustup where that works, else from the pinned package.
    ///
    /// # Errors
    /// What was tried, and what to do.
    pub(crate) fn provide(&self, ctx: &Ctx) -> Result<()> {
        if self.by_rustup(ctx) {
            return Ok(());
        }
        let remedy = format!(
            "Where rustup reaches its server, `rustup component add rust-src` provides the same. \
             Or put the folder library/ of Rust {}'s sources at {}.",
            self.version,
            self.cached.display()
        );
        let pin = Pin::load(ctx)?;
        let pin = pin
            .rust_src
            .iter()
            .find(|p| p.rustc == self.version)
            .ok_or_else(|| {
                exit::environment(format!(
                    "vm/kernel/pin.toml names no library sources for rustc {}.\n{remedy}",
                    self.version
                ))
            })?;
        let deb = package::fetch(ctx, &pin.package(), &remedy)?;
        let parent = ctx.cache_sub("rust-src")?;
        let progress = ctx.ui.spinner("unpacking the Rust library's sources");
        let temporary = exec::scratch(&parent)?;
        package::unpack(&deb, temporary.path())?;
        let place = self
            .cached
            .parent()
            .context("the cache folder has no parent")?;
        fs::create_dir_all(place)?;
        fs::rename(temporary.path().join(&pin.library), &self.cached)
            .with_context(|| format!("the package {} holds no {}", deb.display(), pin.library))?;
        progress.done();
        Ok(())
    }

    fn by_rustup(&self, ctx: &Ctx) -> bool {
        let under_rustup = self
            .component
            .components()
            .any(|c| c.as_os_str() == "toolchains");
        if !under_rustup || exec::which("rustup").is_none() || exec::which("timeout").is_none() {
            return false;
        }
        let progress = ctx.ui.spinner("asking rustup for rust-src");
        let mut command = Command::new("timeout");
        command.args([RUSTUP_SECONDS, "rustup", "component", "add", "rust-src"]);
        // Run in the checkout, so that the component goes to the toolchain that builds it.
        command.current_dir(&ctx.root);
        let result = exec::output(&mut command);
        match &result {
            Ok(_) => progress.done(),
            Err(err) => {
                drop(progress);
                ctx.ui.detail(format!("rustup did not help: {err:#}"));
            }
        }
        self.component.join(LANDMARK).is_file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolchains_own_component_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            version: "1.95.0".to_owned(),
            component: dir.path().join("component"),
            cached: dir.path().join("cached"),
        };
        assert_eq!(places.find(), None);
        for place in [&places.cached, &places.component] {
            let file = place.join(LANDMARK);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
            assert_eq!(places.find(), Some(place.as_path()));
        }
    }
}
