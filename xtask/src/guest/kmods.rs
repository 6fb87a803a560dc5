// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own modules, straight from its build tree: which files, in which order.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::kernel::Kernel;

/// The files of these modules and of all that they depend on, each after its dependencies. What is
/// built into the kernel needs no file.
pub(crate) fn load_order(kernel: &Kernel, names: &[&str]) -> Result<Vec<PathBuf>> {
    let tree = Tree::read(&kernel.build_dir)?;
    let mut order = Vec::new();
    for name in names {
        tree.visit(name, &mut order)?;
    }
    Ok(order)
}

struct Tree {
    dir: PathBuf,
    modules: Vec<String>,
    builtin: Vec<String>,
}

impl Tree {
    fn read(dir: &Path) -> Result<Self> {
        let lines = |name: &str| -> Result<Vec<String>> {
            let path = dir.join(name);
            let text = fs::read_to_string(&path).with_context(|| {
                format!("cannot read {}: is it a kernel build?", path.display())
            })?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        Ok(Self {
            dir: dir.to_owned(),
            modules: lines("modules.order")?,
            builtin: lines("modules.builtin")?,
        })
    }

    fn visit(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let Some(path) = self.modules.iter().find(|path| module_name(path) == name) else {
            if self.builtin.iter().any(|path| module_name(path) == name) {
                return Ok(());
            }
            bail!("this kernel has no module {name}; vm/kernel/*.config must enable it");
        };
        let ko = self.dir.join(path).with_extension("ko");
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

    fn tree(dir: &Path) -> Kernel {
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
        Kernel {
            build_dir: dir.to_owned(),
            source: PathBuf::new(),
            bz_image: PathBuf::new(),
            release: String::new(),
            key: String::new(),
            config: PathBuf::new(),
        }
    }

    #[test]
    fn each_module_comes_once_and_after_its_dependencies() {
        let dir = tempfile::tempdir().unwrap();
        let order = load_order(&tree(dir.path()), &["top", "low", "inside"]).unwrap();
        let names = ["b/low.ko", "b/mid-dle.ko", "a/top.ko"].map(|name| dir.path().join(name));
        assert_eq!(order, names);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let err = load_order(&tree(dir.path()), &["siw"])
            .unwrap_err()
            .to_string();
        assert!(err.contains("no module siw"), "{err}");
    }
}
