// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's network and its rxe devices, built with iproute2.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::plan::Network;

/// Builds what the plan asks for.
pub(crate) fn build(network: &Network) -> Result<()> {
    ip("link set lo up")?;
    // Where tests have a network of their own: see `dmaplane_testkit::spare`.
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
            configure("", &name, *mtu, addresses)?;
            rdma(&format!("link add rxe0 type rxe netdev {name}"))
        }
    }
}

fn side(netns: &str, name: &str, rxe: &str, mtu: u32, addresses: &[String]) -> Result<()> {
    ip(&format!("-netns {netns} link set lo up"))?;
    let interface = name.to_owned();
    in_netns(Some(netns), move || no_address_detection(&interface))??;
    configure(&format!("-netns {netns} "), name, mtu, addresses)?;
    let rxe = format!("link add {rxe} type rxe netdev {name}");
    in_netns(Some(netns), move || rdma(&rxe))?
}

fn configure(prefix: &str, name: &str, mtu: u32, addresses: &[String]) -> Result<()> {
    ip(&format!("{prefix}link set {name} mtu {mtu}"))?;
    for address in addresses {
        ip(&format!("{prefix}address add {address} dev {name}"))?;
    }
    ip(&format!("{prefix}link set {name} up"))
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

/// Runs `work` in a thread that stands in the network namespace, so that what it starts inherits
/// the namespace. Unlike `ip netns exec` this keeps /sys, and so debugfs, as it is.
pub(crate) fn in_netns<T: Send + 'static>(
    netns: Option<&str>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let Some(name) = netns else { return Ok(work()) };
    let path = PathBuf::from("/run/netns").join(name);
    let file = File::open(&path).with_context(|| format!("no network namespace {name}"))?;
    std::thread::spawn(move || -> Result<T> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter {}", path.display()))?;
        Ok(work())
    })
    .join()
    .map_err(|_| anyhow::anyhow!("the thread in a network namespace panicked"))?
}

fn ip(args: &str) -> Result<()> {
    tool("ip", args)
}

fn rdma(args: &str) -> Result<()> {
    tool("rdma", args)
}

fn tool(program: &str, args: &str) -> Result<()> {
    let output = Command::new(program)
        .args(args.split_whitespace())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("cannot run {program} (package iproute2)"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {args}`: {}: {}", output.status, stderr.trim());
    }
    Ok(())
}
