// SPDX-License-Identifier: GPL-2.0-only

//! A memory BAR of a PCI device: claimed, divided into zones of one mapping type each, and released with the device.
//!
//! Extends `kernel::pci`.
//!
//! A range of physical memory has one mapping type at a time (x86 keeps track of it, and refuses or silently changes a
//! second one). Struct pages from p2pdma come with an uncached mapping. So the tiers are zones, not properties of single
//! ranges: the first zone is uncached and has struct pages, so that RDMA reaches it; the others have none.

use super::{
    fault::Point,
    pages::{PageOwner, Pages, PAGE_BYTES},
    raw,
};
use crate::kx::charged::GFP_CHARGED;
use core::ptr::NonNull;
use kernel::{bindings, device::Core, error::to_result, ffi::c_void, pci, prelude::*, sync::Arc};

/// How a range is mapped, for the kernel and for user space. The numbers are those of `shim.c` and of the user-space
/// interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Tier {
    /// Each access goes to the device separately.
    Uncached = 0,
    /// Writes are combined, reads are not.
    WriteCombined = 1,
    /// Like host memory. Only coherent where the device's memory is.
    Cached = 2,
}

/// All tiers, by number.
pub(crate) const TIERS: [Tier; 3] = [Tier::Uncached, Tier::WriteCombined, Tier::Cached];

/// A zone of a BAR.
///
/// # Invariants
///
/// `base` is a kernel mapping of `pages` pages of the physical memory at `start`, until the [`Bar`] is dropped.
struct Mapped {
    tier: Tier,
    base: NonNull<u8>,
    start: u64,
    pages: usize,
    /// Whether struct pages are behind the mapping, which is then p2pdma's own.
    has_pages: bool,
}

/// A claimed BAR.
///
/// # Invariants
///
/// `device` is the device that [`Bar::new`] was given, which is bound to the driver as long as this lives: its owner
/// drops it before the device's removal is over.
pub(crate) struct Bar {
    device: NonNull<bindings::pci_dev>,
    index: i32,
    zones: [Option<Mapped>; 3],
    /// The p2pdma provider through which other devices reach it, if they do.
    provider: Option<NonNull<c_void>>,
    /// A step of taking it over fails when this fires.
    probe: &'static Point,
}

// SAFETY: Devices and mappings are not tied to a thread.
unsafe impl Send for Bar {}
// SAFETY: Devices and mappings are not tied to a thread, and a shared reference changes nothing.
unsafe impl Sync for Bar {}

/// The unit in which p2pdma can make struct pages: a subsection of the memory map.
const SUBSECTION: u64 = 2 << 20;

impl Bar {
    /// Claims a memory BAR and maps it. `rdma_percent` of it get struct pages if the machine supports that; the other
    /// tiers share the rest equally. Its steps fail when `probe` fires. `EINVAL` when there is no memory in the BAR.
    ///
    /// # Contract
    ///
    /// The result is dropped before the device's removal is over, because the device's driver data owns it.
    pub(crate) fn new(
        device: &pci::Device<Core<'_>>,
        index: u32,
        rdma_percent: u32,
        probe: &'static Point,
    ) -> Result<Self> {
        let start = device.resource_start(index)?;
        let length = device.resource_len(index)?;
        let page = PAGE_BYTES as u64;
        if start == 0 || length < 4 * page || start % page != 0 {
            return Err(EINVAL);
        }
        // `pci::Device` is a transparent wrapper of this.
        let raw_device = NonNull::from(device).cast::<bindings::pci_dev>();
        let index = i32::try_from(index).map_err(|_| EINVAL)?;
        // SAFETY: The device is being probed.
        to_result(unsafe { raw::dmaplane_pci_claim(raw_device.as_ptr(), index) })?;
        let mut bar = Self {
            device: raw_device,
            index,
            zones: [None, None, None],
            provider: None,
            probe,
        };
        // SAFETY: The device is being probed.
        bar.provider =
            NonNull::new(unsafe { raw::dmaplane_p2p_provider(raw_device.as_ptr(), index) });
        let share = length / 100 * u64::from(rdma_percent.clamp(1, 98));
        let with_pages = share
            .next_multiple_of(SUBSECTION)
            .min(length / SUBSECTION * SUBSECTION);
        let uncached = match bar.add_pages(start, with_pages) {
            Some(zone) => zone,
            // Without struct pages it is still uncached, and RDMA does not reach it.
            None => bar.map(Tier::Uncached, start, share / page * page)?,
        };
        let rest = start + uncached.pages as u64 * page;
        bar.zones[0] = Some(uncached);
        let half = (start + length - rest) / 2 / page * page;
        if half >= page {
            // A tier that the machine does not support for this memory is left out.
            let cached = bar.map(Tier::Cached, rest + half, half).ok();
            let combined = match cached {
                Some(_) => half,
                None => (start + length - rest) / page * page,
            };
            bar.zones[1] = bar.map(Tier::WriteCombined, rest, combined).ok();
            bar.zones[2] = cached;
        }
        Ok(bar)
    }

