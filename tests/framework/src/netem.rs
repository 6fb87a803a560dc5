// SPDX-License-Identifier: MIT OR Apache-2.0

//! A network that behaves badly: what tc(8) and ip(8) do to the interface below an RDMA link.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::poll;
use crate::rdma::Link;

/// More than the removal of an RDMA device may take on the slowest kernel.
const GONE: Duration = Duration::from_secs(60);

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

/// Another interface that RDMA runs on, of this namespace, which only talks to itself. It goes with this.
#[derive(Debug)]
pub struct Dummy {
    netdev: String,
    /// Its RDMA link.
    pub link: Link,
}

impl Dummy {
    /// Makes it, with an address.
    ///
    /// # Errors
    /// What ip(8) or rdma(8) say.
    pub fn new(netdev: &str, address: &str) -> Result<Self> {
        run("ip", &format!("link add {netdev} type dummy"))?;
        let dummy = Self {
            netdev: netdev.to_owned(),
            link: Link {
                name: format!("rxe_{netdev}"),
                netdev: netdev.to_owned(),
            },
        };
        run("ip", &format!("link set {netdev} mtu 4200"))?;
        run("ip", &format!("address add {address}/24 dev {netdev}"))?;
        run("ip", &format!("link set {netdev} up"))?;
        dummy.link.add()?;
        Ok(dummy)
    }

    /// Removes the interface under whatever uses it.
    ///
    /// # Errors
    /// What ip(8) says.
    pub fn remove(self) -> Result<()> {
        let removed = self.gone();
        std::mem::forget(self);
        removed
    }

    fn gone(&self) -> Result<()> {
        run("ip", &format!("link del {}", self.netdev))?;
        // The RDMA device goes behind it, by a work queue.
        let device = Path::new("/sys/class/infiniband").join(&self.link.name);
        let gone = poll::until(GONE, || Ok((!device.exists()).then_some(())))?;
        gone.with_context(|| format!("{} is still there", device.display()))
    }
}

impl Drop for Dummy {
    fn drop(&mut self) {
        if let Err(error) = self.gone() {
            eprintln!("{error:#}");
        }
    }
}

/// Runs ip(8) in this thread's namespace.
///
/// # Errors
/// What it says.
pub fn ip(words: &str) -> Result<()> {
    run("ip", words)
}

fn run(program: &str, words: &str) -> Result<()> {
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
    Ok(())
}
