// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel's own modules: which files, in which order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// The modules of one kernel.
pub struct Modules {
    /// Holds `modules.order` and what it names.
    dir: PathBuf,
    /// Where compressed modules are unpacked to: the kernel accepts compressed ones only from modprobe.
    unpacked: Option<PathBuf>,
    modules: Vec<String>,
    builtin: Vec<String>,
}

impl Modules {
    /// Reads the lists of a build tree, or of a folder of `/lib/modules`; compressed modules are unpacked into `unpacked`.
    ///
    /// # Errors
    /// When there are none.
    pub fn read(dir: &Path, unpacked: Option<&Path>) -> Result<Self> {
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = dir.join(name);
            let text = fs::read_to_string(&path).with_context(|| {
                format!("cannot read {}: is it a kernel build?", path.display())
            })?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        Ok(Self {
            dir: dir.to_owned(),
            unpacked: unpacked.map(Path::to_owned),
            modules: lines("modules.order")?,
            builtin: lines("modules.builtin")?,
        })
    }

    /// The files of these modules and of all that they depend on, each after its dependencies. What is
    /// built into the kernel needs no file.
    ///
    /// # Errors
    /// When the kernel has no such module, or its file cannot be read.
    pub fn load_order(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in names {
            self.visit(name, &mut order)?;
        }
        Ok(order)
    }

    /// The files of all that another module, which is not the kernel's own, depends on.
    ///
    /// # Errors
    /// As [`Modules::load_order`].
    pub fn needed_by(&self, ko: &Path) -> Result<Vec<PathBuf>> {
        let bytes = fs::read(ko).with_context(|| format!("cannot read {}", ko.display()))?;
        let names = dependencies(&bytes);
        self.load_order(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn visit(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let Some(path) = self.modules.iter().find(|path| module_name(path) == name) else {
            // Built separately, because the kernel was built without it.
            if let Some(ko) = self
                .unpacked
                .as_ref()
                .map(|dir| dir.join(format!("{name}.ko")))
                && ko.is_file()
            {
                return self.after_dependencies(ko, order);
            }
            if self.builtin.iter().any(|path| module_name(path) == name) {
                return Ok(());
            }
            bail!(
                "this kernel has no module {name}; for our own, vm/kernel/*.config must enable it"
            );
        };
        let ko = self.file(&self.dir.join(path).with_extension("ko"))?;
        self.after_dependencies(ko, order)
    }

    fn after_dependencies(&self, ko: PathBuf, order: &mut Vec<PathBuf>) -> Result<()> {
        if order.contains(&ko) {
            return Ok(());
        }
        let bytes = fs::read(&ko).with_context(|| format!("cannot read {}", ko.display()))?;
        for dependency in dependencies(&bytes) {
            self.visit(&dependency, order)?;
        }
        order.push(ko);
        Ok(())
    }

    /// The file to load for the module: the module's own, or an unpacked one.
    fn file(&self, ko: &Path) -> Result<PathBuf> {
        let compressed = ko.with_extension("ko.xz");
        let (Some(dir), true) = (&self.unpacked, compressed.is_file()) else {
            return Ok(ko.to_owned());
        };
        let name = ko.file_name().context("a module without a name")?;
        let plain = dir.join(name);
        if plain.is_file() {
            return Ok(plain);
        }
        fs::create_dir_all(dir)?;
        // Another run may unpack the same one: each has its own file until it is whole.
        let temporary = tempfile::NamedTempFile::new_in(dir)?;
        let mut xz = Command::new("xz");
        xz.arg("-dc").arg(&compressed).stdin(Stdio::null());
        let status = xz
            .stdout(temporary.reopen()?)
            .status()
            .context("cannot start xz; install xz-utils")?;
        if !status.success() {
            bail!("xz cannot unpack {}", compressed.display());
        }
        temporary.persist(&plain)?;
        Ok(plain)
    }
}

/// `drivers/infiniband/sw/rxe/rdma_rxe.o` is `rdma_rxe`; file names may have `-` where the module
/// has `_`.
fn module_name(path: &str) -> String {
    let stem = Path::new(path).file_stem().unwrap_or_default();
    stem.to_string_lossy().replace('-', "_")
}

/// The `depends=` entry of a module file: names, separated by commas.
fn dependencies(ko: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = ko.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = ko[at + key.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec;

    /// A folder with three modules, for tests.
    fn fake(dir: &Path) {
        let write = |path: &str, bytes: &[u8]| {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        write("modules.order", b"a/top.o\nb/mid-dle.o\nb/low.o\n");
        write("modules.builtin", b"kernel/c/inside.ko\n");
        write(
            "a/top.ko",
            b"ELF\0license=GPL\0depends=mid_dle,low\0name=top\0",
        );
        write("b/mid-dle.ko", b"ELF\0depends=low,inside\0");
        write("b/low.ko", b"ELF\0depends=\0");
    }

    #[test]
    fn each_module_comes_once_and_after_its_dependencies() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path());
        let modules = Modules::read(dir.path(), None).unwrap();
        let order = modules.load_order(&["top", "low", "inside"]).unwrap();
        let names = ["b/low.ko", "b/mid-dle.ko", "a/top.ko"].map(|name| dir.path().join(name));
        assert_eq!(order, names);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path());
        let modules = Modules::read(dir.path(), None).unwrap();
        let err = modules.load_order(&["siw"]).unwrap_err().to_string();
        assert!(err.contains("no module siw"), "{err}");
    }

    #[test]
    fn compressed_modules_are_unpacked_once() {
        let dir = tempfile::tempdir().unwrap();
        fake(dir.path());
        for name in ["a/top.ko", "b/mid-dle.ko", "b/low.ko"] {
            exec::output(Command::new("xz").arg(dir.path().join(name))).unwrap();
        }
        let unpacked = dir.path().join("unpacked");
        let modules = Modules::read(dir.path(), Some(&unpacked)).unwrap();
        let order = modules.load_order(&["top"]).unwrap();
        let names = ["low.ko", "mid-dle.ko", "top.ko"].map(|name| unpacked.join(name));
        assert_eq!(order, names);
        let own = dir.path().join("own.ko");
        fs::write(&own, b"ELF\0depends=mid_dle\0").unwrap();
        assert_eq!(modules.needed_by(&own).unwrap(), names[..2]);
        // The archive is not looked at any more.
        fs::write(dir.path().join("b/low.ko.xz"), "damaged").unwrap();
        assert_eq!(modules.load_order(&["top"]).unwrap(), names);
    }
}