    /// Has p2pdma make struct pages for the start of the BAR, and allocates all of them.
    fn add_pages(&self, start: u64, bytes: u64) -> Option<Mapped> {
        if bytes == 0 || start % SUBSECTION != 0 || self.probe.fires() {
            return None;
        }
        let size = usize::try_from(bytes).ok()?;
        // SAFETY: By the type invariant the device is bound, and the BAR is ours; the pages go with the binding.
        let base = unsafe {
            let device = self.device.as_ptr();
            to_result(bindings::pci_p2pdma_add_resource(
                device, self.index, size, 0,
            ))
            .ok()?;
            bindings::pci_alloc_p2pmem(device, size)
        };
        Some(Mapped {
            tier: Tier::Uncached,
            base: NonNull::new(base.cast())?,
            start,
            pages: size / PAGE_BYTES,
            has_pages: true,
        })
    }

    fn map(&self, tier: Tier, start: u64, bytes: u64) -> Result<Mapped> {
        let size = usize::try_from(bytes).map_err(|_| EINVAL)?;
        self.probe.fail(ENOMEM)?;
        // SAFETY: The range is a part of the BAR that is ours, and mapped once.
        let base = unsafe { raw::dmaplane_io_map(start, size, tier as u32) };
        let base = NonNull::new(base).ok_or(ENOMEM)?;
        // SAFETY: Mapped just above.
        if !unsafe { raw::dmaplane_io_has_tier(base.as_ptr(), tier as u32) } {
            // SAFETY: Mapped just above, and nobody has seen the mapping.
            unsafe { raw::dmaplane_io_unmap(base.as_ptr()) };
            return Err(EOPNOTSUPP);
        }
        Ok(Mapped {
            tier,
            base: base.cast(),
            start,
            pages: size / PAGE_BYTES,
            has_pages: false,
        })
    }

    /// The device's NUMA node, -1 when it has none.
    pub(crate) fn node(&self) -> i32 {
        // SAFETY: By the type invariant the device is alive.
        unsafe { raw::dmaplane_pci_node(self.device.as_ptr()) }
    }

    /// Domain, bus, device and function of the device.
    pub(crate) fn address(&self) -> u32 {
        // SAFETY: By the type invariant the device is alive.
        unsafe { raw::dmaplane_pci_address(self.device.as_ptr()) }
    }

    /// Pages of a tier's zone; 0 when there is none.
    pub(crate) fn pages(&self, tier: Tier) -> usize {
        self.zone(tier).map_or(0, |zone| zone.pages)
    }

    /// Whether a tier's zone has struct pages.
    pub(crate) fn has_pages(&self, tier: Tier) -> bool {
        self.zone(tier).is_some_and(|zone| zone.has_pages)
    }

    fn zone(&self, tier: Tier) -> Option<&Mapped> {
        self.zones.iter().flatten().find(|zone| zone.tier == tier)
    }

    /// A range of a tier's zone, with the contents that its previous owner left. `ERANGE` beyond the zone's end.
    ///
    /// # Contract
    ///
    /// The caller has the range for itself, and uses the result only as long as the `Bar` lives: afterwards it may only
    /// be dropped. The guards of `driver/memory/revocation.rs` exist to ensure that.
    pub(crate) fn range<O: PageOwner + Clone + 'static>(
        &self,
        tier: Tier,
        first: usize,
        count: usize,
        owner: O,
    ) -> Result<(IoRange, Option<Pages>)> {
        let zone = self.zone(tier).ok_or(EOPNOTSUPP)?;
        let end = first.checked_add(count).ok_or(ERANGE)?;
        if end > zone.pages || count == 0 {
            return Err(ERANGE);
        }
        // SAFETY: Inside the mapping, which was checked just above.
        let base = unsafe { zone.base.add(first * PAGE_BYTES) };
        let range = IoRange {
            base,
            pfn: (zone.start as usize) / PAGE_BYTES + first,
            count,
            tier,
            provider: self.provider,
        };
        if !zone.has_pages {
            return Ok((range, None));
        }
        let mut row = KVVec::with_capacity(count, GFP_CHARGED)?;
        for page in 0..count {
            // SAFETY: Inside the mapping of p2pdma, which has a struct page behind each page.
            let page = unsafe {
                let address = base.add(page * PAGE_BYTES).as_ptr();
                raw::dmaplane_virt_to_page(address.cast::<c_void>())
            };
            row.push(NonNull::new(page).ok_or(EFAULT)?, GFP_CHARGED)?;
        }
        let owner: KBox<dyn PageOwner> = KBox::new(owner, GFP_CHARGED)?;
        // SAFETY: They are alive as long as the `Bar`, and the caller promises not to use them after it.
        let pages = unsafe { Pages::foreign(row, owner) };
        Ok((range, Some(pages)))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        for zone in self.zones.iter().flatten() {
            let base = zone.base.as_ptr().cast();
            // SAFETY: By the type invariant each mapping is ours, and it is unmapped once. By the contract of `range()`
            // nobody uses any more what was made of them.
            unsafe {
                if zone.has_pages {
                    let bytes = zone.pages * PAGE_BYTES;
                    bindings::pci_free_p2pmem(self.device.as_ptr(), base, bytes);
                } else {
                    raw::dmaplane_io_unmap(base);
                }
            }
        }
        // SAFETY: Claimed in `new()`.
        unsafe { raw::dmaplane_pci_release(self.device.as_ptr(), self.index) };
    }
}

