// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `package`: Debian packages of the driver, for DKMS, and of the tool.

mod boot;
#[cfg(test)]
mod build_sh;
mod check;
mod clean_root;
mod contents;
mod deb;
mod tool;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use deb::Package;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::kernel::pin::Pin;
use dmaplane_vmtest::{exec, exit};

/// Builds Debian packages: `dmaplane-dkms` with the driver's source, and `dmaplane` with the tool.
///
/// Needs no root. The same commit gives the same bytes. The tool runs on the distribution that it is built on and on
/// newer ones. docs/install.md says how the packages are installed.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct PackageArgs {
    /// Where the packages go; target/debian of the checkout otherwise.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Also installs, upgrades and removes them in a clean Debian 13 in the cache folder. Needs root and debootstrap.
    #[arg(long)]
    check: bool,
    /// Also installs them with Debian's kernel in such a root, boots it in QEMU, and moves a cache as an ordinary user.
    #[arg(long)]
    boot: bool,
    /// Builds them as the next version, to try an upgrade.
    #[arg(long, conflicts_with_all = ["check", "boot"])]
    next_version: bool,
    /// Also runs lintian, and fails if it reports anything.
    #[arg(long)]
    lint: bool,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: PackageArgs) -> Result<ExitCode> {
    let output = match args.output {
        Some(dir) => std::path::absolute(dir)?,
        None => tool::target_dir(ctx)?.join("debian"),
    };
    let mut identity = Identity::of_checkout(ctx)?;
    if args.next_version {
        identity = identity.next()?;
    }
    let debs = build(ctx, &identity, &output)?;
    for deb in &debs {
        println!("{}", deb.display());
    }
    if args.lint {
        lintian(ctx, &debs)?;
    }
    if args.check {
        check::run(ctx, &identity, &debs)?;
    }
    if args.boot {
        boot::run(ctx, &debs)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the packages say about themselves.
#[derive(Clone, Debug)]
struct Identity {
    /// Cargo's version of the workspace.
    version: String,
    /// The kernel's series, such as `7.3`.
    series: String,
    /// Seconds since 1970: the time of everything in the packages.
    epoch: String,
    /// Name and address.
    maintainer: String,
}

impl Identity {
    /// The identity for the commit that is checked out.
    fn of_checkout(ctx: &Ctx) -> Result<Self> {
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(epoch) => epoch,
            Err(_) => exec::output(
                Command::new("git")
                    .args(["log", "-1", "--format=%ct"])
                    .current_dir(&ctx.root),
            )
            .context("the packages take their time from git; or set SOURCE_DATE_EPOCH")?,
        };
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            series: series(&Pin::load(ctx)?.kernel.version)?,
            epoch,
            maintainer: match (variable("DEBFULLNAME"), variable("DEBEMAIL")) {
                (Some(name), Some(address)) => format!("{name} <{address}>"),
                _ => "The dmaplane developers <developers@dmaplane.invalid>".to_owned(),
            },
        })
    }

    /// The same with the next version, to which the check upgrades.
    fn next(&self) -> Result<Self> {
        Ok(Self {
            version: next_version(&self.version)?,
            ..self.clone()
        })
    }

    /// What replaces these words in the files of `packaging/`.
    fn words(&self) -> Vec<(&'static str, String)> {
        vec![
            ("VERSION", self.version.clone()),
            ("SERIES", self.series.clone()),
            ("MAINTAINER", self.maintainer.clone()),
        ]
    }
}

/// `7.3` of `7.3.4`.
fn series(version: &str) -> Result<String> {
    let mut numbers = version.split('.');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => Ok(format!("{major}.{minor}")),
        _ => anyhow::bail!("vm/kernel/pin.toml: `{version}` has no series"),
    }
}

/// `0.1.1` of `0.1.0`.
fn next_version(version: &str) -> Result<String> {
    let (front, last) = version
        .rsplit_once('.')
        .context("a version without a dot")?;
    let last: u64 = last
        .parse()
        .with_context(|| format!("the last part of `{version}` is no number"))?;
    Ok(format!("{front}.{}", last + 1))
}

/// Builds both packages into `output`, and returns their files.
fn build(ctx: &Ctx, identity: &Identity, output: &Path) -> Result<Vec<PathBuf>> {
    if exec::which("dpkg-deb").is_none() {
        return Err(exit::environment(
            "dpkg-deb is needed to build Debian packages; install dpkg",
        ));
    }
    let tool = tool::Tool::build(ctx, identity)?;
    let packages: [Package; 2] = [
        contents::driver(ctx, identity)?,
        contents::tool(ctx, identity, &tool)?,
    ];
    packages
        .iter()
        .map(|package| package.build(ctx, identity, output))
        .collect()
}

fn lintian(ctx: &Ctx, debs: &[PathBuf]) -> Result<()> {
    if exec::which("lintian").is_none() {
        return Err(exit::environment(
            "--lint needs lintian: apt-get install lintian",
        ));
    }
    let mut command = Command::new("lintian");
    command.args(["--info", "--fail-on", "error,warning", "--suppress-tags"]);
    // Reason: these packages are not Debian's; none closes a bug of its archive.
    command.arg("initial-upload-closes-no-bugs").args(debs);
    if apt_is_root() {
        command.arg("--allow-root");
    }
    let log = ctx.log_dir()?.join("lintian.log");
    let progress = ctx.ui.spinner("running lintian");
    exec::logged(ctx, command, "lintian", &log, |_| {})?;
    progress.done();
    Ok(())
}

fn apt_is_root() -> bool {
    dmaplane_vmtest::setup::apt::is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_and_the_next_version_follow_from_the_numbers() {
        assert_eq!(series("7.3.4").unwrap(), "7.3");
        assert!(series("7").is_err());
        assert_eq!(next_version("0.1.9").unwrap(), "0.1.10");
        assert!(next_version("0.1.x").is_err());
    }
}
