// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pinned kernel: Debian's own build of it, or fetched, verified, configured, built, cached.

pub mod build;
pub mod config;
pub mod modules;
pub mod pin;
mod source;
pub mod stock;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::setup::{self, Need, Tools};
use crate::{exec, exit, hash};
use pin::Pin;

/// Raised when the way a kernel is built changes, so that older builds are not taken for new ones.
const RECIPE: &str = "1";

/// Which configuration of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Debian 13's stock kernel, as users run it: only the module is built for it.
    Stock,
    /// A small kernel with fault injection, built here.
    Base,
    /// KASAN, lockdep, kmemleak, fault injection; slow.
    Debug,
}

impl Profile {
    /// The profile's name as it is in file names and environment variables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Base => "base",
            Self::Debug => "debug",
        }
    }
}

/// What builds modules for a kernel: whatever built the kernel.
#[derive(Clone, Debug)]
pub enum Builder {
    /// The machine's own compilers, clang and rustup's rustc.
    Machine,
    /// Debian 13's, gcc and its own rustc, in a folder of the cache.
    Debian(stock::Debian),
}

/// A kernel in the cache.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// The build tree, `O=` of the kernel's make.
    pub build_dir: PathBuf,
    /// The source tree that it was built from.
    pub source: PathBuf,
    /// The bootable image.
    pub bz_image: PathBuf,
    /// The initial RAM disk, where the kernel has the drivers of the guests' root as modules.
    pub initrd: Option<PathBuf>,
    /// The folder with the list of its modules.
    pub modules: PathBuf,
    /// Where compressed modules are unpacked to.
    #[serde(skip)]
    pub unpacked: Option<PathBuf>,
    /// Where modprobe finds modules in a guest, for kernels that load them on demand.
    pub autoload: Option<PathBuf>,
    /// Its `uname -r`.
    pub release: String,
    /// What names this exact build: 12 hexadecimal digits.
    pub key: String,
    /// The final `.config`.
    pub config: PathBuf,
    /// What builds modules for it.
    #[serde(skip)]
    pub builder: Builder,
}

impl Kernel {
    /// Its own modules.
    ///
    /// # Errors
    /// When the lists of them cannot be read.
    pub fn modules(&self) -> Result<modules::Modules> {
        modules::Modules::read(&self.modules, self.unpacked.as_deref())
    }

    /// The kernel's make, in its build tree, with the compilers that it was built by.
    ///
    /// # Errors
    /// When the machine's own are needed and missing.
    pub fn make(&self, ctx: &Ctx) -> Result<Command> {
        let mut command = match &self.builder {
            Builder::Machine => build::plain_make(&setup::ensure(ctx, Need::Kernel)?),
            Builder::Debian(debian) => stock::module_make(debian, &self.release, &self.config)?,
        };
        command.arg("-C").arg(&self.build_dir);
        Ok(command)
    }
}

/// Prepares a kernel for guests: fetched, verified, cached, and built if necessary.
///
/// `stock` is Debian 13's kernel (vm/kernel/stock.toml); only what its headers lack for Rust modules is built, with the
/// compilers that Debian used. `base` and `debug` are built here: vm/kernel/base.config on top of allnoconfig, and for
/// `debug` also debug.config. The name of a build covers everything that it depends on; an interrupted one goes on
/// where it stopped.
#[derive(Args)]
#[command(after_help = crate::exit::HELP)]
pub struct KernelArgs {
    /// Which configuration.
    #[arg(long, value_enum, default_value = "stock")]
    profile: Profile,
    /// The source tarball, or the package that holds it, instead of a download.
    #[arg(long, value_name = "FILE")]
    tarball: Option<PathBuf>,
    /// Runs at a low priority, which leaves most of the processors to others.
    #[arg(long)]
    nice: bool,
    /// Builds driver and metadata for another of Debian's kernels, by its release, its package's version or the version
    /// of Linux, and shows which changes of the kernel's Rust API the driver would have to follow. Exit code 1 if it
    /// does not build.
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["profile", "tarball", "print_key", "json"])]
    check: Option<String>,
    /// Prints the name of the build in the cache and builds nothing.
    #[arg(long)]
    print_key: bool,
    /// Prints where things are as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Provides a kernel, or what else the arguments name.
