// SPDX-License-Identifier: GPL-2.0-only

//! Where a buffer's pages are wanted, where they are, and what was missed.

use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::tuning::TUNING,
    kx::{
        nodes::{self, DeviceName},
        pages::{Pages, Wanted, MAX_ORDER},
    },
    logic::placement::{nearest, Turns},
    uapi,
};
use kernel::{
    debugfs::{Dir, Scope},
    fmt,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// What the user asked for, with devices looked up.
pub(crate) struct Placement {
    policy: u32,
    /// The node, where the policy has one.
    node: i32,
    /// Node of the device that it is near to, -1 for none or unknown.
    device_node: i32,
    /// Nodes that take turns; none for anywhere.
    nodes: KVec<i32>,
    /// Whether another node will do.
    spills: bool,
    /// Whether all must be one folio.
    whole: bool,
}

impl Placement {
    /// Checks what the user asked for. `EINVAL` for an unknown policy, a node that does not exist or has no memory, a node
    /// or a device where the policy has none; `ENODEV` for a device that is not there; `ENXIO` for one whose node is not
    /// known, unless one node has all memory. `rdma_node` gives the node of an RDMA device.
    pub(crate) fn new(
        (policy, node): (u32, i32),
        near: &[u8; 64],
        flags: u32,
        rdma_node: impl FnOnce(&DeviceName<'_>) -> Result<i32>,
    ) -> Result<Self> {
        let named = near.iter().any(|byte| *byte != 0);
        let is_near = matches!(policy, uapi::PLACE_NEAR_RDMA | uapi::PLACE_NEAR_PCI);
        let has_node = matches!(policy, uapi::PLACE_PREFERRED | uapi::PLACE_STRICT);
        let whole = flags & uapi::BUFFER_COHERENT != 0;
        let strict = flags & uapi::BUFFER_STRICT != 0;
        if named != is_near || (!has_node && node != -1) {
            return Err(EINVAL);
        }
        let mut placement = Self {
            policy,
            node,
            device_node: -1,
            nodes: KVec::new(),
            spills: !strict && policy != uapi::PLACE_STRICT,
            whole,
        };
        match policy {
            uapi::PLACE_ANY if !strict => {}
            uapi::PLACE_PREFERRED | uapi::PLACE_STRICT if nodes::node_has_memory(node) => {
                placement.nodes.push(node, GFP_CHARGED)?;
            }
            uapi::PLACE_INTERLEAVE if !whole => {
                for node in nodes::memory_nodes() {
                    placement.nodes.push(node, GFP_CHARGED)?;
                }
            }
            uapi::PLACE_NEAR_RDMA | uapi::PLACE_NEAR_PCI => {
                let name = DeviceName::new(near)?;
                placement.device_node = if policy == uapi::PLACE_NEAR_PCI {
                    nodes::of_pci_device(&name)?
                } else {
                    rdma_node(&name)?
                };
                placement.node = near_node(placement.device_node)?;
                placement.nodes.push(placement.node, GFP_CHARGED)?;
            }
            _ => return Err(EINVAL),
        }
        Ok(placement)
    }

    /// Pages that hold `bytes`: a power of two where they must be one folio. `E2BIG` when no folio is that large.
    pub(crate) fn pages_for(&self, bytes: u64) -> Result<usize> {
        let pages = bytes.div_ceil(crate::kx::pages::PAGE_BYTES as u64);
        let pages = usize::try_from(pages).map_err(|_| E2BIG)?;
        if !self.whole {
            return Ok(pages);
        }
        let rounded = pages.checked_next_power_of_two().ok_or(E2BIG)?;
        if rounded > 1 << MAX_ORDER {
            return Err(E2BIG);
        }
        Ok(rounded)
    }

    fn turns(&self, count: usize) -> Turns {
        Turns::new(count, self.nodes.len(), MAX_ORDER as u32)
    }

    /// Allocates, and counts pages that are misplaced or in small folios. See [`Pages::new`] for the errors.
    pub(crate) fn allocate(self, count: usize) -> Result<(Pages, Placed)> {
        let pages = Pages::new(&Wanted {
            count,
            nodes: &self.nodes,
            turns: self.turns(count),
            spills: self.spills,
            whole: self.whole,
            max_order: TUNING.folio_order().min(MAX_ORDER),
            zero_workers: TUNING.zero_workers(),
        })
        .inspect_err(|error| {
            if *error == ENOMEM && !self.spills {
                COUNTERS.refusals.add(1);
            }
        })?;
        let placed = Placed {
            placement: Arc::new(self, GFP_CHARGED)?,
            first: 0,
            total: count,
        };
        let (mut misplaced, mut small) = (0, 0);
        placed.each(&pages, |_, _, pages, is_misplaced, is_small| {
            misplaced += if is_misplaced { pages } else { 0 };
            small += if is_small { pages } else { 0 };
        });
        COUNTERS.misplaced_pages.add(misplaced);
        COUNTERS.small_pages.add(small);
        Ok((pages, placed))
    }
}

/// The placement that was asked for, and which part of it some pages are.
pub(crate) struct Placed {
    placement: Arc<Placement>,
    /// Index of their first page.
    first: usize,
    /// Pages for which it was asked.
    total: usize,
}

impl Placed {
    /// The placement of a device's memory, which is on the device's node.
    pub(super) fn of_device(node: i32) -> Result<Self> {
        let placement = Placement {
            policy: uapi::PLACE_ANY,
            node,
            device_node: node,
            nodes: KVec::new(),
            spills: false,
            whole: false,
        };
        Ok(Self {
            placement: Arc::new(placement, GFP_CHARGED)?,
            first: 0,
            total: 0,
        })
    }

    /// The placement of the part that begins `first` pages further on.
    pub(crate) fn part(&self, first: usize) -> Self {
        Self {
            placement: self.placement.clone(),
            first: self.first + first,
            total: self.total,
        }
    }

    /// Calls `look` for each folio with its node, its order, its pages, whether it is elsewhere than wanted, and
    /// whether a larger one would have fit.
    fn each(&self, pages: &Pages, mut look: impl FnMut(i32, usize, u64, bool, bool)) {
        let turns = self.placement.turns(self.total);
        pages.each_folio(|index, node, order, pages| {
            let first = self.first + index;
            let (place, next) = turns.turn(first);
            let wanted = self.placement.nodes.get(place);
            let room = next.min(self.total).saturating_sub(first);
            let fitting = room.checked_ilog2().unwrap_or(0) as usize;
            let is_misplaced = wanted.is_some_and(|wanted| *wanted != node);
            let is_small = order < fitting.min(MAX_ORDER);
            look(node, order, pages as u64, is_misplaced, is_small);
        });
    }

    /// Policy and node, as queries report them.
    pub(crate) fn report(&self) -> (u32, i32) {
        (self.placement.policy, self.placement.node)
    }

    /// Pages on each node, and those that are elsewhere than wanted. Read from the pages themselves.
    pub(super) fn census(&self, pages: &Pages) -> Result<(KVec<u64>, u64)> {
        let mut by_node = KVec::from_elem(0u64, nodes::node_ids() as usize, GFP_CHARGED)?;
        let mut misplaced = 0;
        self.each(pages, |node, _, pages, is_misplaced, _| {
            let slot = usize::try_from(node).ok();
            if let Some(count) = slot.and_then(|at| by_node.get_mut(at)) {
                *count += pages;
            }
            misplaced += if is_misplaced { pages } else { 0 };
        });
        Ok((by_node, misplaced))
    }

    /// Pages on each node only; empty without memory for the list.
    pub(super) fn by_node(&self, pages: &Pages) -> KVec<u64> {
        let counted = self.census(pages);
        counted.map_or(KVec::new(), |(by_node, _)| by_node)
    }

    /// Pages on each node of a device's memory; empty without memory for the list.
    pub(super) fn by_node_of_device(&self, count: u64) -> KVec<u64> {
        let counted = self.census_of_device(count);
        counted.map_or(KVec::new(), |(by_node, _)| by_node)
    }

    /// As [`Self::census`] for `count` pages of a device's memory, which are all on the device's node.
    pub(super) fn census_of_device(&self, count: u64) -> Result<(KVec<u64>, u64)> {
        let mut by_node = KVec::from_elem(0u64, nodes::node_ids() as usize, GFP_CHARGED)?;
        let place = usize::try_from(self.placement.node).ok();
        if let Some(pages) = place.and_then(|at| by_node.get_mut(at)) {
            *pages += count;
        }
        Ok((by_node, 0))
    }

    /// Fills in the figures of the node that is asked for; none for memory without pages.
    pub(super) fn folios(&self, pages: Option<&Pages>, query: &mut uapi::BufferFolios) {
        query.device_node = self.placement.device_node;
        query.orders = MAX_ORDER as u32 + 1;
        query.pages_by_order = [0; 16];
        query.misplaced_pages = 0;
        query.small_pages = 0;
        let asked = query.node;
        let Some(pages) = pages else { return };
        self.each(pages, |node, order, pages, is_misplaced, is_small| {
            if node != asked {
                return;
            }
            if let Some(count) = query.pages_by_order.get_mut(order) {
                *count += pages;
            }
            query.misplaced_pages += if is_misplaced { pages } else { 0 };
            query.small_pages += if is_small { pages } else { 0 };
        });
    }
}

/// The nearest node with memory to a device.
fn near_node(device_node: i32) -> Result<i32> {
    if nodes::node_has_memory(device_node) {
        return Ok(device_node);
    }
    if device_node >= 0 {
        let distances =
            nodes::memory_nodes().map(|node| (node, nodes::distance(device_node, node)));
        return nearest(distances).ok_or(EINVAL);
    }
    // The device's node is unknown, which matters only where there are several nodes.
    let mut all = nodes::memory_nodes();
    match (all.next(), all.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(ENXIO),
    }
}

struct Counter(Atomic<u64>);

impl Counter {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    fn add(&self, amount: u64) {
        let _ = self.0.fetch_add(amount, Relaxed);
    }
}

/// How often placement failed since the driver was loaded.
pub(crate) struct Counters {
    /// Pages elsewhere than wanted.
    misplaced_pages: Counter,
    /// Buffers refused because their nodes had no more memory.
    refusals: Counter,
    /// Pages in smaller folios than would have fit.
    small_pages: Counter,
}

static COUNTERS: Counters = Counters {
    misplaced_pages: Counter::new(),
    refusals: Counter::new(),
    small_pages: Counter::new(),
};

fn show(counter: &Counter, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}", counter.0.load(Relaxed))
}

/// The folder `placement` in the driver's debugfs folder.
pub(crate) fn debugfs(dir: &Dir) -> impl PinInit<Scope<&'static Counters>> + '_ {
    dir.scope(&COUNTERS, c"placement", |counters, dir| {
        let counters: &'static Counters = counters;
        dir.read_callback_file(c"misplaced_pages", &counters.misplaced_pages, &show);
        dir.read_callback_file(c"refusals", &counters.refusals, &show);
        dir.read_callback_file(c"small_pages", &counters.small_pages, &show);
    })
}
