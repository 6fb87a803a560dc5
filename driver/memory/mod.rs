// SPDX-License-Identifier: GPL-2.0-only

//! Memory and the buffers that name it.

mod backing;
mod export;
mod import;
pub(crate) mod placement;
mod region;
mod revocation;
mod watch;

pub(crate) use placement::Placement;
pub(crate) use region::Region;
pub(crate) use revocation::{Cause, Follower, Guard, Tenure};

use crate::{
    context::quota::{Charge, Kind, Quota},
    device::{self, Range},
    gauges::{Held, GAUGES},
    kx::bar::IoRange,
    kx::{
        pages::{Pages, PAGE_BYTES},
        space::{Place, Space},
        vec::retain,
        vma::{self, Mapped, Paged, What},
    },
    observe::MemoryMark,
    rdma::{Domains, Endpoint},
    uapi,
};
use backing::Backing;
use import::Imported;
use kernel::{
    fmt,
    mm::virt::VmaNew,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};
use watch::Watches;

/// Pages of one buffer. Kept alive by the buffer, by user mappings, by regions and grants and, through them,
/// by operations under way; freed when the last of them lets go. May be taken away from all of them before, see
/// [`Tenure::revoke`].
pub(crate) struct Memory {
    backing: Backing,
    tenure: Arc<Tenure>,
    placement: Placement,
    mappings: Atomic<usize>,
    mark: MemoryMark,
    imported: Option<Imported>,
    _charge: Charge,
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
        let pages = placement.allocate(count)?;
        let bytes = pages.count() * PAGE_BYTES;
        let tenure = Tenure::new(pages.count(), &home, false)?;
        let backing = Backing::Pages(pages);
        Self::made_of(backing, tenure, placement, charge, bytes, None)
    }

    /// Memory of a range of a device's, which is revoked with the device. The caller holds off the device's end.
    pub(crate) fn of_device(
        range: Arc<Range>,
        io: IoRange,
        pages: Option<Pages>,
        home: Home,
    ) -> Result<Arc<Self>> {
        let bytes = io.count() * PAGE_BYTES;
        let charge = home.quota.charge(Kind::Bytes, bytes as u64)?;
        let tenure = Tenure::new(io.count(), &home, false)?;
        // Who has the range is free to reuse it from then on.
        tenure.follow(range.clone())?;
        let placement = Placement::of_device(range.device().node());
        let backing = Backing::Device { io, pages, range };
        Self::made_of(backing, tenure, placement, charge, bytes, None)
    }

    fn made_of(
        backing: Backing,
        tenure: Arc<Tenure>,
        placement: Placement,
        charge: Charge,
        bytes: usize,
        imported: Option<Imported>,
    ) -> Result<Arc<Self>> {
        let memory = Self {
            backing,
            tenure,
            placement,
            mappings: Atomic::new(0),
            mark: MemoryMark::new(bytes as u64),
            imported,
            _charge: charge,
            _buffers: GAUGES.buffers.hold(1),
            _bytes: GAUGES.bytes.hold(bytes),
        };
        let memory = Arc::new(memory, GFP_KERNEL)?;
        let (policy, node) = memory.placement().told();
        memory.mark.allocated(policy, node, || {
            memory.census().map_or(0, |(_, misplaced)| misplaced)
        });
        Ok(memory)
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

    /// Whether it is a device's.
    fn is_on_device(&self) -> bool {
        matches!(self.backing, Backing::Device { .. })
    }

    /// How many pages it has.
    pub(crate) fn count(&self) -> usize {
        self.backing.count()
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        match self.imported_bytes() {
            Some(bytes) => bytes,
            None => (self.count() * PAGE_BYTES) as u64,
        }
    }

    /// Where it was asked to be.
    pub(crate) fn placement(&self) -> &Placement {
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
            Backing::Pages(pages) => self.placement.census(pages),
            // All of a device's memory is where the device is, if that is known.
            Backing::Device { .. } => self.placement.census_of_device(self.count() as u64),
        }
    }

    /// Fills in what is on the node that is asked for. A device's memory has no folios.
    pub(crate) fn folios(self: &Arc<Self>, query: &mut uapi::BufferFolios) {
        let guard = self.enter();
        if guard.is_err() && self.imported.is_some() {
            return;
        }
        if let Backing::Pages(pages) = &self.backing {
            self.placement.folios(pages, query);
        }
    }
}

impl Memory {
    /// Fills in what a query tells of the memory's kind.
    pub(crate) fn describe(&self, query: &mut uapi::MemoryQuery) {
        (_, query.node) = self.placement.told();
        match &self.backing {
            Backing::Pages(_) if self.imported.is_some() => {
                query.kind = uapi::MEMORY_KIND_IMPORT;
                query.rdma = device::rdma_path(!self.lacks_pages());
                if self.lacks_pages() {
                    query.reason = uapi::RDMA_REASON_NO_PAGES;
                }
            }
            Backing::Pages(_) => {
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

/// A handle's view of memory: the memory and where it is registered. Lock: `regions`, which is held while a
/// region is made, so that a buffer is registered once on each domain.
#[pin_data]
pub(crate) struct Buffer {
    memory: Arc<Memory>,
    /// Whether its name is gone. Written under the lock of the memory's watches.
    ended: Atomic<u32>,
    #[pin]
    regions: Mutex<KVec<Arc<Region>>>,
}

impl Buffer {
    /// Names memory.
    pub(crate) fn new(memory: Arc<Memory>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                memory,
                ended: Atomic::new(0),
                regions <- new_mutex!(KVec::new(), "Buffer::regions"),
            }),
            GFP_KERNEL,
        )
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Writes its line.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        let (policy, node) = memory.placement.told();
        let policy = match policy {
            uapi::PLACE_INTERLEAVE => "interleave",
            uapi::PLACE_NEAR_RDMA => "near-rdma",
            uapi::PLACE_NEAR_PCI => "near-pci",
            uapi::PLACE_PREFERRED => "preferred",
            uapi::PLACE_STRICT => "strict",
            _ => "any",
        };
        write!(
            f,
            "buffer={} bytes={}",
            memory.mark.serial(),
            memory.bytes()
        )?;
        write!(f, " policy={policy} node={node}")?;
        writeln!(f, " mappings={}", memory.mappings())
    }

    /// Writes a line for each of its regions; one line that says so while one is being made.
    pub(crate) fn show_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.regions.try_lock() {
            Some(regions) => regions.iter().try_for_each(|region| region.mark().show(f)),
            None => writeln!(f, "buffer={} state=registering", self.memory.mark.serial()),
        }
    }

    /// Domains on which it is registered.
    pub(crate) fn regions(&self) -> usize {
        self.regions.lock().len()
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Relaxed) != 0
    }

    fn set_ended(&self) {
        self.ended.store(1, Relaxed);
    }

    /// The memory's region on an endpoint's domain, made on first use and kept warm. May sleep. The guard is of this
    /// buffer's memory.
    pub(crate) fn region(&self, _guard: &Guard, endpoint: &Endpoint) -> Result<Arc<Region>> {
        let mut regions = self.regions.lock();
        if let Some(region) = regions
            .iter()
            .find(|region| region.is_on(endpoint.domain()))
        {
            return Ok(region.clone());
        }
        // Those of domains that are gone serve nobody.
        retain(&mut regions, |region| region.is_alive());
        let region = Region::local(&self.memory, endpoint)?;
        regions.push(region.clone(), GFP_KERNEL)?;
        Ok(region)
    }
}
