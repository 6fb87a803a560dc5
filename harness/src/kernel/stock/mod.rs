// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's stock kernel: only what its headers lack for Rust modules is built here.
//!
//! | file | concept |
//! |---|---|
//! | pin.rs | `vm/kernel/stock.toml` |
//! | debian.rs | Debian 13's compilers in a folder of the cache |
//! | image.rs | the kernel's modules as a tree for modprobe, and the initial RAM disk of guests |
//! | extra.rs | modules that Debian does not build |
//! | offer.rs | which kernels the suites offer |
//! | check.rs | the same for a kernel that is not pinned: does the driver build for it? |
//! | symbols.rs | the Rust symbols of two kernels, compared by name |

mod check;
mod debian;
mod extra;
mod image;
mod offer;
mod pin;
mod symbols;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

pub use check::check;
pub use debian::Debian;
pub use extra::provide;
pub use pin::StockPin;

use super::pin::Pin;
use super::{Builder, Kernel};
use crate::ctx::Ctx;
use crate::exec::{self, Lock};
use crate::setup::{self, Need};
use crate::{hash, ui};

/// Raised when the way all this is made changes.
const RECIPE: &str = "1";
/// The script that makes what the headers lack for Rust modules. DKMS runs it to build the driver.
const METADATA: &str = "packaging/dmaplane-dkms/build.sh";

/// The stock kernel with all that booting it and building for it takes.
///
/// # Errors
/// What could not be fetched, did not verify, or differs from what the kernel was built from.
pub fn ensure(ctx: &Ctx) -> Result<Kernel> {
    setup::ensure(ctx, Need::Stock)?;
    let stock = StockPin::load(&ctx.root)?;
    let source = Pin::load(ctx)?.kernel;
    let debian = Debian::ensure(ctx, &stock, &source)?;
    let parent = ctx.cache_sub("kernel")?;
    let key = key(ctx, &stock, &source.package.sha256)?;
    let name = format!("stock-{key}");
    let dir = parent.join(&name);
    if !dir.join("complete").is_file() {
        let _lock = Lock::take(
            ctx,
            &parent.join(format!("{name}.lock")),
            &format!("kernel {name}"),
        )?;
        if !dir.join("complete").is_file() {
            let started = Instant::now();
            make(ctx, &stock, &source.package.version, &debian, &dir)?;
            fs::write(dir.join("complete"), "")?;
            ctx.ui.step(format!(
                "Linux {} of Debian made ready in {}",
                stock.release,
                ui::duration(started.elapsed())
            ));
        }
    }
    let modules = image::modules(&dir, &stock.release);
    Ok(Kernel {
        build_dir: build_dir(&dir),
        source: dir.join("build.source"),
        bz_image: modules.join("vmlinuz"),
        initrd: Some(image::initrd(&dir)),
        config: build_dir(&dir).join(".config"),
        unpacked: Some(dir.join("modules")),
        autoload: Some(modules.clone()),
        modules,
        release: stock.release,
        key,
        builder: Builder::Debian(debian),
    })
}

/// The name of the folder that [`ensure`] returns, without making it.
///
/// # Errors
/// When a file of the checkout cannot be read.
pub fn print_key(ctx: &Ctx) -> Result<String> {
    let source = Pin::load(ctx)?.kernel;
    key(ctx, &StockPin::load(&ctx.root)?, &source.package.sha256)
}

fn build_dir(dir: &Path) -> PathBuf {
    dir.join("build")
}

/// The kernel's name in the cache, made from everything that it is made of.
fn key(ctx: &Ctx, stock: &StockPin, source: &str) -> Result<String> {
    let script = fs::read_to_string(ctx.root.join(METADATA))
        .with_context(|| format!("cannot read {METADATA}"))?;
    let mut parts = vec![RECIPE, source, &stock.release, &script, image::INIT];
    parts.extend(stock.kernel.iter().map(|exact| exact.sha256.as_str()));
    parts.extend(stock.toolchain.iter().map(|exact| exact.sha256.as_str()));
    Ok(hash::texts(parts)[..12].to_owned())
}

fn make(
    ctx: &Ctx,
    stock: &StockPin,
    source_version: &str,
    debian: &Debian,
    dir: &Path,
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    image::make(ctx, stock, debian, dir)?;
    metadata(ctx, debian, &stock.release, source_version, &build_dir(dir))
}

/// Makes a build tree for modules out of Debian's headers and the Rust metadata that they lack.
///
/// `source_version` is that of the package with the kernel's source: the packages are unpacked without dpkg, so dpkg
/// does not know it.
fn metadata(
    ctx: &Ctx,
    debian: &Debian,
    release: &str,
    source_version: &str,
    build_dir: &Path,
) -> Result<()> {
    let mut command = debian.command("sh");
    command
        .arg(ctx.root.join(METADATA))
        .arg("--metadata")
        .arg(build_dir)
        .args(["--source-version", source_version, release]);
    let log = ctx.log_dir()?.join(format!("stock-metadata-{release}.log"));
    let title = "building the Rust metadata that the kernel's headers lack";
    let mut progress = ctx.ui.spinner(title);
    exec::logged(ctx, command, title, &log, |line| {
        progress.message(line.trim());
    })?;
    progress.done();
    Ok(())
}

/// The kernel's make for modules, with the compilers that built the kernel; `config` names the C compiler.
///
/// # Errors
/// When the configuration cannot be read or names none.
pub fn module_make(debian: &Debian, release: &str, config: &Path) -> Result<Command> {
    let text =
        fs::read_to_string(config).with_context(|| format!("cannot read {}", config.display()))?;
    let compiler =
        compiler(&text).with_context(|| format!("{} names no C compiler", config.display()))?;
    let mut command = debian.command("make");
    command.args(["ARCH=x86", "CROSS_COMPILE=x86_64-linux-gnu-"]);
    command.arg(format!("CC={compiler}"));
    command.arg(format!("HOSTCC={compiler}"));
    command.arg(format!("KERNELRELEASE={release}"));
    Ok(command)
}

/// The command of the C compiler that built a kernel.
fn compiler(config: &str) -> Option<&str> {
    let text = config
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_CC_VERSION_TEXT=\""))?;
    text.split([' ', '"'])
        .next()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_the_one_that_the_kernel_names() {
        let config = "CONFIG_CC_IS_GCC=y\nCONFIG_CC_VERSION_TEXT=\"x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0\"\n";
        assert_eq!(compiler(config), Some("x86_64-linux-gnu-gcc-14"));
        assert_eq!(compiler("CONFIG_CC_VERSION_TEXT=\"\"\n"), None);
        assert_eq!(compiler("CONFIG_CC_IS_GCC=y\n"), None);
    }
}
