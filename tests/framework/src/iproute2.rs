// SPDX-License-Identifier: MIT OR Apache-2.0

//! The programs of iproute2, in the calling thread's network namespace.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Runs ip(8).
///
/// # Errors
/// What it says.
pub fn ip(words: &str) -> Result<()> {
    run("ip", words).map(drop)
}

/// Runs rdma(8), and gives what it prints.
///
/// # Errors
/// What it says.
pub fn rdma(words: &str) -> Result<String> {
    run("rdma", words)
}

/// Runs tc(8).
///
/// # Errors
/// What it says.
pub fn tc(words: &str) -> Result<()> {
    run("tc", words).map(drop)
}

fn run(program: &str, words: &str) -> Result<String> {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("cannot run {program} (package iproute2)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{program} {words}`: {}: {}",
        output.status,
        said.trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{program}'s output is not text"))
}
