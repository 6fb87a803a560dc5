// SPDX-License-Identifier: GPL-2.0-only

//! Allocation of the driver's own pages: folios as large as the size and the machine allow, on the nodes that are
//! wanted.
//!
//! Extends `kernel::page`.

use super::{raw, zero::zero, Owner, Pages};
use crate::kx::charged::GFP_CHARGED;
use crate::{kx::task::is_killed, logic::placement::Turns};
use core::ptr::NonNull;
use kernel::{bindings, prelude::*};

/// Order of the largest folios: 2 MiB, which one entry of a page table or of a device's list can cover.
pub(crate) const MAX_ORDER: usize = 9;

/// Which pages to allocate, and where.
pub(crate) struct Wanted<'a> {
    /// Number of pages.
    pub(crate) count: usize,
    /// Nodes that take turns; all of them have memory. Empty to follow the caller's memory policy.
    pub(crate) nodes: &'a [i32],
    /// How the nodes take turns.
    pub(crate) turns: Turns,
    /// Whether another node will do when the wanted one has nothing left, in folios of any order.
    pub(crate) spills: bool,
    /// Whether all must be one folio. `count` is a power of two then, at most of [`MAX_ORDER`].
    pub(crate) whole: bool,
    /// Order of the largest folios.
    pub(crate) max_order: usize,
    /// Most work items that zero the pages, 0 for as many as are useful.
    pub(crate) zero_workers: usize,
}

/// Pages between two checks for a fatal signal: a large allocation must not outlive the kill of its caller. Other
/// signals do not end it, because a profiler may send them more often than a large allocation can be restarted.
const SIGNAL_INTERVAL: usize = 256;

/// Allocates folios. An order that failed once is not tried again, because attempts are expensive.
struct Source {
    nid: i32,
    /// Whether only this node will do.
    bound: bool,
    /// Largest order to try; `None` when there is not even a page.
    order: Option<usize>,
}

impl Source {
    /// The next folio of at most `room` pages, and its order; `None` when not even one page is available.
    fn folio(&mut self, room: usize) -> Option<(NonNull<bindings::page>, usize)> {
        let fitting = room.checked_ilog2()? as usize;
        let mut order = self.order?.min(fitting);
        loop {
            if let Some(page) = self.try_folio(order, false) {
                return Some((page, order));
            }
            self.order = order.checked_sub(1);
            order = self.order?;
        }
    }

    fn try_folio(&self, order: usize, insist: bool) -> Option<NonNull<bindings::page>> {
        // SAFETY: `node_has_memory()` holds for a named node, which the caller checked; -1 names none. Process context,
        // so the allocation may sleep.
        let page = unsafe { raw::dmaplane_alloc_folio(self.nid, order as u32, self.bound, insist) };
        NonNull::new(page)
    }
}

impl Pages {
    /// Allocates zeroed pages, charged to the caller's memory cgroup. `ENOMEM` when the policy, the machine or the cgroup
    /// has no more; `EINTR` when the caller is being killed.
    pub(crate) fn new(wanted: &Wanted<'_>) -> Result<Self> {
        let mut pages = Self {
            row: KVVec::with_capacity(wanted.count, GFP_CHARGED)?,
            owner: Owner::Folios,
        };
        if wanted.whole {
            pages.add_whole(wanted)?;
        } else {
            pages.add_all(wanted)?;
        }
        // On a failure they are freed before anybody has seen them.
        zero(&pages.row, wanted.zero_workers)?;
        Ok(pages)
    }

    fn add_all(&mut self, wanted: &Wanted<'_>) -> Result {
        let source = |nid: i32, bound: bool| Source {
            nid,
            bound,
            order: Some(wanted.max_order.min(MAX_ORDER)),
        };
        let mut sources = KVec::with_capacity(wanted.nodes.len().max(1), GFP_CHARGED)?;
        for nid in wanted.nodes {
            sources.push(source(*nid, true), GFP_CHARGED)?;
        }
        if sources.is_empty() {
            sources.push(source(bindings::NUMA_NO_NODE, false), GFP_CHARGED)?;
        }
        let mut elsewhere = source(bindings::NUMA_NO_NODE, false);
        let mut look = 0;
        while self.count() < wanted.count {
            if self.count() >= look {
                if is_killed() {
                    return Err(EINTR);
                }
                look = self.count() + SIGNAL_INTERVAL;
            }
            let (place, next) = wanted.turns.turn(self.count());
            let room = next.min(wanted.count) - self.count();
            let source = sources.get_mut(place).ok_or(EINVAL)?;
            let folio = source.folio(room).or_else(|| {
                // Nearby nodes first: the kernel's list of nodes for this one is in the order of distance.
                elsewhere.nid = source.nid;
                if wanted.spills {
                    elsewhere.folio(room)
                } else {
                    None
                }
            });
            self.add(folio.ok_or(ENOMEM)?);
        }
        Ok(())
    }

    /// Adds one folio for all pages. Another node is tried for one folio, too.
    fn add_whole(&mut self, wanted: &Wanted<'_>) -> Result {
        let order = wanted.count.checked_ilog2().ok_or(EINVAL)? as usize;
        if !wanted.count.is_power_of_two() || order > MAX_ORDER {
            return Err(EINVAL);
        }
        let nid = wanted.nodes.first().copied();
        let mut source = Source {
            nid: nid.unwrap_or(bindings::NUMA_NO_NODE),
            bound: nid.is_some(),
            order: None,
        };
        let mut page = source.try_folio(order, true);
        if page.is_none() && source.bound && wanted.spills {
            source.bound = false;
            page = source.try_folio(order, true);
        }
        self.add((page.ok_or(ENOMEM)?, order));
        Ok(())
    }

    /// Adds a folio to the row.
    fn add(&mut self, (head, order): (NonNull<bindings::page>, usize)) {
        // INVARIANT: A successful allocation transfers one reference to a folio, whose pages follow each other.
        for tail in 0..1usize << order {
            // SAFETY: The folio has so many pages, and their descriptors are contiguous.
            let page = unsafe { head.add(tail) };
            // There is room: the row was made for all of them, and no folio is larger than what is left.
            let _ = self.row.push_within_capacity(page);
        }
    }
}

/// Frees a row that consists of whole folios, each with one reference of ours.
pub(super) fn give_back(row: &[NonNull<bindings::page>]) {
    let mut index = 0;
    while let Some(page) = row.get(index) {
        // SAFETY: The head of a folio that is alive, by the caller's invariant. The reference is given back once, and
        // the order is read before.
        unsafe {
            let order = raw::dmaplane_folio_order(page.as_ptr());
            bindings::__free_pages(page.as_ptr(), order);
            index += 1 << order;
        }
    }
}
