// SPDX-License-Identifier: GPL-2.0-only

//! Memory and the buffers that name it.

mod backing;
mod buffer;
mod export;
mod import;
pub(crate) mod placement;
mod pool;
mod region;
mod revocation;
mod watch;

pub(crate) use buffer::{Buffer, Part};
pub(crate) use placement::Placement;
pub(crate) use pool::Pool;
pub(crate) use region::Region;
pub(crate) use revocation::{Cause, Follower, Guard, Tenure};

use crate::{
    context::quota::{Charge, Kind, Quota},
    device::{self, Range},
    gauges::{Held, GAUGES},
    kx::bar::IoRange,
    kx::{
        pages::{at_will, Pages, PAGE_BYTES},
        space::{Place, Space},
        task::{is_killed, sleep_killable},
        vma::{self, Mapped, Paged, What},
    },
    observe::MemoryMark,
    rdma::Domains,
    uapi,
};
use backing::Backing;
use import::Imported;
use kernel::{
    fmt,
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, SetOnce, UniqueArc,
    },
};
use placement::Placed;
use watch::Watches;

/// Pages of one buffer. Kept alive by the buffer, by user mappings, by regions and grants and, through them,
/// by operations under way; freed when the last of them lets go. May be taken away from all of them before, see
/// [`Tenure::revoke`].
pub(crate) struct Memory {
    backing: Backing,
    tenure: Arc<Tenure>,
    placement: Placed,
    /// Pages on each node, as they were when it was made; nothing for what is part of other memory.
    nodes: SetOnce<KVec<u64>>,
    mappings: Atomic<usize>,
    mark: MemoryMark,
    imported: Option<Imported>,
    /// None for what is carved from memory that is charged already.
    _charge: Option<Charge>,
    _buffers: Held,
    _bytes: Held,
}

/// What memory needs of the context that it belongs to.
pub(crate) struct Home {
    /// What it is charged to.
    pub(crate) quota: Arc<Quota>,
    /// Who may have something under way on it.
    pub(crate) domains: Arc<Domains>,
    /// Where its mappings are found.
    pub(crate) space: Arc<Space>,
}

impl Memory {
    /// Allocates whole pages for `bytes`; see [`Placement::allocate`] for the errors.
    pub(crate) fn new(bytes: u64, placement: Placement, home: Home) -> Result<Arc<Self>> {
        let count = placement.pages_for(bytes)?;
        let whole = count.checked_mul(PAGE_BYTES).ok_or(E2BIG)?;
        let charge = home.quota.charge(Kind::Bytes, whole as u64)?;
        let (pages, placed) = placement.allocate(count)?;
        Self::over(pages, placed, &home, Some(charge))
    }

    /// Memory over pages. Without a charge they are part of what is charged, and counted, already.
    fn over(
        pages: Pages,
        placed: Placed,
        home: &Home,
        charge: Option<Charge>,
    ) -> Result<Arc<Self>> {
        let bytes = charge.as_ref().map_or(0, |_| pages.count() * PAGE_BYTES);
        let tenure = Tenure::new(pages.count(), home, false)?;
        Self::made_of(Backing::Pages(pages), tenure, placed, charge, bytes, None)
    }

    /// Memory of a range of a device's, which is revoked with the device. The caller holds off the device's end.
    pub(crate) fn of_device(
        range: Arc<Range>,
        io: IoRange,
        pages: Option<Pages>,
        home: &Home,
        charge: Charge,
    ) -> Result<Arc<Self>> {
        let bytes = io.count() * PAGE_BYTES;
        let tenure = Tenure::new(io.count(), home, false)?;
        // Who has the range is free to reuse it from then on.
        tenure.follow(range.clone())?;
        let placed = Placed::of_device(range.device().node())?;
        let backing = Backing::Device { io, pages, range };
        Self::made_of(backing, tenure, placed, Some(charge), bytes, None)
    }

    /// `bytes` are those that the gauge counts.
    fn made_of(
        backing: Backing,
        tenure: Arc<Tenure>,
        placement: Placed,
        charge: Option<Charge>,
        bytes: usize,
        imported: Option<Imported>,
    ) -> Result<Arc<Self>> {
        let whole = match &imported {
            Some(imported) => imported.bytes(),
            None => (backing.count() * PAGE_BYTES) as u64,
        };
        let whole_allocation = charge.is_some();
        // Its place first: memory of a device may not go while it is being made, under the device's lock, which it takes
        // when it goes.
        let place = UniqueArc::new_uninit(at_will())?;
        let memory = place.write(Self {
            backing,
            tenure,
            placement,
            nodes: SetOnce::new(),
            mappings: Atomic::new(0),
            mark: MemoryMark::new(whole),
            imported,
            _charge: charge,
            _buffers: GAUGES.buffers.hold(1),
            _bytes: GAUGES.bytes.hold(bytes),
        });
        let memory: Arc<Self> = Arc::from(memory);
        if whole_allocation {
            // Nobody else has it yet.
            memory.nodes.populate(memory.by_node());
        }
        let (policy, node) = memory.placement().told();
        memory.mark.allocated(policy, node, || {
            memory.census().map_or(0, |(_, misplaced)| misplaced)
        });
        Ok(memory)
    }