#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub fn run(ctx: &Ctx, args: KernelArgs) -> Result<ExitCode> {
    if args.nice {
        // About a quarter of a processor's time beside a busy guest. The guests of this kernel are the last to end on a new
        // machine, so its build must not wait for all others.
        rustix::process::nice(6).context("cannot lower the priority")?;
    }
    if let Some(version) = &args.check {
        return stock::check(ctx, version);
    }
    if args.print_key && args.profile == Profile::Stock {
        println!("stock-{}", stock::print_key(ctx)?);
        return Ok(ExitCode::SUCCESS);
    }
    if args.print_key {
        let tools = setup::ensure(ctx, Need::Kernel)?;
        let pin = Pin::load(ctx)?;
        let fragment = config::fragment(ctx, args.profile)?;
        println!(
            "{}-{}",
            args.profile.name(),
            key(&pin, &fragment, &Toolchain::probe(&tools)?)
        );
        return Ok(ExitCode::SUCCESS);
    }
    let kernel = ensure_from(ctx, args.profile, args.tarball.as_deref())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&kernel)?);
    } else {
        println!(
            "Linux {} ({}): {}",
            kernel.release,
            args.profile.name(),
            kernel.bz_image.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The kernel of this profile: from the cache, else built.
///
/// # Errors
/// What could not be fetched, did not verify, was refused by Kconfig or did not compile.
pub fn ensure(ctx: &Ctx, profile: Profile) -> Result<Kernel> {
    ensure_from(ctx, profile, None)
}

fn ensure_from(ctx: &Ctx, profile: Profile, tarball: Option<&Path>) -> Result<Kernel> {
    if profile == Profile::Stock {
        if tarball.is_some() {
            return Err(exit::coded(
                exit::USAGE,
                "--tarball is for the profiles that are built here; the stock kernel comes as packages",
            ));
        }
        return stock::ensure(ctx);
    }
    let tools = setup::ensure(ctx, Need::Kernel)?;
    let pin = Pin::load(ctx)?;
    let fragment = config::fragment(ctx, profile)?;
    let key = key(&pin, &fragment, &Toolchain::probe(&tools)?);
    let source = source::ensure(ctx, &pin.kernel, tarball)?;
    let lines = pin
        .kernel
        .lines
        .get(profile.name())
        .copied()
        .unwrap_or(2_500);
    build::ensure(
        ctx,
        &tools,
        &build::Plan {
            profile,
            key,
            source,
            fragment,
            lines,
        },
    )
}

/// The programs that produce a build.
pub struct Toolchain {
    rustc: String,
    clang: String,
    bindgen: String,
}

impl Toolchain {
    /// Asks each for its version.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn probe(tools: &Tools) -> Result<Self> {
        let clang =
            exec::output(Command::new(format!("clang{}", tools.llvm_suffix)).arg("--version"))?;
        Ok(Self {
            rustc: exec::output(Command::new("rustc").arg("-vV"))?,
            // The other lines name folders and the host's defaults.
            clang: clang.lines().next().unwrap_or_default().to_owned(),
            bindgen: exec::output(Command::new(&tools.bindgen).arg("--version"))?,
        })
    }
}

/// Names a build by everything that it depends on.
fn key(pin: &Pin, fragment: &str, tools: &Toolchain) -> String {
    let all = hash::texts([
        RECIPE,
        &pin.kernel.tarball.sha256,
        fragment,
        &tools.rustc,
        &tools.clang,
        &tools.bindgen,
    ]);
    all[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_changes_with_everything_that_a_build_depends_on() {
        let pin: Pin = toml::from_str(include_str!("../../../vm/kernel/pin.toml")).unwrap();
        let tools = |r: &str, c: &str, b: &str| Toolchain {
            rustc: r.to_owned(),
            clang: c.to_owned(),
            bindgen: b.to_owned(),
        };
        let first = key(&pin, "CONFIG_A=y\n", &tools("r", "c", "b"));
        assert_eq!(first.len(), 12);
        assert_eq!(first, key(&pin, "CONFIG_A=y\n", &tools("r", "c", "b")));
        let mut other = pin.clone();
        other.kernel.tarball.sha256 = "0".repeat(64);
        let keys = [
            key(&other, "CONFIG_A=y\n", &tools("r", "c", "b")),
            key(&pin, "CONFIG_A=m\n", &tools("r", "c", "b")),
            key(&pin, "CONFIG_A=y\n", &tools("r2", "c", "b")),
            key(&pin, "CONFIG_A=y\n", &tools("r", "c2", "b")),
            key(&pin, "CONFIG_A=y\n", &tools("r", "c", "b2")),
        ];
        assert!(keys.iter().all(|k| *k != first), "{keys:?}");
        // A field that only moves the progress bar or names a mirror does not change it.
        let mut same = pin.clone();
        same.kernel.lines.clear();
        same.kernel.package.suite = "sid".to_owned();
        assert_eq!(first, key(&same, "CONFIG_A=y\n", &tools("r", "c", "b")));
    }
}
