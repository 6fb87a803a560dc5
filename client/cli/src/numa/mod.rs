// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane numa`.

mod plot;
mod text;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dmaplane::terminal;
use dmaplane::topology::{self, NumaNode, PciBar, RdmaDevice};
use dmaplane::{Buffer, Context, Placement};
use dmaplane_kv::atomic_file;
use dmaplane_observe::numa::{self, Matrix, Penalty, Plan};
use serde::Serialize;

use crate::output;

/// How long a measurement runs before it reports its progress.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bytes of the buffer on each node, with a suffix of K, M or G.
    #[arg(long, default_value = "4M", value_parser = dmaplane_kv::parse_size)]
    bytes: u64,
    /// Measures nothing: topology and placement only.
    #[arg(long)]
    no_measure: bool,
    /// Working sets to measure, in rising order; those without room on every node are left out.
    #[arg(long, value_delimiter = ',', value_parser = dmaplane_kv::parse_size, value_name = "SIZES")]
    sizes: Vec<u64>,
    /// Milliseconds for each figure.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    time_ms: u64,
    /// Draws what was measured into an SVG file.
    #[arg(long, value_name = "FILE", conflicts_with = "no_measure")]
    plot: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: Vec<Row>,
    adapters: Vec<RdmaDevice>,
    bars: Vec<PciBar>,
    /// Whether every page of every test buffer was on the node that was asked for.
    verified: bool,
    /// Why the figures say nothing about NUMA hardware.
    emulation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matrix: Option<Matrix>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    penalties: Vec<Penalty>,
}

impl Report {
    /// How meaningful the figures are.
    fn note(&self) -> String {
        match &self.emulation {
            Some(what) => format!(
                "This is {what}: its nodes are emulated. Placement is verified; bandwidth and latency are not meaningful."
            ),
            None => "Threads bound to nodes, strict buffers on either side.".to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    node: NumaNode,
    /// Pages of the test buffer on each node; absent on a node without memory.
    pages_by_node: Option<Vec<u64>>,
    /// Of them, pages in folios of 2 MiB.
    huge_pages: Option<u64>,
    /// Why the buffer could not be made there.
    error: Option<String>,
}

impl Row {
    fn is_good(&self) -> bool {
        match (&self.pages_by_node, &self.error) {
            (_, Some(_)) => false,
            (None, None) => true,
            (Some(pages), None) => pages
                .iter()
                .enumerate()
                .all(|(node, count)| *count == 0 || node == self.node.id as usize),
        }
    }
}

/// Prints the nodes, their devices, where a buffer on each node was allocated, and what distance costs.
pub(crate) fn run(context: &Context, args: &Args, json: bool) -> Result<()> {
    if let Some(path) = &args.plot {
        // Checked first, not after minutes of measuring.
        atomic_file::check(path)?;
    }
    let nodes = topology::numa_nodes().context("cannot read the NUMA nodes from sysfs")?;
    let nodes: Vec<Row> = nodes
        .into_iter()
        .map(|node| probe(context, node, args.bytes))
        .collect();
    let matrix = if args.no_measure {
        None
    } else {
        Some(measure(context, args)?)
    };
    let report = Report {
        verified: nodes.iter().all(Row::is_good),
        nodes,
        adapters: topology::rdma_devices().context("cannot read the RDMA devices from sysfs")?,
        bars: topology::pci_bars().context("cannot read the PCI devices from sysfs")?,
        emulation: numa::emulation(),
        penalties: matrix.as_ref().map(Matrix::penalties).unwrap_or_default(),
        matrix,
    };
    if let (Some(path), Some(matrix)) = (&args.plot, &report.matrix) {
        plot::write(path, matrix, &report.note())?;
    }
    if json {
        output::json(&report)?;
    } else {
        output::text(&text::render(&report))?;
    }
    ensure!(
        report.verified,
        "a buffer is not where it was asked for; see the nodes above"
    );
    Ok(())
}

fn measure(context: &Context, args: &Args) -> Result<Matrix> {
    let mut plan = Plan {
        time: Duration::from_millis(args.time_ms),
        ..Plan::default()
    };
    if !args.sizes.is_empty() {
        ensure!(
            args.sizes.is_sorted() && args.sizes[0] > 0,
            "give the working sets in rising order, the first above 0"
        );
        plan.sizes.clone_from(&args.sizes);
    }
    let start = Instant::now();
    let matrix = numa::measure(context, &plan, &mut |step| {
        if start.elapsed() >= PATIENCE {
            terminal::note(format_args!(
                "measured {} of {}; next: processors of node {} at memory of node {}",
                step.done, step.total, step.cpu_node, step.memory_node
            ));
        }
    });
    Ok(matrix?)
}

fn probe(context: &Context, node: NumaNode, bytes: u64) -> Row {
    let mut row = Row {
        node,
        pages_by_node: None,
        huge_pages: None,
        error: None,
    };
    if row.node.total_bytes == 0 {
        return row;
    }
    let id = row.node.id;
    let found = Buffer::create(context, bytes, Placement::Strict(id))
        .and_then(|buffer| Ok((buffer.residency()?, buffer.folios(id)?)));
    match found {
        Ok((residency, folios)) => {
            row.pages_by_node = Some(residency.pages_by_node);
            row.huge_pages = folios.pages_by_order.get(9).copied();
        }
        Err(error) => row.error = Some(error.to_string()),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes; the remote one is half as fast.
    pub(super) fn matrix() -> Matrix {
        let cell = |cpu: u32, memory: u32| {
            let rate = if cpu == memory { 8e9 } else { 4e9 };
            serde_json::json!({
                "cpu_node": cpu, "memory_node": memory, "target_node": cpu,
                "bytes_per_second": [2.0 * rate, rate], "latency_ns": 100.0 * 8e9 / rate,
            })
        };
        let json = serde_json::json!({
            "last_level_cache_bytes": 1 << 20, "sizes": [1 << 16, 1 << 22],
            "headline_bytes": 1 << 22, "beyond_cache": true,
            "cells": [cell(0, 0), cell(0, 1), cell(1, 0), cell(1, 1)],
        });
        serde_json::from_value(json).expect("a matrix")
    }

    fn row(pages: Option<Vec<u64>>, error: Option<&str>) -> Row {
        let nodes = topology::numa_nodes().expect("the machine has nodes");
        let node = nodes.into_iter().next().expect("at least one node");
        Row {
            node,
            pages_by_node: pages,
            huge_pages: None,
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn only_pages_on_the_own_node_are_good() {
        let node = row(None, None).node.id as usize;
        let mut pages = vec![0; node + 2];
        pages[node] = 4;
        assert!(row(Some(pages.clone()), None).is_good());
        pages[node + 1] = 1;
        assert!(!row(Some(pages), None).is_good());
        assert!(!row(None, Some("no memory")).is_good());
    }

    #[test]
    fn the_text_has_penalties_and_says_how_meaningful_they_are() {
        let matrix = matrix();
        let mut report = Report {
            nodes: vec![row(Some(vec![1024]), None)],
            adapters: Vec::new(),
            bars: Vec::new(),
            verified: true,
            emulation: Some("an emulated processor".to_owned()),
            penalties: matrix.penalties(),
            matrix: Some(matrix),
        };
        let text = text::render(&report);
        assert!(text.contains("50.0 % slower"), "{text}");
        assert!(text.contains("100.0 % later"), "{text}");
        assert!(text.contains("not meaningful"), "{text}");
        report.emulation = None;
        assert!(!text::render(&report).contains("not meaningful"));
    }
}
