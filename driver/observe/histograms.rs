// SPDX-License-Identifier: GPL-2.0-only

//! Where an endpoint's histograms are kept: one for each kind of operation, stage and CPU, made when first used.

use crate::kx::charged::{Payer, GFP_CHARGED};
use crate::{
    base::faults::FAULTS,
    logic::histogram::{gather, record, summarize, Counter, Summary, BUCKETS},
    uapi,
};
use kernel::{
    alloc::flags::{__GFP_NOWARN, GFP_NOWAIT},
    cpu::CpuId,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic, Relaxed},
        SetOnce,
    },
};

/// Most CPUs that have histograms of their own; with more CPUs, several share one. A histogram takes 8 KiB, so an
/// endpoint that writes takes 24 KiB for each CPU that completes its operations, and no endpoint takes more than 2.5
/// MiB.
const MAX_SHARDS: usize = 16;

/// Whether latencies are counted; written through debugfs.
pub(crate) static ENABLED: Atomic<u32> = Atomic::new(1);

/// Kinds of operations that have an endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(usize);

impl Kind {
    /// Their numbers in the user-space interface and names.
    pub(crate) const ALL: [(u8, &'static str); 7] = [
        (uapi::OP_RECV, "recv"),
        (uapi::OP_WRITE, "write"),
        (uapi::OP_WRITE_IMM, "write_imm"),
        (uapi::OP_READ, "read"),
        (uapi::OP_SEND, "send"),
        (uapi::OP_FENCE, "fence"),
        (uapi::OP_WATCH, "watch"),
    ];

    /// Of an operation; `None` for one that has no endpoint.
    pub(crate) fn of(op: u8) -> Option<Self> {
        let at = Self::ALL.iter().position(|(number, _)| *number == op)?;
        Some(Self(at))
    }

    /// All of them, with their names.
    pub(crate) fn each() -> impl Iterator<Item = (Self, &'static str)> {
        let names = Self::ALL.iter().enumerate();
        names.map(|(at, (_, name))| (Self(at), *name))
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.get(self.0).map_or("?", |(_, name)| name)
    }

    pub(super) fn index(self) -> usize {
        self.0
    }
}

/// Parts of an operation's life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// From acceptance to the provider.
    Queued,
    /// In the provider.
    Provider,
    /// From acceptance to completion.
    Total,
}

impl Stage {
    /// All of them, with their names.
    pub(crate) const ALL: [(Self, &'static str); 3] = [
        (Self::Queued, "queued"),
        (Self::Provider, "provider"),
        (Self::Total, "total"),
    ];

    /// As numbered in the user-space interface.
    pub(crate) fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            uapi::STAGE_QUEUED => Some(Self::Queued),
            uapi::STAGE_PROVIDER => Some(Self::Provider),
            uapi::STAGE_TOTAL => Some(Self::Total),
            _ => None,
        }
    }
}

/// A counter of a histogram. Wraps the kernel crate's type, so that it can implement this crate's trait.
struct Cell(Atomic<u64>);

impl Counter for Cell {
    fn add(&self, amount: u64) {
        let _ = self.0.fetch_add(amount, ordering::Release);
    }

    fn load(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn take(&self) -> u64 {
        self.0.xchg(0, ordering::Acquire)
    }

    fn raise(&self, to: u64) {
        let mut seen = self.0.load(Relaxed);
        while seen < to {
            match self.0.cmpxchg(seen, to, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

/// One histogram.
struct Histogram {
    buckets: KVec<Cell>,
    highest: Cell,
}

impl Histogram {
    /// Allocates an empty histogram. May be called where sleeping is forbidden. Charged, but does not wait for memory:
    /// a value without a histogram counts as `lost`.
    fn new() -> Result<Self> {
        let flags = GFP_NOWAIT | __GFP_NOWARN | (GFP_KERNEL_ACCOUNT & !GFP_KERNEL);
        FAULTS.alloc_histogram.fail(ENOMEM)?;
        let mut buckets = KVec::with_capacity(BUCKETS, flags)?;
        for _ in 0..BUCKETS {
            buckets.push(Cell(Atomic::new(0)), flags)?;
        }
        Ok(Self {
            buckets,
            highest: Cell(Atomic::new(0)),
        })
    }
}

/// All histograms of an endpoint. No lock: counters are atomic, and a histogram stays once it is there.
pub(super) struct Histograms {
    cells: KVVec<SetOnce<Histogram>>,
    shards: usize,
    /// Values that found no memory for their histogram.
    lost: Atomic<u64>,
    /// Pays for them, whichever thread records the first value.
    payer: Payer,
}

impl Histograms {
    /// Without any histogram yet.
    pub(super) fn new(payer: Payer) -> Result<Self> {
        let shards = (kernel::cpu::nr_cpu_ids() as usize).clamp(1, MAX_SHARDS);
        let count = Kind::ALL.len() * Stage::ALL.len() * shards;
        let mut cells = KVVec::with_capacity(count, GFP_CHARGED)?;
        for _ in 0..count {
            cells.push(SetOnce::new(), GFP_CHARGED)?;
        }
        Ok(Self {
            cells,
            shards,
            lost: Atomic::new(0),
            payer,
        })
    }

    /// The histograms of one kind and stage, one for each shard.
    fn row(&self, kind: Kind, stage: Stage) -> &[SetOnce<Histogram>] {
        let first = (kind.index() * Stage::ALL.len() + stage as usize) * self.shards;
        self.cells.get(first..first + self.shards).unwrap_or(&[])
    }

    /// Counts a latency.
    pub(super) fn record(&self, kind: Kind, stage: Stage, nanoseconds: u64) {
        let row = self.row(kind, stage);
        // Below `MAX_SHARDS` CPUs this is the CPU's own number.
        let shard = CpuId::current().as_u32() as usize & (MAX_SHARDS - 1);
        let Some(cell) = row.get(shard).or(row.first()) else {
            return;
        };
        if cell.as_ref().is_none() {
            match self.payer.pays(Histogram::new) {
                // A second thread drops its own histogram; a value that comes while the first is being stored counts as
                // lost.
                Ok(histogram) => drop(cell.populate(histogram)),
                Err(_) => {
                    self.lose();
                    return;
                }
            }
        }
        match cell.as_ref() {
            Some(histogram) => record(&histogram.buckets, &histogram.highest, nanoseconds),
            None => self.lose(),
        }
    }

    fn lose(&self) {
        let _ = self.lost.fetch_add(1, Relaxed);
    }

    /// Values that were not counted for want of memory.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Adds up the histograms of all CPUs, and empties them if `empty` is set. `counts` has [`BUCKETS`] places.
    pub(super) fn gather(
        &self,
        kind: Kind,
        stage: Stage,
        empty: bool,
        counts: &mut [u64],
    ) -> Summary {
        let mut highest = 0;
        for histogram in self.row(kind, stage).iter().filter_map(SetOnce::as_ref) {
            let of_one = gather(&histogram.buckets, &histogram.highest, empty, counts);
            highest = highest.max(of_one);
        }
        summarize(counts, highest)
    }

    /// Whether anything was ever counted.
    pub(super) fn is_there(&self, kind: Kind, stage: Stage) -> bool {
        self.row(kind, stage)
            .iter()
            .any(|cell| cell.as_ref().is_some())
    }
}
