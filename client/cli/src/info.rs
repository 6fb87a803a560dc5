// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane info`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use dmaplane::terminal::escape;
use dmaplane::topology::{self, RdmaDevice};
use dmaplane::{Context, Errno, Info, RdmaInfo};
use serde::Serialize;

use crate::output;

#[derive(Debug, Serialize)]
struct Report {
    driver: Info,
    capability_names: Vec<String>,
    rdma: Vec<Device>,
}

/// An RDMA device: what sysfs says of it, and what the driver says.
#[derive(Debug, Serialize)]
struct Device {
    #[serde(flatten)]
    device: RdmaDevice,
    /// Absent where the driver does not list devices, or does not know this one yet.
    driver: Option<RdmaInfo>,
}

/// Prints what the driver can do.
pub(crate) fn run(context: &Context, json: bool) -> Result<()> {
    let driver = context.query()?;
    let mut known = match RdmaInfo::list(context) {
        // A driver that lists none.
        Err(error) if error.errno() == Some(Errno::NOTTY) => Vec::new(),
        known => known?,
    };
    let devices = topology::rdma_devices().context("cannot read the RDMA devices from sysfs")?;
    let mut take = |name: &str| {
        let at = known.iter().position(|info| info.name == name)?;
        Some(known.swap_remove(at))
    };
    let rdma = devices
        .into_iter()
        .map(|device| Device {
            driver: take(&device.name),
            device,
        })
        .collect();
    let report = Report {
        capability_names: driver.capability_names(),
        driver,
        rdma,
    };
    if json {
        output::json(&report)
    } else {
        output::text(&render(&report))
    }
}

fn render(report: &Report) -> String {
    let driver = &report.driver;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<22} {value}");
    };
    line("interface version", &driver.abi_version.to_string());
    line("capabilities", &report.capability_names.join(", "));
    line("largest buffer", &output::bytes(driver.max_buffer_bytes));
    line("largest operation", &output::bytes(driver.max_op_bytes));
    line(
        "ring entries",
        &format!("up to {}", driver.max_ring_entries),
    );
    line(
        "receives per endpoint",
        &format!("up to {}", driver.max_recv_depth),
    );
    line(
        "objects per context",
        &format!("up to {}", driver.max_handles),
    );
    line("page", &output::bytes(u64::from(driver.page_bytes)));
    line("NUMA node ids", &driver.node_ids.to_string());
    line("usable RDMA devices", &driver.rdma_devices.to_string());
    for Device { device, driver } in &report.rdma {
        let netdev = device.netdev.as_deref().map(escape);
        let netdev = netdev.unwrap_or("no interface".into());
        let node = device
            .numa_node
            .map_or("any node".to_owned(), |node| format!("node {node}"));
        line(
            &format!("  {}", escape(&device.name)),
            &format!("{netdev}, {}, {node}", escape(&device.state)),
        );
        if let Some(lack) = driver.as_ref().and_then(|driver| driver.lack) {
            line("", &format!("not usable: {lack}"));
        }
    }
    if report.rdma.is_empty() {
        line(
            "",
            "none in this namespace; make one: rdma link add rxe0 type rxe netdev IFACE",
        );
    }
    text
}
