// SPDX-License-Identifier: MIT OR Apache-2.0

//! The measurement: a thread bound to a node's processors, and strict buffers on either side.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::machine::Caches;
use super::{Cell, Matrix, chase};
use dmaplane::topology::{NumaNode, numa_nodes};
use dmaplane::{Buffer, Context, FrozenBuffer, Placement};

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sysfs does not list the nodes.
    #[error("cannot read the NUMA nodes from sysfs: {0}")]
    Topology(#[source] io::Error),
    /// A buffer could not be made.
    #[error(transparent)]
    Buffer(#[from] dmaplane::Error),
    /// A thread could not be bound to a node's processors.
    #[error("cannot bind a thread to the processors of node {node}: {source}")]
    Affinity {
        /// The node.
        node: u32,
        /// What sched_setaffinity(2) said.
        source: rustix::io::Errno,
    },
    /// No working set fits.
    #[error("no node has memory free for the smallest working set, {bytes} bytes")]
    NoRoom {
        /// Its bytes.
        bytes: u64,
    },
    /// A thread of the measurement died.
    #[error("a measuring thread panicked")]
    Thread,
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes of the working sets, in rising order. Those that do not fit twice into a third of each node's free memory
    /// are left out.
    pub sizes: Vec<u64>,
    /// Least time for each rate, and for each latency.
    pub time: Duration,
}

impl Default for Plan {
    /// 64 KiB to 1 GiB, each four times the one before, 100 ms each.
    fn default() -> Self {
        Self {
            sizes: (16..=30).step_by(2).map(|shift| 1 << shift).collect(),
            time: Duration::from_millis(100),
        }
    }
}

impl Plan {
    /// The working sets that every node of these has room for.
    fn fitting(&self, nodes: &[&NumaNode]) -> Result<Vec<u64>, Error> {
        let least = nodes.iter().map(|node| node.free_bytes).min().unwrap_or(0);
        let fits = |bytes: &&u64| bytes.saturating_mul(2) <= least / 3;
        let sizes: Vec<u64> = self.sizes.iter().take_while(fits).copied().collect();
        match self.sizes.first() {
            Some(bytes) if sizes.is_empty() => Err(Error::NoRoom { bytes: *bytes }),
            _ => Ok(sizes),
        }
    }
}

/// Measures every node's processors at every node's memory. `progress` is called with each step before it begins.
///
/// # Errors
/// [`Error`], also when a node has no memory for a strict buffer.
pub fn measure(
    context: &Context,
    plan: &Plan,
    progress: &mut dyn FnMut(Step),
) -> Result<Matrix, Error> {
    let nodes = numa_nodes().map_err(Error::Topology)?;
    let memories: Vec<&NumaNode> = nodes.iter().filter(|node| node.total_bytes > 0).collect();
    let processors: Vec<&NumaNode> = nodes.iter().filter(|node| !node.cpus.is_empty()).collect();
    let sizes = plan.fitting(&memories)?;
    let headline_bytes = sizes.last().copied().unwrap_or_default();
    let cache = Caches::read().map(|caches| caches.last_level_bytes);
    let mut cells = Vec::new();
    let total = processors.len() * memories.len();
    for cpu in &processors {
        for memory in &memories {
            progress(Step {
                cpu_node: cpu.id,
                memory_node: memory.id,
                done: cells.len(),
                total,
            });
            let target = if cpu.total_bytes > 0 {
                cpu.id
            } else {
                memory.id
            };
            let place = Place {
                context,
                cpu,
                memory: memory.id,
                target,
            };
            cells.push(place.measure(&sizes, plan.time)?);
        }
    }
    Ok(Matrix {
        last_level_cache_bytes: cache,
        beyond_cache: cache.is_some_and(|cache| headline_bytes > 2 * cache),
        headline_bytes,
        sizes,
        cells,
    })
}

/// What is about to be measured.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Step {
    /// The node of the processors.
    pub cpu_node: u32,
    /// The node of the memory.
    pub memory_node: u32,
    /// Cells that are done.
    pub done: usize,
    /// Cells in all.
    pub total: usize,
}

