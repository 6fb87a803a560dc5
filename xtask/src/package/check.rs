// SPDX-License-Identifier: MIT OR Apache-2.0
//! `package --check`: the packages in a clean root, from their installation to their removal.

use std::path::PathBuf;

use anyhow::Result;

use super::clean_root::CleanRoot;
use super::{Identity, build};
use dmaplane_vmtest::ctx::Ctx;

/// The script that installs, upgrades and removes, which CI runs in a container.
const SCRIPT: &str = "packaging/check.sh";

/// Runs the script in a new root.
///
/// # Errors
/// What went wrong, with the script's last lines.
pub(super) fn run(ctx: &Ctx, identity: &Identity, debs: &[PathBuf]) -> Result<()> {
    let output = ctx.cache_sub("package/next")?;
    let next = build(ctx, &identity.next()?, &output)?;
    let root = CleanRoot::create(ctx)?;
    root.copy(debs, "tmp/first")?;
    root.copy(&next, "tmp/next")?;
    root.copy(&[ctx.root.join(SCRIPT)], "tmp")?;
    let log = ctx.log_dir()?.join("package-check.log");
    let mut progress = ctx.ui.spinner("trying the packages in a clean root");
    let command = ["bash", "/tmp/check.sh", "/tmp/first", "/tmp/next"];
    root.run("trying the packages", &command, &log, |line| {
        // Its own lines, and those of the package's scripts, are the result; apt's are in the log.
        if line.starts_with("check: ")
            || line.starts_with("dmaplane: ")
            || line.contains(": vermagic ")
        {
            println!("{line}");
        }
        progress.message(line.trim());
    })?;
    progress.done();
    println!("log: {}", log.display());
    Ok(())
}
