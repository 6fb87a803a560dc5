// SPDX-License-Identifier: MIT OR Apache-2.0

//! The tool's report of nodes, what sits on them, and the matrix.

use std::process::Command;

use dmaplane_guest_tests::numa::nodes_with_memory;
use dmaplane_testkit::{ErrorContext as _, Result, Topology, ensure, test};
use serde_json::Value;

/// Runs the tool: its standard output.
fn tool(args: &[&str]) -> Result<String> {
    let output = Command::new("dmaplane").args(args).output();
    let output = output.context("cannot run dmaplane")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "dmaplane {args:?}: {}: {said}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn numa_tool_shows_places_and_measures_every_pair() {
    test(|guest| {
        let nodes = nodes_with_memory()?;
        let folder = std::env::temp_dir().join(format!("numa-tool-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let plot = folder.join("plot.svg");
        let plot_text = plot.to_string_lossy();
        let sizes = guest.pick("64K,1M,8M", "64K,256K");
        let args = [
            "numa",
            "--json",
            "--sizes",
            sizes,
            "--time-ms",
            "5",
            "--plot",
            &plot_text,
        ];
        let text = tool(&args)?;
        let report: Value = serde_json::from_str(&text)?;
        ensure!(report["verified"] == true, "{text}");
        ensure!(
            report["emulation"].is_string(),
            "a guest is an emulated machine: {text}"
        );
        let cells = report["matrix"]["cells"].as_array().context("cells")?;
        ensure!(
            cells.len() == nodes.len() * nodes.len(),
            "{} cells: {text}",
            cells.len()
        );
        for cell in cells {
            let latency = cell["latency_ns"].as_f64().context("a latency")?;
            let rates = cell["bytes_per_second"].as_array().context("rates")?;
            let measured = rates
                .iter()
                .all(|rate| rate.as_f64().is_some_and(|rate| rate > 0.0));
            ensure!(latency > 0.0 && measured, "{cell}");
        }
        let penalties = report["penalties"].as_array().map_or(0, Vec::len);
        ensure!(
            penalties == nodes.len() * (nodes.len() - 1),
            "{penalties} penalties: {text}"
        );
        let adapters = report["adapters"].as_array().context("adapters")?;
        ensure!(!adapters.is_empty(), "{text}");
        if guest.topology == Topology::Numa2 {
            let bars = report["bars"].as_array().context("bars")?;
            let found = bars
                .iter()
                .any(|bar| bar["numa_node"] == 2 && bar["bytes"] == 64 << 20);
            ensure!(found, "the BAR on node 2 is not in {text}");
        }
        let drawn = std::fs::read_to_string(&plot)?;
        std::fs::remove_dir_all(&folder)?;
        ensure!(
            drawn.contains("</svg>") && drawn.contains("not meaningful"),
            "{drawn}"
        );
        Ok(())
    });
}

#[test]
fn numa_tool_without_measuring_is_quick_and_verified() {
    test(|_| {
        let text = tool(&["numa", "--no-measure"])?;
        for node in nodes_with_memory()? {
            ensure!(text.contains(&format!("node {}: CPUs", node.id)), "{text}");
        }
        ensure!(
            text.contains("strict buffer: all") && !text.contains("MISPLACED"),
            "{text}"
        );
        Ok(())
    });
}
