// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report for people.

use std::fmt::Write as _;

use dmaplane::terminal::escape;
use dmaplane_observe::numa::{Cell, Matrix};

use super::{Report, Row};
use crate::output;

/// The whole report. Writing to a string cannot fail.
pub(super) fn render(report: &Report) -> String {
    let mut text = String::new();
    for row in &report.nodes {
        node(&mut text, row);
    }
    let place =
        |node: Option<u32>| node.map_or("node unknown".to_owned(), |id| format!("node {id}"));
    for adapter in &report.adapters {
        let netdev = adapter.netdev.as_deref().map(escape);
        let netdev = netdev.unwrap_or("no interface".into());
        let place = place(adapter.numa_node);
        let name = escape(&adapter.name);
        let _ = writeln!(text, "RDMA device {name} ({netdev}): {place}");
    }
    for bar in &report.bars {
        let (size, place) = (output::bytes(bar.bytes), place(bar.numa_node));
        let _ = writeln!(
            text,
            "PCI device {} BAR {} ({size}): {place}",
            bar.device, bar.index
        );
    }
    if let Some(matrix) = &report.matrix {
        figures(&mut text, matrix);
        for penalty in &report.penalties {
            let _ = writeln!(
                text,
                "CPUs {} at memory {}: {:.1} % slower, {:.1} % later than at their own",
                penalty.cpu_node,
                penalty.memory_node,
                penalty.bandwidth_percent,
                penalty.latency_percent
            );
        }
        let _ = writeln!(text, "{}", report.note());
    }
    text
}

fn node(text: &mut String, row: &Row) {
    let node = &row.node;
    let cpus = if node.cpus.is_empty() {
        "no CPUs"
    } else {
        &node.cpus
    };
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
            let huge = row.huge_pages.unwrap_or_default();
            let all = pages.iter().sum::<u64>();
            format!("strict buffer: all {all} pages here, {huge} of them in folios of 2 MiB")
        }
        (Some(pages), None) => format!("MISPLACED: pages by node {pages:?}"),
    };
    let _ = writeln!(text, "  {verdict}");
}

fn figures(text: &mut String, matrix: &Matrix) {
    let size = output::bytes(matrix.headline_bytes);
    let beyond = match matrix.last_level_cache_bytes {
        Some(bytes) if matrix.beyond_cache => {
            format!("beyond the last-level cache of {}", output::bytes(bytes))
        }
        Some(bytes) => format!(
            "NOT beyond the last-level cache of {}",
            output::bytes(bytes)
        ),
        None => "the last-level cache is unknown".to_owned(),
    };
    let _ = writeln!(text, "working sets up to {size}, {beyond}");
    table(text, matrix, "copy GB/s", |cell| cell.headline() / 1e9);
    table(text, matrix, "latency ns", |cell| cell.latency_ns);
}

/// Rows are the processors' nodes, columns the memory's.
fn table(text: &mut String, matrix: &Matrix, title: &str, value: impl Fn(&Cell) -> f64) {
    let mut columns: Vec<u32> = matrix.cells.iter().map(|cell| cell.memory_node).collect();
    columns.sort_unstable();
    columns.dedup();
    let _ = write!(text, "{title:>12}");
    for column in &columns {
        let _ = write!(text, "  memory {column:>3}");
    }
    let _ = writeln!(text);
    let mut rows: Vec<u32> = matrix.cells.iter().map(|cell| cell.cpu_node).collect();
    rows.dedup();
    for row in rows {
        let _ = write!(text, "    CPUs {row:>3}");
        for column in &columns {
            match matrix.cell(row, *column) {
                Some(cell) => {
                    let _ = write!(text, "  {:>10.2}", value(cell));
                }
                None => {
                    let _ = write!(text, "  {:>10}", "-");
                }
            }
        }
        let _ = writeln!(text);
    }
}
