// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vm/kernel/stock.toml`: which stock kernel, and what Debian built it with.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::kernel::pin::PackagePin;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockPin {
    /// `uname -r` of the kernel.
    pub release: String,
    /// The suites that have all packages; the last one has the kernel.
    pub suites: Vec<String>,
    /// Packages that a build needs in whatever version the suites have.
    pub programs: Vec<String>,
    /// The kernel and its modules, which guests boot.
    #[serde(rename = "kernel")]
    pub kernel: Vec<Exact>,
    /// What modules are built with.
    pub toolchain: Vec<Exact>,
}

/// A package in exactly one version.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exact {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Of the `.deb` file.
    pub sha256: String,
}

impl StockPin {
    /// Reads the file of the checkout at `root`.
    ///
    /// # Errors
    /// When it is missing or malformed; the message says where.
    pub fn load(root: &Path) -> Result<Self> {
        let path = root.join("vm/kernel/stock.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
    }

    /// The suite of the kernel's packages.
    pub fn kernel_suite(&self) -> &str {
        self.suites.last().map_or("", String::as_str)
    }

    /// A package of the kernel's, as a download of its own.
    pub fn package(&self, exact: &Exact) -> PackagePin {
        PackagePin {
            name: exact.name.clone(),
            version: exact.version.clone(),
            suite: self.kernel_suite().to_owned(),
            sha256: exact.sha256.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::pin::Pin;

    #[test]
    fn the_stock_kernel_is_the_very_release_of_the_other_profiles() {
        let stock: StockPin =
            toml::from_str(include_str!("../../../../vm/kernel/stock.toml")).unwrap();
        let pin: Pin = toml::from_str(include_str!("../../../../vm/kernel/pin.toml")).unwrap();
        assert!(stock.release.starts_with(&pin.kernel.version));
        assert_eq!(stock.kernel_suite(), pin.kernel.package.suite);
        let of_kernel = |exact: &&Exact| exact.name.starts_with("linux-");
        for exact in stock
            .kernel
            .iter()
            .chain(stock.toolchain.iter().filter(of_kernel))
        {
            assert_eq!(exact.version, pin.kernel.package.version, "{}", exact.name);
        }
        for exact in stock.kernel.iter().chain(&stock.toolchain) {
            assert!(exact.sha256.len() == 64, "{}", exact.name);
        }
    }
}