    /// Pages of a device's memory that are zeroed under one guard: some milliseconds where each access goes to the device.
    const CLEAR_PAGES: usize = 64;

    /// Zeroes a device's memory that nobody else knows yet. A part at a time: the device may go between two of them
    /// (`ENODEV`), and the caller may be killed (`EINTR`).
    pub(crate) fn clear(self: &Arc<Self>) -> Result {
        let Backing::Device { io, .. } = &self.backing else {
            return Ok(());
        };
        for first in (0..io.count()).step_by(Self::CLEAR_PAGES) {
            let _guard = self.enter().map_err(|_| ENODEV)?;
            if is_killed() {
                return Err(EINTR);
            }
            io.clear(first, Self::CLEAR_PAGES.min(io.count() - first));
        }
        Ok(())
    }

    /// Its mark in the record.
    pub(crate) fn mark(&self) -> &MemoryMark {
        &self.mark
    }

    /// By what others tell it from other memory, as long as they hold it.
    pub(crate) fn key(&self) -> usize {
        self.tenure.key()
    }

    /// Maps it into a process, from a byte on.
    pub(crate) fn map(self: &Arc<Self>, vma: &VmaNew, start: u64) -> Result {
        match self.map_imported(vma, start) {
            Some(result) => result,
            None => vma::map_paged(vma, start, self.clone()),
        }
    }

    /// The struct pages, for RDMA. `EOPNOTSUPP` for memory that has none. Used under a guard only.
    pub(crate) fn pages(&self) -> Result<&Pages> {
        let pages = self.backing.pages().filter(|_| !self.lacks_pages());
        pages.ok_or(EOPNOTSUPP)
    }

    /// How many pages it has.
    pub(crate) fn count(&self) -> usize {
        self.backing.count()
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.mark.bytes()
    }

    /// Where it was asked to be.
    pub(crate) fn placement(&self) -> &Placed {
        &self.placement
    }

    /// Live user mappings.
    pub(crate) fn mappings(&self) -> usize {
        self.mappings.load(Relaxed)
    }

    /// Pages on each node, and those that are elsewhere than wanted.
    pub(crate) fn census(self: &Arc<Self>) -> Result<(KVec<u64>, u64)> {
        // Pages that others have taken back may be gone altogether.
        let guard = self.enter();
        if guard.is_err() && self.imported.is_some() {
            return self.placement.census_of_device(0);
        }
        match &self.backing {
            Backing::Pages(pages) | Backing::Lent { pages, .. } => self.placement.census(pages),
            // All of a device's memory is where the device is, if that is known.
            Backing::Device { .. } => self.placement.census_of_device(self.count() as u64),
        }
    }

    /// Pages on each node, for those who look on: without memory for it they are not told.
    fn by_node(self: &Arc<Self>) -> KVec<u64> {
        // As above: they may be gone before it is made. Held until they were looked at.
        let guard = self.imported.as_ref().map(|_| self.enter());
        match &self.backing {
            _ if matches!(guard, Some(Err(_))) => KVec::new(),
            Backing::Pages(pages) | Backing::Lent { pages, .. } => self.placement.by_node(pages),
            Backing::Device { .. } => self.placement.by_node_of_device(self.count() as u64),
        }
    }