/// One cell to measure.
struct Place<'a> {
    context: &'a Context,
    cpu: &'a NumaNode,
    memory: u32,
    target: u32,
}

impl Place<'_> {
    /// Measures in a thread of its own, whose binding ends with it.
    fn measure(&self, sizes: &[u64], time: Duration) -> Result<Cell, Error> {
        std::thread::scope(|scope| scope.spawn(|| self.bound(sizes, time)).join())
            .map_err(|_| Error::Thread)?
    }

    fn bound(&self, sizes: &[u64], time: Duration) -> Result<Cell, Error> {
        let mut set = CpuSet::new();
        for cpu in cpus(&self.cpu.cpus) {
            set.set(cpu);
        }
        sched_setaffinity(None, &set).map_err(|source| Error::Affinity {
            node: self.cpu.id,
            source,
        })?;
        let mut bytes_per_second = Vec::new();
        let mut latency_ns = 0.0;
        for (index, bytes) in sizes.iter().enumerate() {
            let mut from = self.buffer(*bytes, self.memory)?;
            let mut to = self.buffer(*bytes, self.target)?;
            from.as_mut_slice().fill(0x5a);
            bytes_per_second.push(copy_rate(&from, &mut to, time));
            drop(to);
            if index + 1 == sizes.len() {
                latency_ns = latency(&mut from, time);
            }
        }
        Ok(Cell {
            cpu_node: self.cpu.id,
            memory_node: self.memory,
            target_node: self.target,
            bytes_per_second,
            latency_ns,
        })
    }

    fn buffer(&self, bytes: u64, node: u32) -> Result<FrozenBuffer, Error> {
        let buffer = Buffer::create(self.context, bytes, Placement::Strict(node))?;
        match buffer.freeze() {
            Ok(frozen) => Ok(frozen),
            // Nobody else has seen it.
            Err(_) => unreachable!("a new buffer has no other writers"),
        }
    }
}

/// Bytes per second, without the first pass, which maps the pages.
fn copy_rate(from: &FrozenBuffer, to: &mut FrozenBuffer, time: Duration) -> f64 {
    to.as_mut_slice().copy_from_slice(from);
    let start = Instant::now();
    let mut passes = 0u32;
    while start.elapsed() < time {
        to.as_mut_slice().copy_from_slice(black_box(from));
        black_box(to.as_mut_slice());
        passes += 1;
    }
    f64::from(passes) * from.len() as f64 / start.elapsed().as_secs_f64()
}

/// Nanoseconds for each dependent load.
fn latency(memory: &mut FrozenBuffer, time: Duration) -> f64 {
    const BATCH: u64 = 4096;
    let places = chase::link(memory.as_mut_slice(), 0x9e37_79b9_7f4a_7c15);
    if places < 2 {
        return 0.0;
    }
    let mut at = chase::follow(memory, 0, BATCH);
    let start = Instant::now();
    let mut steps = 0;
    while start.elapsed() < time {
        at = black_box(chase::follow(memory, at, BATCH));
        steps += BATCH;
    }
    start.elapsed().as_secs_f64() * 1e9 / steps as f64
}

/// The processors of the kernel's list format, `0-3,8`.
fn cpus(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let parts = list.split(',').filter(|part| !part.is_empty());
    let ranges = parts.filter_map(range);
    ranges
        .flatten()
        .filter(|cpu| *cpu < CpuSet::MAX_CPU)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(cpus("0-2,8"), [0, 1, 2, 8]);
        assert_eq!(cpus("5"), [5]);
        assert!(cpus("").is_empty());
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut node = numa_nodes().expect("nodes").remove(0);
        let plan = Plan::default();
        assert_eq!(plan.sizes.first(), Some(&(64 << 10)));
        assert_eq!(plan.sizes.last(), Some(&(1 << 30)));
        node.free_bytes = 96 << 20;
        let sizes = plan.fitting(&[&node]).expect("some fit");
        assert_eq!(sizes.last(), Some(&(16 << 20)));
        node.free_bytes = 4096;
        assert!(matches!(
            plan.fitting(&[&node]),
            Err(Error::NoRoom { bytes: 65536 })
        ));
    }
}
