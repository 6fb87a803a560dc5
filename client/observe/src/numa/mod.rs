// SPDX-License-Identifier: MIT OR Apache-2.0

//! What distance between NUMA nodes costs: every node's processors copy from and wait for every node's memory.
//!
//! ```no_run
//! use dmaplane_observe::numa::{self, Plan};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let context = dmaplane::Context::open()?;
//! let matrix = numa::measure(&context, &Plan::default(), &mut |_| {})?;
//! for cell in &matrix.cells {
//!     println!("node {} from node {}: {:?} ns", cell.cpu_node, cell.memory_node, cell.latency_ns);
//! }
//! # Ok(())
//! # }
//! ```

mod chase;
mod machine;
mod measure;

use serde::{Deserialize, Serialize};

pub use machine::{Caches, emulation};
pub use measure::{Error, Plan, measure};

/// What was measured.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Matrix {
    /// Bytes of the largest cache, where the kernel knows it.
    pub last_level_cache_bytes: Option<u64>,
    /// Bytes of the working sets, in rising order.
    pub sizes: Vec<u64>,
    /// The working set that [`Cell::headline`] and the latency are of: the largest.
    pub headline_bytes: u64,
    /// Whether that is more than twice the largest cache, so that memory is what was measured.
    pub beyond_cache: bool,
    /// One for each node with processors and each node with memory.
    pub cells: Vec<Cell>,
}

/// Processors of one node at memory of one node.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Cell {
    /// The node of the processors.
    pub cpu_node: u32,
    /// The node of the memory that is read.
    pub memory_node: u32,
    /// The node of the memory that is written: the processors' own, where it has memory.
    pub target_node: u32,
    /// Bytes per second copied, for each of [`Matrix::sizes`].
    pub bytes_per_second: Vec<f64>,
    /// Nanoseconds from one dependent load to the next.
    pub latency_ns: f64,
}

impl Cell {
    /// Bytes per second of the largest working set.
    pub fn headline(&self) -> f64 {
        self.bytes_per_second.last().copied().unwrap_or_default()
    }
}

/// What another node's memory costs a node's processors.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct Penalty {
    /// The node of the processors.
    pub cpu_node: u32,
    /// The other node.
    pub memory_node: u32,
    /// Bandwidth lost, in percent of the local one; negative when the other node was faster.
    pub bandwidth_percent: f64,
    /// Latency added, in percent of the local one.
    pub latency_percent: f64,
}

impl Matrix {
    /// The cell of a node's processors and a node's memory.
    pub fn cell(&self, cpu_node: u32, memory_node: u32) -> Option<&Cell> {
        let mut cells = self.cells.iter();
        cells.find(|cell| (cell.cpu_node, cell.memory_node) == (cpu_node, memory_node))
    }

    /// The penalty of every node that is not the processors' own. Processors whose node has no memory have none.
    pub fn penalties(&self) -> Vec<Penalty> {
        let penalty = |cell: &Cell| {
            let local = self.cell(cell.cpu_node, cell.cpu_node)?;
            (cell.memory_node != cell.cpu_node).then(|| Penalty {
                cpu_node: cell.cpu_node,
                memory_node: cell.memory_node,
                bandwidth_percent: 100.0 * (1.0 - cell.headline() / local.headline()),
                latency_percent: 100.0 * (cell.latency_ns / local.latency_ns - 1.0),
            })
        };
        self.cells.iter().filter_map(penalty).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(cpu_node: u32, memory_node: u32, rate: f64, latency_ns: f64) -> Cell {
        Cell {
            cpu_node,
            memory_node,
            target_node: cpu_node,
            bytes_per_second: vec![1.0, rate],
            latency_ns,
        }
    }

    #[test]
    fn penalties_compare_with_the_own_node() {
        let matrix = Matrix {
            last_level_cache_bytes: None,
            sizes: vec![1, 2],
            headline_bytes: 2,
            beyond_cache: true,
            cells: vec![
                cell(0, 0, 10.0, 100.0),
                cell(0, 1, 8.0, 150.0),
                // Node 2 has processors and no memory.
                cell(2, 0, 5.0, 200.0),
            ],
        };
        let penalties = matrix.penalties();
        assert_eq!(penalties.len(), 1, "{penalties:?}");
        assert!((penalties[0].bandwidth_percent - 20.0).abs() < 1e-9);
        assert!((penalties[0].latency_percent - 50.0).abs() < 1e-9);
        assert_eq!(matrix.cell(1, 0), None);
    }
}