    /// Writes where its pages are, and what became of it.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.backing {
            Backing::Pages(_) | Backing::Lent { .. } if self.imported.is_some() => "import",
            Backing::Pages(_) | Backing::Lent { .. } => "host",
            Backing::Device { .. } => "device",
        };
        let state = match self.standing().0 {
            uapi::MEMORY_LIVE => "live",
            uapi::MEMORY_REVOKING => "revoking",
            _ => "revoked",
        };
        write!(f, " kind={kind} state={state}")?;
        let mut before = " nodes=";
        let nodes = self.nodes.as_ref().into_iter().flatten();
        for (node, pages) in nodes.enumerate().filter(|(_, pages)| **pages > 0) {
            write!(f, "{before}{node}:{pages}")?;
            before = ",";
        }
        Ok(())
    }

    /// Fills in what is on the node that is asked for. A device's memory has no folios.
    pub(crate) fn folios(self: &Arc<Self>, query: &mut uapi::BufferFolios) {
        let guard = self.enter();
        let gone = guard.is_err() && self.imported.is_some();
        let pages = match &self.backing {
            Backing::Pages(pages) if !gone => Some(pages),
            _ => None,
        };
        self.placement.folios(pages, query);
    }

    /// `HELD_*` bits: who reaches it although it was revoked. 0 before.
    pub(crate) fn held(&self) -> u32 {
        if self.standing().0 != uapi::MEMORY_REVOKED {
            return 0;
        }
        let exports = if self.tenure.is_held() {
            uapi::HELD_DMABUF
        } else {
            0
        };
        exports | self.held_pages()
    }

    fn held_pages(&self) -> u32 {
        match &self.backing {
            Backing::Pages(pages) if pages.are_referenced() => uapi::HELD_PAGES,
            _ => 0,
        }
    }

    /// Waits until nobody refers to the pages of revoked memory any more, for [`LET_GO_MS`] at most and unless the caller
    /// is killed. What sends from them lets go when the other side has received it, and nobody reports that.
    pub(crate) fn wait_released(&self) {
        let mut left = LET_GO_MS;
        while left > 0 && self.held_pages() != 0 && !is_killed() {
            sleep_killable(RELEASE_POLL_MS);
            left = left.saturating_sub(RELEASE_POLL_MS);
        }
    }
}

/// Longest wait for whoever refers to pages of revoked memory, in milliseconds.
const LET_GO_MS: u32 = 1000;
/// Time between two looks for that, in milliseconds.
const RELEASE_POLL_MS: u32 = 5;

impl Memory {
    /// A provider may go on using it: where a device lends it, the device gives it to nobody else.
    pub(super) fn never_reuse(&self) {
        if let Backing::Device { range, .. } = &self.backing {
            range.never_give_back();
        }
    }

    /// Fills in what a query tells of the memory's kind.
    pub(crate) fn describe(&self, query: &mut uapi::MemoryQuery) {
        (_, query.node) = self.placement.told();
        match &self.backing {
            Backing::Pages(_) | Backing::Lent { .. } if self.imported.is_some() => {
                query.kind = uapi::MEMORY_KIND_IMPORT;
                query.rdma = device::rdma_path(!self.lacks_pages());
                if let Backing::Lent { io, .. } = &self.backing {
                    query.tier = io.tier() as u32;
                }
                if self.lacks_pages() {
                    query.reason = uapi::RDMA_REASON_NO_PAGES;
                }
            }
            Backing::Pages(_) | Backing::Lent { .. } => {
                query.kind = uapi::MEMORY_KIND_HOST;
                query.rdma = uapi::RDMA_DIRECT;
            }
            Backing::Device { io, pages, range } => {
                query.kind = uapi::MEMORY_KIND_DEVICE;
                query.tier = io.tier() as u32;
                query.rdma = device::rdma_path(pages.is_some());
                query.reason = device::rdma_reason(pages.is_some(), io.tier());
                query.device = range.device().serial();
                query.offset = range.offset();
            }
        }
    }
}

impl Guard {
    /// Copies bytes into the memory, at a checked range.
    pub(crate) fn write(&self, offset: u64, from: &[u8]) {
        self.memory().backing.write(offset, from);
    }

    /// Copies bytes out of it, likewise.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) {
        self.memory().backing.read(offset, to);
    }

    /// Copies bytes from other memory or this, likewise. `ENOMEM`. May sleep.
    pub(crate) fn copy_from(&self, offset: u64, from: &Self, at: u64, bytes: usize) -> Result {
        let (to, from) = (&self.memory().backing, &from.memory().backing);
        to.copy_from(offset, from, at, bytes)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Backing::Device { range, .. } = &self.backing {
            range.device().forget(&self.tenure);
        }
    }
}

impl Mapped for Memory {
    fn mapped(&self) {
        let _ = self.mappings.fetch_add(1, Relaxed);
    }

    fn unmapped(&self) {
        let _ = self.mappings.fetch_sub(1, Relaxed);
    }
}

impl Paged for Memory {
    type Guard = Guard;

    fn enter(self: &Arc<Self>) -> Result<Guard> {
        Memory::enter(self)
    }

    fn what(&self) -> What<'_> {
        self.backing.what()
    }

    fn place(&self) -> &Place {
        self.tenure.place()
    }
}
