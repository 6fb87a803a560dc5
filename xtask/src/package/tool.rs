// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool as it is shipped: the program, its manual pages, and the C library that it needs.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Identity;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exec;
use dmaplane_vmtest::guest::binaries::cargo;

/// The tool.
pub(super) struct Tool {
    /// The program.
    pub(super) program: Vec<u8>,
    /// The manual pages: file name and text.
    pub(super) pages: Vec<(String, Vec<u8>)>,
    /// The oldest glibc that has every symbol that the tool uses.
    pub(super) glibc: String,
    /// The crates that are linked into it, with their licences.
    pub(super) crates: String,
}

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// Cargo's target folder.
///
/// # Errors
/// What cargo said.
pub(super) fn target_dir(ctx: &Ctx) -> Result<PathBuf> {
    let text = exec::output(cargo(ctx).args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata")?;
    Ok(metadata.target_directory)
}

impl Tool {
    /// Builds it, and asks it for its manual pages.
    ///
    /// # Errors
    /// What the compiler said, or what the tool could not write.
    pub(super) fn build(ctx: &Ctx, identity: &Identity) -> Result<Self> {
        let mut command = cargo(ctx);
        command
            .args(["build", "--locked", "--profile", "shipped"])
            .args(["--package", "dmaplane-cli", "--bin", "dmaplane"])
            .env("CARGO_ENCODED_RUSTFLAGS", remapped(ctx)?)
            .env("SOURCE_DATE_EPOCH", &identity.epoch);
        let log = ctx.log_dir()?.join("package-tool.log");
        let mut progress = ctx.ui.spinner("building the tool for its package");
        exec::logged(ctx, command, "building the tool", &log, |line| {
            progress.message(line.trim());
        })?;
        progress.done();
        let path = target_dir(ctx)?.join("shipped/dmaplane");
        let temporary = exec::scratch(&ctx.cache_sub("package")?)?;
        exec::output(Command::new(&path).arg("man").arg(temporary.path()))?;
        let symbols = exec::output(Command::new("objdump").arg("-T").arg(&path))
            .context("binutils shows which glibc the tool needs")?;
        Ok(Self {
            program: fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?,
            pages: pages(temporary.path())?,
            glibc: newest_glibc(&symbols).context("the tool names no version of glibc")?,
            crates: crates(ctx)?,
        })
    }
}

/// Flags that keep paths of the build machine out of the program.
fn remapped(ctx: &Ctx) -> Result<OsString> {
    let sysroot = exec::output(
        Command::new("rustc")
            .args(["--print", "sysroot"])
            .current_dir(&ctx.root),
    )?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let places = [
        (Some(ctx.root.clone()), "dmaplane"),
        (Some(PathBuf::from(sysroot)), "rust"),
        (home, "cargo"),
    ];
    let mut flags = OsString::new();
    for (from, to) in places
        .into_iter()
        .filter_map(|(from, to)| Some((from?, to)))
    {
        if !flags.is_empty() {
            // What separates flags in this variable.
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}"));
    }
    Ok(flags)
}

fn pages(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        pages.push((name, fs::read(entry.path())?));
    }
    pages.sort();
    Ok(pages)
}

/// The newest `GLIBC_x.y` among a program's dynamic symbols.
fn newest_glibc(symbols: &str) -> Option<String> {
    let numbers = |text: &str| -> Option<Vec<u32>> {
        text.split('.').map(|number| number.parse().ok()).collect()
    };
    symbols
        .split(|c: char| c.is_whitespace() || c == '(' || c == ')')
        .filter_map(|word| word.strip_prefix("GLIBC_"))
        .filter_map(|version| Some((numbers(version)?, version)))
        .max()
        .map(|(_, version)| version.to_owned())
}

/// Name, version and licence of every crate in the program, a line each.
fn crates(ctx: &Ctx) -> Result<String> {
    let mut command = cargo(ctx);
    command
        .args(["tree", "--locked", "--package", "dmaplane-cli"])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "none"])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .args(["--no-dedupe", "--format", "{p}: {l}"]);
    Ok(crate_lines(&exec::output(&mut command)?))
}

/// The crates of others in cargo's tree, sorted, each once.
fn crate_lines(tree: &str) -> String {
    let lines: std::collections::BTreeSet<&str> = tree
        .lines()
        // The workspace's own have the path of their folder.
        .filter(|line| !line.contains(" (/"))
        .collect();
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_is_found_by_number() {
        let symbols = "0000 DF *UND* 0000 (GLIBC_2.9) a\n0000 w DF *UND* 0000 GLIBC_2.34 b\n\
                       0000 DF *UND* (GLIBC_2.2.5) c\n0000 (GCC_3.0) d\n";
        assert_eq!(newest_glibc(symbols).as_deref(), Some("2.34"));
        assert_eq!(newest_glibc("none"), None);
    }

    #[test]
    fn own_crates_are_not_listed_and_others_are_once() {
        let tree =
            "dmaplane v0.1.0 (/a/client): MIT\nb v1.0.0: MIT\na v2.0.0: Zlib\nb v1.0.0: MIT\n";
        assert_eq!(crate_lines(tree), "a v2.0.0: Zlib\nb v1.0.0: MIT\n");
    }
}
