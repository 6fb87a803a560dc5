// SPDX-License-Identifier: MIT OR Apache-2.0

//! Soft-RoCE links of the calling thread's network namespace, through iproute2.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// An rxe device and the interface below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Name of the RDMA device.
    pub name: String,
    /// Network interface.
    pub netdev: String,
}

impl Link {
    /// The only link of this namespace.
    ///
    /// # Errors
    /// When there is none or more than one.
    pub fn only() -> Result<Self> {
        let mut links = parse(&rdma(&["-j", "link", "show"])?)?;
        ensure!(
            links.len() == 1,
            "one RDMA link is expected here, not {links:?}"
        );
        links.pop().context("a link")
    }

    /// Deletes the device under whatever uses it.
    ///
    /// # Errors
    /// What rdma(8) says.
    pub fn delete(&self) -> Result<()> {
        rdma(&["link", "del", &self.name]).map(drop)
    }

    /// Makes the device again.
    ///
    /// # Errors
    /// What rdma(8) says.
    pub fn add(&self) -> Result<()> {
        rdma(&[
            "link",
            "add",
            &self.name,
            "type",
            "rxe",
            "netdev",
            &self.netdev,
        ])
        .map(drop)
    }
}

/// An interface that sends nothing, until this is dropped.
#[derive(Debug)]
pub struct Muted(String);

impl Link {
    /// Loses all that the interface sends. Nobody is told: the link stays up, and what others send arrives.
    ///
    /// # Errors
    /// What tc(8) says.
    pub fn mute(&self) -> Result<Muted> {
        tc(&["add", "dev", &self.netdev, "root", "netem", "loss", "100%"])?;
        Ok(Muted(self.netdev.clone()))
    }
}

impl Drop for Muted {
    fn drop(&mut self) {
        if let Err(error) = tc(&["del", "dev", &self.0, "root"]) {
            eprintln!("{error:#}");
        }
    }
}

fn tc(args: &[&str]) -> Result<()> {
    let status = Command::new("tc")
        .arg("qdisc")
        .args(args)
        .status()
        .context("cannot run tc")?;
    ensure!(status.success(), "tc qdisc {}: {status}", args.join(" "));
    Ok(())
}

fn rdma(args: &[&str]) -> Result<String> {
    let output = Command::new("rdma")
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .context("cannot run rdma (package iproute2)")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "rdma {}: {}: {}",
            args.join(" "),
            output.status,
            said.trim()
        );
    }
    String::from_utf8(output.stdout).context("rdma's output is not text")
}

fn parse(json: &str) -> Result<Vec<Link>> {
    #[derive(Deserialize)]
    struct Row {
        ifname: String,
        netdev: Option<String>,
    }
    let rows: Vec<Row> = serde_json::from_str(json).context("rdma's JSON is not understood")?;
    let link = |row: Row| {
        Some(Link {
            name: row.ifname,
            netdev: row.netdev?,
        })
    };
    Ok(rows.into_iter().filter_map(link).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_parsed_and_those_without_interface_ignored() {
        let json = r#"[{"ifindex":0,"ifname":"rxe1","port":1,"state":"ACTIVE",
            "physical_state":"LINK_UP","netdev":"veth1","netdev_index":2},
            {"ifindex":1,"ifname":"ib0","port":1,"state":"DOWN"}]"#;
        let links = parse(json).expect("links");
        assert_eq!(
            links,
            [Link {
                name: "rxe1".to_owned(),
                netdev: "veth1".to_owned()
            }]
        );
        assert!(parse("nothing").is_err());
    }
}
