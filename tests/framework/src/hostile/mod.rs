// SPDX-License-Identifier: MIT OR Apache-2.0

//! A process that ill-treats the driver: random and mutated calls by several threads on shared files, and rings whose
//! bytes change while the kernel reads them.
//!
//! Each thread's choices follow from the seed. What it finds in the handles and rings that it shares with the others
//! does not, so a replay takes the same way but not the same steps.

mod arguments;
mod calls;
mod entries;
mod guided;
mod tables;
mod thread;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};

pub use guided::{Guided, Seen, guided};
use tables::Tables;

/// What to do, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the random choices start.
    pub seed: u64,
    /// Threads.
    pub threads: u64,
    /// System calls in all.
    pub calls: u64,
    /// Address of an RDMA device, to connect to itself.
    pub address: IpAddr,
    /// How long all threads together may take for a single call.
    pub limit: Duration,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Calls by name.
    pub calls: BTreeMap<String, u64>,
    /// Calls by how they ended, an errno or `ok`.
    pub ends: BTreeMap<String, u64>,
    /// Entries that were put into rings.
    pub entries: u64,
}

impl Report {
    /// System calls in all.
    pub fn total(&self) -> u64 {
        self.ends.values().sum()
    }

    fn add(&mut self, other: Self) {
        for (name, count) in other.calls {
            *self.calls.entry(name).or_default() += count;
        }
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        self.entries += other.entries;
    }
}

/// Does it.
///
/// # Errors
/// When the driver cannot be opened, or when no thread gets on any more.
pub fn run(plan: &Plan) -> Result<Report> {
    let tables = Tables::open()?;
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (reports, news) = mpsc::channel();
        for index in 0..plan.threads {
            let (tables, done, reports) = (&tables, &done, reports.clone());
            scope.spawn(move || {
                // Nobody listens any more only when something else has gone wrong.
                let _ = reports.send(thread::run(plan, index, tables, done));
            });
        }
        drop(reports);
        let mut total = Report::default();
        let mut last = (0, Instant::now());
        loop {
            match news.recv_timeout(plan.limit / 8) {
                Ok(report) => total.add(report?),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let now = done.load(Ordering::Relaxed);
                    if now != last.0 {
                        last = (now, Instant::now());
                    } else if last.1.elapsed() > plan.limit {
                        // The scope would wait for the threads that hang.
                        eprintln!("no thread gets on after {now} calls");
                        std::process::exit(3);
                    }
                }
            }
        }
        if total.total() < plan.calls {
            bail!("{} calls instead of {}", total.total(), plan.calls);
        }
        Ok(total)
    })
    .map_err(|error: anyhow::Error| anyhow!("seed {}: {error:#}", plan.seed))
}
