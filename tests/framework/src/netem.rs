// SPDX-License-Identifier: MIT OR Apache-2.0

//! A network that behaves badly: what tc(8) does to the interface below an RDMA link.

use anyhow::{Context as _, Result};

use crate::iproute2::tc;
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
        tc(&format!("qdisc add dev {netdev} root netem {words}"))
            .context("the kernel's option is CONFIG_NET_SCH_NETEM, which every profile has")?;
        Ok(Self(netdev.clone()))
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        if let Err(error) = tc(&format!("qdisc del dev {} root", self.0)) {
            eprintln!("{error:#}");
        }
    }
}
