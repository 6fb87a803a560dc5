// SPDX-License-Identifier: MIT OR Apache-2.0

//! A network that behaves badly: what tc(8) and ip(8) do to the interface below an RDMA link.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::rdma::Link;

/// What an interface does to the packets that it sends, until this is dropped.
#[derive(Debug)]
pub struct Netem(String);

impl Netem {
    /// Lets the interface of a link do what `words` say, in the words of tc-netem(8): `loss 3%`.
    ///
    /// # Errors
    /// What tc(8) says.
    pub fn on(link: &Link, words: &str) -> Result<Self> {
        let netdev = &link.netdev;
        run("tc", &format!("qdisc add dev {netdev} root netem {words}"))
            .context("the kernel's option is CONFIG_NET_SCH_NETEM, which every profile has")?;
        Ok(Self(netdev.clone()))
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        if let Err(error) = run("tc", &format!("qdisc del dev {} root", self.0)) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs ip(8) in this thread's namespace.
///
/// # Errors
/// What it says.
pub fn ip(words: &str) -> Result<()> {
    run("ip", words).map(drop)
}

/// Runs a program of iproute2 in this thread's namespace, and gives what it prints.
pub(crate) fn run(program: &str, words: &str) -> Result<String> {
    let output = Command::new(program)
        .args(words.split_whitespace())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("cannot run {program} (package iproute2)"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {words}: {}: {}",
        output.status,
        said.trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{program}'s output is not text"))
}
