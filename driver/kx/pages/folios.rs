// SPDX-License-Identifier: GPL-2.0-only

//! Pages of the driver's own: folios as large as the size and the machine allow.

use super::{raw, Owner, Pages};
use core::ptr::NonNull;
use kernel::{alloc::flags::__GFP_NOWARN, bindings, prelude::*};

/// Order of the largest folios: 2 MiB, which one entry of a page table or of a device's list can cover.
pub(crate) const MAX_ORDER: usize = 9;

/// Where pages are to come from.
#[derive(Clone, Copy)]
pub(crate) enum Node {
    /// Anywhere, near the caller first.
    Any,
    /// This node first, in folios of whatever order it still has; only then elsewhere.
    Preferred(i32),
    /// This node only.
    Strict(i32),
}

/// Pages between two looks for a pending signal: large allocations must not outlive their caller's kill.
const SIGNAL_INTERVAL: usize = 256;

/// Allocates folios, and notes what it did not get.
struct Source {
    nid: i32,
    /// Whether only this node will do.
    bound: bool,
    /// Largest order to try: what failed once is not tried again, because asking for it is dear.
    order: usize,
}

impl Source {
    fn new(nid: i32, bound: bool) -> Self {
        Self {
            nid,
            bound,
            order: MAX_ORDER,
        }
    }

    /// The next folio of at most `room` pages, and its order; `None` when not even one page is to be had.
    fn folio(&mut self, room: usize) -> Option<(NonNull<bindings::page>, usize)> {
        let fitting = room.checked_ilog2()? as usize;
        let mut order = self.order.min(fitting);
        loop {
            // SAFETY: `node_has_memory()` holds for a named node, which the caller checked; -1 names none.
            // Process context, so that the allocation may sleep.
            let page = unsafe { raw::dmaplane_alloc_folio(self.nid, order as u32, self.bound) };
            if let Some(page) = NonNull::new(page) {
                return Some((page, order));
            }
            order = order.checked_sub(1)?;
            self.order = order;
        }
    }
}

impl Pages {
    /// Allocates `count` zeroed pages, charged to the caller's memory cgroup. `ENOMEM` when the policy, the machine
    /// or the cgroup has no more; `EINTR` when a signal arrives meanwhile.
    pub(crate) fn new(count: usize, node: Node) -> Result<Self> {
        let (mut source, mut spill) = match node {
            Node::Any => (Source::new(bindings::NUMA_NO_NODE, false), None),
            Node::Preferred(nid) => (Source::new(nid, true), Some(Source::new(nid, false))),
            Node::Strict(nid) => (Source::new(nid, true), None),
        };
        // A user may ask for more than there is, at will: that is told by the error and not in the log.
        let quiet = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
        let mut pages = Self {
            row: KVVec::with_capacity(count, quiet)?,
            owner: Owner::Folios,
        };
        let mut look = 0;
        while pages.count() < count {
            if pages.count() >= look {
                if kernel::current!().signal_pending() {
                    return Err(EINTR);
                }
                look = pages.count() + SIGNAL_INTERVAL;
            }
            let Some((head, order)) = source.folio(count - pages.count()) else {
                source = spill.take().ok_or(ENOMEM)?;
                continue;
            };
            // INVARIANT: A successful allocation transfers one reference to a folio, whose pages follow each other.
            for tail in 0..1usize << order {
                // SAFETY: The folio has so many pages, and their descriptors are in a row.
                let page = unsafe { head.add(tail) };
                // There is room: the list was made for all of them, and no folio is larger than what is left.
                let _ = pages.row.push_within_capacity(page);
            }
        }
        Ok(pages)
    }
}

/// Gives back a row that consists of whole folios, each with one reference of ours.
pub(super) fn give_back(row: &[NonNull<bindings::page>]) {
    let mut index = 0;
    while let Some(page) = row.get(index) {
        // SAFETY: The head of a folio that is alive, by the caller's invariant; the reference is given back once, and
        // the order read before.
        unsafe {
            let order = raw::dmaplane_folio_order(page.as_ptr());
            bindings::__free_pages(page.as_ptr(), order);
            index += 1 << order;
        }
    }
}
