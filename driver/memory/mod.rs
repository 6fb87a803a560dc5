// SPDX-License-Identifier: GPL-2.0-only

//! Memory: what it consists of, where it is, who uses it, and how it is revoked from them.

mod backing;
mod export;
mod import;
pub(crate) mod placement;
mod revocation;
mod watch;

pub(crate) use placement::Placement;
pub(crate) use revocation::{Cause, Follower, Guard, MemoryLifetime, MemoryUsers};

use crate::{
    base::{
        gauges::{Held, GAUGES},
        quota::{Charge, Kind, Quota},
        wait::Deadline,
    },
    kx::{
        bar::{IoRange, Tier},
        charged::GFP_CHARGED,
        mapping_space::{MappingSpace, Place},
        pages::{Pages, PAGE_BYTES},
        task::{is_killed, sleep_killable},
        vma::{self, Mapped, Paged, What},
    },
    observe::MemoryMark,
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

/// Pages of one buffer. Kept alive by the buffer, by user mappings, by regions and grants and, through them, by
/// operations under way; freed when the last of them lets go. May be revoked from all of them before that, see
/// [`MemoryLifetime::revoke`].
pub(crate) struct Memory {
    backing: Backing,
    lifetime: Arc<MemoryLifetime>,
    placement: Placed,
    /// Pages on each node, as they were when it was made; not set for memory that is part of other memory.
    nodes: SetOnce<KVec<u64>>,
    mappings: Atomic<usize>,
    mark: MemoryMark,
    imported: Option<Imported>,
    /// None for what is carved from memory that is charged already.
    _charge: Option<Charge>,
    _buffers: Held,
    _bytes: Held,
}

/// A range of a device's memory, as the memory that consists of it needs it.
pub(crate) trait DeviceRange: Follower {
    /// The device's number.
    fn device(&self) -> u64;
    /// Its node, -1 when it has none.
    fn node(&self) -> i32;
    /// Where the range begins in its tier's zone, in bytes.
    fn offset(&self) -> u64;
    /// Memory that consists of it is being freed.
    fn forget(&self, lifetime: &Arc<MemoryLifetime>);
}

/// How RDMA reaches memory.
pub(crate) fn rdma_path(direct: bool) -> u32 {
    if direct {
        uapi::RDMA_DIRECT
    } else {
        uapi::RDMA_STAGED
    }
}

/// Why RDMA does not reach it directly.
pub(crate) fn rdma_reason(direct: bool, tier: Tier) -> u32 {
    match (direct, tier) {
        (true, _) => uapi::RDMA_REASON_NONE,
        (false, Tier::Uncached) => uapi::RDMA_REASON_NO_PAGES,
        (false, _) => uapi::RDMA_REASON_TIER,
    }
}

/// What memory needs of the context that it belongs to.
pub(crate) struct MemoryOwner {
    /// What it is charged to.
    pub(crate) quota: Arc<Quota>,
    /// Who may have operations on it.
    pub(crate) users: Arc<dyn MemoryUsers>,
    /// Where its mappings are found.
    pub(crate) space: Arc<MappingSpace>,
}

impl Memory {
    /// Allocates whole pages for `bytes`; see [`Placement::allocate`] for the errors.
    pub(crate) fn new(bytes: u64, placement: Placement, owner: MemoryOwner) -> Result<Arc<Self>> {
        let count = placement.pages_for(bytes)?;
        let whole = count.checked_mul(PAGE_BYTES).ok_or(E2BIG)?;
        let charge = owner.quota.charge(Kind::Bytes, whole as u64)?;
        let (pages, placed) = placement.allocate(count)?;
        Self::over(pages, placed, &owner, Some(charge))
    }

    /// Memory over pages. Without a charge, they are part of memory that is already charged and counted.
    pub(crate) fn over(
        pages: Pages,
        placed: Placed,
        owner: &MemoryOwner,
        charge: Option<Charge>,
    ) -> Result<Arc<Self>> {
        let bytes = charge.as_ref().map_or(0, |_| pages.count() * PAGE_BYTES);
        let lifetime = MemoryLifetime::new(pages.count(), owner, false)?;
        Self::made_of(Backing::Pages(pages), lifetime, placed, charge, bytes, None)
    }

    /// Memory of a range of a device, with whose removal it is revoked. The caller keeps the device from being removed
    /// meanwhile.
    pub(crate) fn of_device<R: DeviceRange + 'static>(
        range: Arc<R>,
        io: IoRange,
        pages: Option<Pages>,
        owner: &MemoryOwner,
        charge: Charge,
    ) -> Result<Arc<Self>> {
        let bytes = io.count() * PAGE_BYTES;
        let lifetime = MemoryLifetime::new(io.count(), owner, false)?;
        // The device may reuse the range once this follower was notified.
        lifetime.follow(range.clone())?;
        let placed = Placed::of_device(range.node())?;
        let backing = Backing::Device { io, pages, range };
        Self::made_of(backing, lifetime, placed, Some(charge), bytes, None)
    }

    /// `bytes` are those that the gauge counts.
    fn made_of(
        backing: Backing,
        lifetime: Arc<MemoryLifetime>,
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
        // Allocated first, so that nothing fails afterwards: a device's memory is made under the device's lock, which
        // its drop takes.
        let place = UniqueArc::new_uninit(GFP_CHARGED)?;
        let memory = place.write(Self {
            backing,
            lifetime,
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
            // Cannot fail: nobody else has it yet.
            memory.nodes.populate(memory.by_node());
        }
        let (policy, node) = memory.placement().report();
        memory.mark.allocated(policy, node, || {
            memory.census().map_or(0, |(_, misplaced)| misplaced)
        });
        Ok(memory)
    }

    /// Pages of a device's memory that are zeroed under one guard: some milliseconds where each access goes to the device.
    const CLEAR_PAGES: usize = 64;

    /// Zeroes a device's memory that nobody else knows yet, a part at a time. Between two parts, the device may be
    /// removed (`ENODEV`), and the caller may be killed (`EINTR`).
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

    /// A key that identifies it for those who hold it, as long as they do.
    pub(crate) fn key(&self) -> usize {
        self.lifetime.key()
    }

    /// Maps it into a process, from byte `start` on.
    pub(crate) fn map(self: &Arc<Self>, vma: &VmaNew, start: u64) -> Result {
        match self.map_imported(vma, start) {
            Some(result) => result,
            None => vma::map_paged(vma, start, self.clone()),
        }
    }

    /// The struct pages, for RDMA. `EOPNOTSUPP` for memory that has none. To be used only under a guard.
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

    /// The placement that was asked for.
    pub(crate) fn placement(&self) -> &Placed {
        &self.placement
    }

    /// Live user mappings.
    pub(crate) fn mappings(&self) -> usize {
        self.mappings.load(Relaxed)
    }

    /// Pages on each node, and those that are elsewhere than wanted.
    pub(crate) fn census(self: &Arc<Self>) -> Result<(KVec<u64>, u64)> {
        // Pages that their exporter has taken back may be gone altogether.
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

    /// Pages on each node, for debugfs; empty without memory for the list.
    fn by_node(self: &Arc<Self>) -> KVec<u64> {
        // The exporter may take an import's pages back while it is being made. The guard keeps them until they were
        // counted.
        let guard = self.imported.as_ref().map(|_| self.enter());
        match &self.backing {
            _ if matches!(guard, Some(Err(_))) => KVec::new(),
            Backing::Pages(pages) | Backing::Lent { pages, .. } => self.placement.by_node(pages),
            Backing::Device { .. } => self.placement.by_node_of_device(self.count() as u64),
        }
    }

    /// Writes its kind, its state and where its pages are.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    /// Fills in the figures of the node that is asked for. A device's memory has no folios.
    pub(crate) fn folios(self: &Arc<Self>, query: &mut uapi::BufferFolios) {
        let guard = self.enter();
        let gone = guard.is_err() && self.imported.is_some();
        let pages = match &self.backing {
            Backing::Pages(pages) if !gone => Some(pages),
            _ => None,
        };
        self.placement.folios(pages, query);
    }

    /// `HELD_*` bits: who still reaches it after it was revoked. 0 before.
    pub(crate) fn held(&self) -> u32 {
        if self.standing().0 != uapi::MEMORY_REVOKED {
            return 0;
        }
        let exports = if self.lifetime.is_held() {
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

    /// Waits until nobody refers to the pages of revoked memory any more, for at most [`LET_GO_MS`] or until the caller
    /// is killed. A socket that sends from them lets go when the other side has received the data, and nobody reports
    /// that.
    pub(crate) fn wait_released(&self) {
        // The checks count towards the limit: there may be millions of pages to check.
        let end = Deadline::within_ms(LET_GO_MS);
        while end.left_ms().is_some() && self.held_pages() != 0 && !is_killed() {
            sleep_killable(RELEASE_POLL_MS);
        }
    }
}

/// Longest wait for references to pages of revoked memory, in milliseconds.
const LET_GO_MS: u32 = 1000;
/// Time between two checks for such references, in milliseconds.
const RELEASE_POLL_MS: u32 = 5;

impl Memory {
    /// Keeps a device from giving the range to anybody else: a provider may go on using it.
    pub(crate) fn never_reuse(&self) {
        if let Backing::Device { range, .. } = &self.backing {
            range.kept();
        }
    }

    /// Fills in what a query reports about the memory's kind.
    pub(crate) fn describe(&self, query: &mut uapi::MemoryQuery) {
        (_, query.node) = self.placement.report();
        match &self.backing {
            Backing::Pages(_) | Backing::Lent { .. } if self.imported.is_some() => {
                query.kind = uapi::MEMORY_KIND_IMPORT;
                query.rdma = rdma_path(!self.lacks_pages());
                if let Backing::Lent { io, .. } = &self.backing {
                    query.tier = io.tier() as u32;
                }
                if self.lacks_pages() {
                    query.reason = match &self.backing {
                        Backing::Lent { io, .. } => rdma_reason(false, io.tier()),
                        _ => uapi::RDMA_REASON_NO_PAGES,
                    };
                }
            }
            Backing::Pages(_) | Backing::Lent { .. } => {
                query.kind = uapi::MEMORY_KIND_HOST;
                query.rdma = uapi::RDMA_DIRECT;
            }
            Backing::Device { io, pages, range } => {
                query.kind = uapi::MEMORY_KIND_DEVICE;
                query.tier = io.tier() as u32;
                query.rdma = rdma_path(pages.is_some());
                query.reason = rdma_reason(pages.is_some(), io.tier());
                query.device = range.device();
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
            range.forget(&self.lifetime);
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
        self.lifetime.place()
    }
}
