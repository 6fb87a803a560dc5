// SPDX-License-Identifier: GPL-2.0-only

//! Warm pools: memory that is registered once and carved into buffers.
//!
//! A carved buffer is memory of its own, made of a part of the pool's pages: its users, its mappings and its revocation
//! concern no other buffer. Only its registration for sending is the pool's: it is made on first use and then serves
//! all. The part goes back to the pool when the last reference to that memory is dropped, not when its handle is
//! destroyed. So nothing is carved that a device may still write.
//!
//! A pool and all that is carved from it belong to one context, so no user sees another user's data. A buffer shows
//! what the previous buffer of the same part held, unless the pool zeroes.

use super::Buffer;
use crate::{
    base::{
        gauges::{Held, GAUGES},
        quota::Kind,
        tuning::TUNING,
    },
    kx::{
        charged::GFP_CHARGED,
        pages::{PageOwner, Pages, PAGE_BYTES},
    },
    logic::buddy::{Block, Buddy},
    memory::{Memory, MemoryOwner, Placement},
    uapi,
};
use kernel::{
    fmt, new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, SpinLock,
    },
};

/// A pool. Kept by its handle and by the buffers that are carved from it, which need its registrations.
pub(crate) struct Pool {
    /// The buffer of all of the pool, only for its registrations.
    buffer: Arc<Buffer>,
    stock: Arc<Stock>,
    zeroes: bool,
}

/// What a pool carves from. Kept by the pool and by each part that is taken. A part keeps no registration, so it may be
/// dropped under any lock. Lock: `slots`.
#[pin_data]
struct Stock {
    /// All of it, with its charge.
    memory: Arc<Memory>,
    pages: Arc<Pages>,
    carves: Atomic<u64>,
    refusals: Atomic<u64>,
    #[pin]
    slots: SpinLock<Buddy<KVVec<Block>>>,
    _count: Held,
}

/// A part that is taken; given back on drop.
struct Slot {
    stock: Arc<Stock>,
    first: u32,
}

impl PageOwner for Slot {}

impl Drop for Slot {
    fn drop(&mut self) {
        // It was taken once, so this cannot fail.
        let _given = self.stock.slots.lock().give(self.first);
    }
}

impl Pool {
    /// Allocates a pool; see [`Placement::allocate`] for the errors.
    pub(crate) fn new(
        bytes: u64,
        placement: Placement,
        zeroes: bool,
        owner: MemoryOwner,
    ) -> Result<Arc<Self>> {
        let count = placement.pages_for(bytes)?;
        let whole = count.checked_mul(PAGE_BYTES).ok_or(E2BIG)?;
        let charge = owner.quota.charge(Kind::Bytes, whole as u64)?;
        // The pages first: they are the largest part, and a signal may interrupt their allocation.
        let (pages, placed) = placement.allocate(count)?;
        let blocks = KVVec::from_elem(Block::NEW, count, GFP_CHARGED)?;
        let slots = Buddy::new(blocks).ok_or(E2BIG)?;
        let pages = Arc::new(pages, GFP_CHARGED)?;
        let all = Pages::part(pages.clone(), 0, count, None)?;
        let memory = Memory::over(all, placed, &owner, Some(charge))?;
        let buffer = Buffer::new(memory.clone())?;
        let stock = Arc::pin_init(
            pin_init!(Stock {
                memory,
                pages,
                carves: Atomic::new(0),
                refusals: Atomic::new(0),
                slots <- new_spinlock!(slots, "Stock::slots"),
                _count: GAUGES.pools.hold(1),
            }),
            GFP_CHARGED,
        )?;
        let pool = Self {
            buffer,
            stock,
            zeroes,
        };
        Ok(Arc::new(pool, GFP_CHARGED)?)
    }

    /// The buffer whose registrations serve all that is carved.
    pub(super) fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.stock.memory.bytes()
    }

    /// Carves a buffer of whole pages out of the pool; returns it and its start in the pool. `E2BIG` when the pool
    /// never has so much in a row, `ENOSPC` when it does not have it now, `EINTR` when the caller is killed while the
    /// buffer is being zeroed.
    pub(crate) fn carve(
        self: &Arc<Self>,
        bytes: u64,
        owner: &MemoryOwner,
    ) -> Result<(Arc<Buffer>, u64)> {
        let count = bytes.div_ceil(PAGE_BYTES as u64);
        let count = usize::try_from(count).map_err(|_| E2BIG)?;
        let class = Buddy::<KVVec<Block>>::class_of(count).ok_or(E2BIG)?;
        if 1u64
            .checked_shl(class.into())
            .is_none_or(|run| run > self.stock.pages.count() as u64)
        {
            return Err(E2BIG);
        }
        let stock = &self.stock;
        let taken = stock.slots.lock().take(class);
        let Some(first) = taken else {
            let _ = stock.refusals.fetch_add(1, Relaxed);
            return Err(ENOSPC);
        };
        // From here on a failure gives it back.
        let slot = Slot {
            stock: stock.clone(),
            first,
        };
        let slot: KBox<dyn PageOwner> = KBox::new(slot, GFP_CHARGED)?;
        let first = first as usize;
        let pages = Pages::part(stock.pages.clone(), first, count, Some(slot))?;
        if self.zeroes {
            pages.clear(TUNING.zero_workers())?;
        }
        let placed = stock.memory.placement().part(first);
        let memory = Memory::over(pages, placed, owner, None)?;
        let offset = (first * PAGE_BYTES) as u64;
        let buffer = Buffer::carved(memory, self.clone(), offset)?;
        let _ = stock.carves.fetch_add(1, Relaxed);
        Ok((buffer, offset))
    }

    /// Writes its line.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, longest, carved) = {
            let slots = self.stock.slots.lock();
            (slots.free(), slots.longest(), slots.taken_runs())
        };
        let (serial, bytes) = (self.stock.memory.mark().serial(), self.bytes());
        write!(f, "buffer={serial} bytes={bytes}")?;
        write!(f, " free={}", free * PAGE_BYTES)?;
        write!(f, " longest={} carved={carved}", longest * PAGE_BYTES)?;
        write!(f, " carves={}", self.stock.carves.load(Relaxed))?;
        writeln!(f, " refusals={}", self.stock.refusals.load(Relaxed))
    }

    /// Writes a line for each of its regions.
    pub(crate) fn show_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.buffer.show_regions(f)
    }

    /// Fills in a query's results.
    pub(crate) fn describe(&self, query: &mut uapi::PoolQuery) {
        let page = PAGE_BYTES as u64;
        let memory = &self.stock.memory;
        (query.placement, query.node) = memory.placement().report();
        query.bytes = memory.bytes();
        query.regions = self.buffer.regions() as u32;
        query.carves = self.stock.carves.load(Relaxed);
        query.refusals = self.stock.refusals.load(Relaxed);
        let slots = self.stock.slots.lock();
        query.free_bytes = slots.free() as u64 * page;
        query.longest_bytes = slots.longest() as u64 * page;
        query.carved = slots.taken_runs() as u32;
    }
}
