// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane numa`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use dmaplane::topology::{self, NumaNode};
use dmaplane::{Buffer, Context, Placement, kv};
use serde::Serialize;

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Bytes of the buffer on each node, with a suffix of K, M or G.
    #[arg(long, default_value = "4M", value_parser = kv::parse_size)]
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    nodes: Vec<Row>,
    verified: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    node: NumaNode,
    /// Pages of the test buffer on each node; absent on a node without memory.
    pages_by_node: Option<Vec<u64>>,
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

/// Prints the nodes and where a buffer on each of them landed.
pub(crate) fn run(context: &Context, args: &Args, json: bool) -> Result<()> {
    let nodes = topology::numa_nodes().context("cannot read the NUMA nodes from sysfs")?;
    let nodes: Vec<Row> = nodes
        .into_iter()
        .map(|node| probe(context, node, args.bytes))
        .collect();
    let report = Report {
        verified: nodes.iter().all(Row::is_good),
        nodes,
    };
    if json {
        output::json(&report)?;
    } else {
        output::text(&render(&report))?;
    }
    ensure!(
        report.verified,
        "a buffer is not where it was asked for; see the nodes above"
    );
    Ok(())
}

fn probe(context: &Context, node: NumaNode, bytes: u64) -> Row {
    if node.total_bytes == 0 {
        return Row {
            node,
            pages_by_node: None,
            error: None,
        };
    }
    let residency = Buffer::create(context, bytes, Placement::Strict(node.id))
        .and_then(|buffer| buffer.residency());
    match residency {
        Ok(residency) => Row {
            node,
            pages_by_node: Some(residency.pages_by_node),
            error: None,
        },
        Err(error) => Row {
            node,
            pages_by_node: None,
            error: Some(error.to_string()),
        },
    }
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for row in &report.nodes {
        let node = &row.node;
        let cpus = if node.cpus.is_empty() {
            "no CPUs"
        } else {
            &node.cpus
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "node {}: CPUs {cpus}, {} of {} free, distances {:?}",
            node.id,
            output::bytes(node.free_bytes),
            output::bytes(node.total_bytes),
            node.distances
        );
        let verdict = match (&row.pages_by_node, &row.error) {
            (_, Some(error)) => format!("FAILED: {error}"),
            (None, None) => "no memory, no buffer".to_owned(),
            (Some(pages), None) if row.is_good() => {
                format!(
                    "strict buffer: all {} pages here",
                    pages.iter().sum::<u64>()
                )
            }
            (Some(pages), None) => format!("MISPLACED: pages by node {pages:?}"),
        };
        let _ = writeln!(text, "  {verdict}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pages: Option<Vec<u64>>, error: Option<&str>) -> Row {
        let nodes = topology::numa_nodes().expect("the machine has nodes");
        let node = nodes.into_iter().next().expect("at least one node");
        Row {
            node,
            pages_by_node: pages,
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
}
