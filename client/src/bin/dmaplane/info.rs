// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane info`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use dmaplane::terminal::escape;
use dmaplane::topology::{self, RdmaDevice};
use dmaplane::{Context, Info};
use serde::Serialize;

use crate::output;

#[derive(Debug, Serialize)]
struct Report {
    driver: Info,
    capability_names: Vec<String>,
    rdma: Vec<RdmaDevice>,
}

/// Prints what the driver can do.
pub(crate) fn run(context: &Context, json: bool) -> Result<()> {
    let driver = context.query()?;
    let rdma = topology::rdma_devices().context("cannot read the RDMA devices from sysfs")?;
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
        "receives an endpoint",
        &format!("up to {}", driver.max_recv_depth),
    );
    line(
        "objects a context",
        &format!("up to {}", driver.max_handles),
    );
    line("page", &output::bytes(u64::from(driver.page_bytes)));
    line("NUMA node ids", &driver.node_ids.to_string());
    line("usable RDMA devices", &driver.rdma_devices.to_string());
    for device in &report.rdma {
        let netdev = device.netdev.as_deref().map(escape);
        let netdev = netdev.unwrap_or("no interface".into());
        let node = device
            .numa_node
            .map_or("any node".to_owned(), |node| format!("node {node}"));
        line(
            &format!("  {}", escape(&device.name)),
            &format!("{netdev}, {}, {node}", escape(&device.state)),
        );
    }
    if report.rdma.is_empty() {
        line(
            "",
            "none in this namespace; make one: rdma link add rxe0 type rxe netdev IFACE",
        );
    }
    text
}