/// A range of a BAR, as the kernel and user space reach it.
///
/// # Invariants
///
/// `base` is a mapping of `count` pages, and `pfn` the first frame, as long as the [`Bar`] lives; so does the provider.
pub(crate) struct IoRange {
    base: NonNull<u8>,
    pfn: usize,
    count: usize,
    tier: Tier,
    provider: Option<NonNull<c_void>>,
}

// SAFETY: Mappings are not tied to a thread.
unsafe impl Send for IoRange {}
// SAFETY: Accesses race with the device and with user space anyway, which tears data and nothing else.
unsafe impl Sync for IoRange {}

impl IoRange {
    /// How many pages it has.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Its tier.
    pub(crate) fn tier(&self) -> Tier {
        self.tier
    }

    /// The first frame, for mappings.
    pub(super) fn pfn(&self) -> usize {
        self.pfn
    }

    /// Its physical address, which shows whether it overlaps another range.
    pub(crate) fn address(&self) -> u64 {
        (self.pfn * PAGE_BYTES) as u64
    }

    /// The p2pdma provider through which other devices reach it, if they do.
    pub(super) fn provider(&self) -> Option<NonNull<c_void>> {
        self.provider
    }

    /// A part of it, under the same contract. `None` beyond its end.
    pub(super) fn part(&self, first: usize, count: usize) -> Option<Self> {
        let base = self.at((first * PAGE_BYTES) as u64, count * PAGE_BYTES)?;
        // INVARIANT: Inside this range, which `at()` has checked.
        Some(Self {
            base,
            pfn: self.pfn + first,
            count,
            tier: self.tier,
            provider: self.provider,
        })
    }

    /// Where a byte range starts; `None` beyond its end.
    fn at(&self, offset: u64, bytes: usize) -> Option<NonNull<u8>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(bytes)?;
        // SAFETY: Inside the mapping, which is checked here.
        (end <= self.count * PAGE_BYTES).then(|| unsafe { self.base.add(start) })
    }

    /// Zeroes some of its pages. May sleep. Does nothing for a range beyond its end.
    pub(crate) fn clear(&self, first: usize, count: usize) {
        let bytes = count * PAGE_BYTES;
        if let Some(at) = self.at((first * PAGE_BYTES) as u64, bytes) {
            // SAFETY: Inside the mapping; the caller holds off the end of the `Bar`.
            unsafe { raw::dmaplane_io_zero(at.as_ptr().cast(), bytes) };
        }
    }

    /// Copies bytes in. Does nothing for a range beyond its end, which the caller's check rules out.
    pub(crate) fn write(&self, offset: u64, from: &[u8]) {
        if let Some(to) = self.at(offset, from.len()) {
            // SAFETY: Inside the mapping; the caller holds off the end of the `Bar`.
            unsafe {
                raw::dmaplane_io_copy(to.as_ptr().cast(), from.as_ptr().cast(), from.len());
            }
        }
    }

    /// Copies bytes out. Does nothing for a range beyond its end, which the caller's check rules out.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) {
        if let Some(from) = self.at(offset, to.len()) {
            // SAFETY: Inside the mapping; the caller holds off the end of the `Bar`.
            unsafe {
                raw::dmaplane_io_copy(to.as_mut_ptr().cast(), from.as_ptr().cast(), to.len())
            };
        }
    }
}

/// A shared object that keeps a range until its pages are not used any more.
impl<T: Send + Sync> PageOwner for Arc<T> {}
