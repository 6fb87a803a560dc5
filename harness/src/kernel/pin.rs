// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vm/kernel/pin.toml`: which kernel, and which sources of the Rust library.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::ctx::Ctx;

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// The kernel.
    pub kernel: KernelPin,
    /// The library sources, one entry for each version of rustc that was tried.
    #[serde(rename = "rust-src")]
    pub rust_src: Vec<RustSrcPin>,
}

/// The kernel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelPin {
    /// The upstream version.
    pub version: String,
    /// The package that the tarball comes in.
    pub package: PackagePin,
    /// The source.
    pub tarball: TarballPin,
    /// Lines of make's output in a full build, for each profile.
    pub lines: BTreeMap<String, u64>,
}

/// A Debian package, exactly.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackagePin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The suite that has it.
    pub suite: String,
    /// Of the `.deb` file.
    pub sha256: String,
}

/// A source tarball, exactly.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TarballPin {
    /// Its file name inside the package.
    pub name: String,
    /// Of the file.
    pub sha256: String,
}

/// The library sources for one rustc.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RustSrcPin {
    /// `rustc -V`'s version.
    pub rustc: String,
    name: String,
    version: String,
    suite: String,
    sha256: String,
    /// Where in the package `library/` is.
    pub library: String,
}

impl RustSrcPin {
    /// The package.
    pub fn package(&self) -> PackagePin {
        PackagePin {
            name: self.name.clone(),
            version: self.version.clone(),
            suite: self.suite.clone(),
            sha256: self.sha256.clone(),
        }
    }
}

impl Pin {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing or malformed; the message says where.
    pub fn load(ctx: &Ctx) -> Result<Self> {
        let path = ctx.root.join("vm/kernel/pin.toml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_in_the_tree_is_well_formed() {
        let pin: Pin = toml::from_str(include_str!("../../../vm/kernel/pin.toml")).unwrap();
        for sum in [&pin.kernel.package.sha256, &pin.kernel.tarball.sha256]
            .into_iter()
            .chain(pin.rust_src.iter().map(|r| &r.sha256))
        {
            assert_eq!(sum.len(), 64);
            assert!(
                sum.bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            );
        }
        assert!(pin.kernel.package.version.starts_with(&pin.kernel.version));
        assert!(pin.kernel.lines.contains_key("base") && pin.kernel.lines.contains_key("debug"));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = include_str!("../../../vm/kernel/pin.toml");
        let text = text.replace("[kernel.tarball]", "[kernel.tarball]\nmd5 = \"x\"");
        let err = toml::from_str::<Pin>(&text).unwrap_err().to_string();
        assert!(err.contains("md5"), "{err}");
    }
}
