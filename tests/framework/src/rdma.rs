// SPDX-License-Identifier: MIT OR Apache-2.0

//! Soft-RoCE links of the calling thread's network namespace, through iproute2.

use std::ffi::CStr;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::{Guest, Topology, module, netns};

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

/// An interface and an rxe device of the test's own, which it may ill-treat. Both go with it.
#[derive(Debug)]
pub struct Spare {
    /// The device.
    pub link: Link,
    /// Its address, which only reaches itself.
    pub address: IpAddr,
}

/// What may happen to a [`Spare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The interface is deleted under the device.
    DeleteInterface,
    /// The interface is set down.
    SetDown,
    /// The interface loses its address.
    RemoveAddress,
    /// The device is deleted.
    DeleteLink,
    /// The provider's module is unloaded, and with it every device of the machine.
    UnloadProvider,
}

impl Spare {
    const NAME: &str = "spare0";
    const ADDRESS: &str = "10.99.0.1";

    /// Makes both.
    ///
    /// # Errors
    /// What ip(8) or rdma(8) says.
    pub fn new() -> Result<Self> {
        let spare = Self {
            link: Link {
                name: "rxespare".to_owned(),
                netdev: Self::NAME.to_owned(),
            },
            address: Self::ADDRESS.parse()?,
        };
        spare.restore()?;
        Ok(spare)
    }

    /// Brings back whatever is missing.
    ///
    /// # Errors
    /// As [`Spare::new`].
    pub fn restore(&self) -> Result<()> {
        let interface = self.link.netdev.as_str();
        if !has_interface(interface)? {
            ip(&["link", "add", interface, "type", "dummy"])?;
        }
        let address = format!("{}/24", self.address);
        ip(&["address", "replace", &address, "dev", interface])?;
        ip(&["link", "set", interface, "up"])?;
        let links = parse(&rdma(&["-j", "link", "show"])?)?;
        if !links.contains(&self.link) {
            self.link.add()?;
        }
        Ok(())
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// What ip(8) or rdma(8) says.
    pub fn strike(&self, strike: Strike, limit: Duration) -> Result<()> {
        let interface = self.link.netdev.as_str();
        match strike {
            Strike::DeleteInterface => ip(&["link", "delete", interface]),
            Strike::SetDown => ip(&["link", "set", interface, "down"]),
            Strike::RemoveAddress => ip(&["address", "flush", "dev", interface]),
            Strike::DeleteLink => self.link.delete(),
            Strike::UnloadProvider => module::unload_other(PROVIDER, limit),
        }
    }
}

/// The provider's module.
const PROVIDER: &CStr = c"rdma_rxe";

/// The links of this namespace and of the peer's in this guest, where there is one: what the other suites stand on. Brings
/// them back when it is dropped, also after the provider's module was unloaded.
#[derive(Debug)]
pub struct Foundations {
    here: Vec<Link>,
    there: Option<Vec<Link>>,
}

impl Foundations {
    /// Notes the links that are there.
    ///
    /// # Errors
    /// What rdma(8) says.
    pub fn note(guest: &Guest) -> Result<Self> {
        let list = || parse(&rdma(&["-j", "link", "show"])?);
        let there = match guest.topology {
            Topology::Pair => None,
            _ => Some(netns::inside("dp1", list)??),
        };
        Ok(Self {
            here: list()?,
            there,
        })
    }

    /// Loads the provider, and makes the links again that are missing.
    ///
    /// # Errors
    /// What the kernel or rdma(8) says.
    pub fn restore(&self) -> Result<()> {
        let name = PROVIDER.to_str()?;
        module::load_listed("DMAPLANE_PROVIDER", name, "")?;
        let restore = |links: &[Link]| -> Result<()> {
            let left = parse(&rdma(&["-j", "link", "show"])?)?;
            let mut missing = links.iter().filter(|link| !left.contains(link));
            missing.try_for_each(Link::add)
        };
        restore(&self.here)?;
        match &self.there {
            Some(links) => netns::inside("dp1", || restore(links))?,
            None => Ok(()),
        }
    }
}

impl Drop for Foundations {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            eprintln!("{error:#}");
        }
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // Takes the device along. It may be gone already.
        if matches!(has_interface(&self.link.netdev), Ok(true))
            && let Err(error) = ip(&["link", "delete", &self.link.netdev])
        {
            eprintln!("{error:#}");
        }
    }
}

/// Whether this network namespace has an interface. /sys may show another one's.
fn has_interface(name: &str) -> Result<bool> {
    let output = Command::new("ip")
        .args(["link", "show", "dev", name])
        .env("PATH", PATH)
        .output()
        .context("cannot run ip (package iproute2)")?;
    Ok(output.status.success())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .env("PATH", PATH)
        .output()
        .context("cannot run ip (package iproute2)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {}: {}",
        args.join(" "),
        output.status,
        said.trim()
    );
    Ok(())
}

/// Where iproute2 is.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

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
        .env("PATH", PATH)
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
