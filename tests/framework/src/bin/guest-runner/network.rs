// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's network and its rxe devices, built with iproute2.

use std::fs;

use anyhow::{Context as _, Result, bail};
use dmaplane_testkit::iproute2::{ip, rdma};
use dmaplane_testkit::netns;

use dmaplane_vmtest_plan::Network;

/// Builds what the plan asks for.
pub(crate) fn build(network: &Network) -> Result<()> {
    ip("link set lo up")?;
    // Where tests have a network of their own: see `dmaplane_testkit::disposable`.
    ip("netns add dpspare")?;
    match network {
        Network::None => Ok(()),
        Network::Veth { mtu, local, peer } => {
            ip("netns add dp0")?;
            ip("netns add dp1")?;
            ip("link add veth0 netns dp0 type veth peer name veth1 netns dp1")?;
            side("dp0", "veth0", "rxe0", *mtu, local)?;
            side("dp1", "veth1", "rxe1", *mtu, peer)
        }
        Network::Link { mtu, addresses } => {
            let name = virtio_interface()?;
            no_address_detection(&name)?;
            configure(&name, *mtu, addresses)?;
            rdma(&format!("link add rxe0 type rxe netdev {name}")).map(drop)
        }
    }
}

fn side(namespace: &str, name: &str, rxe: &str, mtu: u32, addresses: &[String]) -> Result<()> {
    netns::inside(namespace, || {
        ip("link set lo up")?;
        no_address_detection(name)?;
        configure(name, mtu, addresses)?;
        rdma(&format!("link add {rxe} type rxe netdev {name}")).map(drop)
    })?
}

fn configure(name: &str, mtu: u32, addresses: &[String]) -> Result<()> {
    ip(&format!("link set {name} mtu {mtu}"))?;
    for address in addresses {
        ip(&format!("address add {address} dev {name}"))?;
    }
    ip(&format!("link set {name} up"))
}

/// Duplicate address detection would keep v6 addresses, and so RDMA's identifiers, unusable for
/// a second. The files are those of the calling thread's network namespace.
fn no_address_detection(name: &str) -> Result<()> {
    for of in ["all", name] {
        let path = format!("/proc/sys/net/ipv6/conf/{of}/accept_dad");
        fs::write(&path, "0").with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// The first interface that a virtio device stands behind.
fn virtio_interface() -> Result<String> {
    let dir = "/sys/class/net";
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {dir}"))? {
        let entry = entry?;
        let driver = entry.path().join("device/driver");
        if fs::read_link(driver).is_ok_and(|path| path.ends_with("virtio_net")) {
            return Ok(entry.file_name().to_string_lossy().into_owned());
        }
    }
    bail!("no virtio network interface in this guest: is CONFIG_VIRTIO_NET built in?")
}
