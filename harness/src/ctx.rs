// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every command needs to know about this run: where things are and how to talk to the user.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xshell::Shell;

use crate::ui::Ui;

/// One run of xtask.
pub struct Ctx {
    /// The checkout.
    pub root: PathBuf,
    /// Everything that is downloaded or built apart from cargo's target folder.
    pub cache: PathBuf,
    /// How often `-v` was given.
    pub verbose: u8,
    /// Steps and progress bars on stderr; stdout belongs to results.
    pub ui: Ui,
}

impl Ctx {
    /// Finds the checkout and the cache, and creates the latter.
    pub fn new(verbose: u8) -> Result<Self> {
        let root = find_root()?;
        let cache = cache_dir(|name| env::var_os(name).map(PathBuf::from))?;
        if cache.starts_with(&root) {
            bail!(
                "the cache folder {} is inside the checkout; name another one in DMAPLANE_CACHE",
                cache.display()
            );
        }
        Ok(Self {
            root,
            cache: provide(&cache)?,
            verbose,
            ui: Ui::new(verbose),
        })
    }

    /// One whose checkout and cache are the same folder.
    #[cfg(test)]
    pub(crate) fn in_folder(dir: &Path) -> Self {
        Self {
            root: dir.to_owned(),
            cache: dir.to_owned(),
            verbose: 0,
            ui: Ui::new(0),
        }
    }

    /// A shell whose working directory is the checkout.
    pub fn shell(&self) -> Result<Shell> {
        let shell = Shell::new()?;
        shell.change_dir(&self.root);
        Ok(shell)
    }

    /// The folder `name` in the cache, created if it is not there.
    pub fn cache_sub(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let dir = self.cache.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// Where logs go.
    pub fn log_dir(&self) -> Result<PathBuf> {
        self.cache_sub("log")
    }
}

/// The checkout: the nearest folder with the kernel pin, upwards from the manifest's folder that
/// cargo names, else from the working directory.
fn find_root() -> Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let start = match manifest {
        Some(dir) => dir,
        None => env::current_dir()?,
    };
    start
        .ancestors()
        .find(|dir| dir.join("vm/kernel/pin.toml").is_file())
        .map(Path::to_path_buf)
        .context("this is not a dmaplane checkout: no vm/kernel/pin.toml here or above")
}

fn cache_dir(var: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    let dir = if let Some(dir) = var("DMAPLANE_CACHE").filter(|d| !d.as_os_str().is_empty()) {
        dir
    } else if let Some(dir) = var("XDG_CACHE_HOME").filter(|d| d.is_absolute()) {
        dir.join("dmaplane")
    } else {
        var("HOME")
            .context("neither DMAPLANE_CACHE nor XDG_CACHE_HOME nor HOME is set; set one")?
            .join(".cache/dmaplane")
    };
    std::path::absolute(&dir).with_context(|| format!("{} is no path", dir.display()))
}

/// Creates the cache folder, and finds where it really is: Debian's compilers run in a root folder of their own, where a
/// link on the way to it leads nowhere.
fn provide(cache: &Path) -> Result<PathBuf> {
    fs::create_dir_all(cache)
        .and_then(|()| fs::canonicalize(cache))
        .with_context(|| format!("cannot create the cache folder {}", cache.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_behind_a_link_is_used_by_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, link) = (dir.path().join("disk"), dir.path().join("link"));
        fs::create_dir(&disk).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let disk = fs::canonicalize(disk).unwrap();
        assert_eq!(provide(&link).unwrap(), disk);
        assert_eq!(provide(&link.join("new")).unwrap(), disk.join("new"));
    }

    fn with(vars: &[(&str, &str)]) -> Result<PathBuf> {
        cache_dir(|name| {
            vars.iter()
                .find(|(k, _)| *k == name)
                .map(|(_, v)| PathBuf::from(v))
        })
    }

    #[test]
    fn the_cache_is_found_in_the_documented_order() {
        let all = [
            ("DMAPLANE_CACHE", "/a"),
            ("XDG_CACHE_HOME", "/b"),
            ("HOME", "/c"),
        ];
        assert_eq!(with(&all).unwrap(), Path::new("/a"));
        assert_eq!(with(&all[1..]).unwrap(), Path::new("/b/dmaplane"));
        assert_eq!(with(&all[2..]).unwrap(), Path::new("/c/.cache/dmaplane"));
        assert!(with(&[]).is_err());
    }

    #[test]
    fn a_relative_xdg_folder_is_ignored_as_its_specification_says() {
        let vars = [("XDG_CACHE_HOME", "b"), ("HOME", "/c")];
        assert_eq!(with(&vars).unwrap(), Path::new("/c/.cache/dmaplane"));
    }
}
