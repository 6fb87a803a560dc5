// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that run inside guests: built on the host, seen there under the same paths.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::ctx::Ctx;
use crate::exec;

/// Where built programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Holds `guest-runner`, `dmaplane-peer` and `dmaplane`.
    pub dir: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

impl Binaries {
    /// Builds the programs with the profile `guest`.
    pub fn build(ctx: &Ctx) -> Result<Self> {
        let mut command = cargo(ctx);
        command.args(["build", "--profile", "guest", "--bins"]);
        command.args(["--package", "dmaplane-testkit", "--package", "dmaplane-cli"]);
        let log = ctx.log_dir()?.join("guest-binaries.log");
        let mut progress = ctx.ui.spinner("building what runs inside the guests");
        exec::logged(
            ctx,
            command,
            "building the guests' programs",
            &log,
            |line| {
                progress.message(line.trim());
            },
        )?;
        Ok(Self {
            dir: target_dir(ctx)?.join("guest"),
        })
    }

    /// The init process of guests.
    pub fn runner(&self) -> PathBuf {
        self.dir.join("guest-runner")
    }
}

/// The folder of everything that cargo builds in the checkout.
pub fn target_dir(ctx: &Ctx) -> Result<PathBuf> {
    let text = exec::output(cargo(ctx).args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    Ok(metadata.target_directory)
}

/// Cargo in the checkout, without the variables that an outer cargo set.
pub fn cargo(ctx: &Ctx) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&ctx.root);
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PKG_NAME",
    ] {
        command.env_remove(name);
    }
    command
}

/// The search path for programs in a guest: ours first, then the system's.
pub fn search_path(dir: &Path) -> String {
    format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        dir.display()
    )
}
