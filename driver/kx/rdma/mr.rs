// SPDX-License-Identifier: GPL-2.0-only

//! Memory regions by fast registration.
//!
//! Would become part of `kernel::rdma`.
//!
//! A range of pages becomes a row of regions ("segments") of one size, because a device limits the pages of a region.
//! Each segment starts at address 0 under its own key: no kernel address is ever part of what the peer gets. Regions
//! are used for one registration and then freed, never recycled: a key has only 8 variable bits, and a peer must never
//! get an old key again.

use super::{client::Device, hooks::Hooks, pd::Pd, raw};
use crate::kx::charged::GFP_CHARGED;
use crate::kx::{
    pages::{Pages, PAGE_BYTES},
    task::is_killed,
};
use core::{num::NonZero, ptr, ptr::NonNull};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    new_mutex,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic, Relaxed},
        Arc, Mutex,
    },
};

/// What a registration allows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only the local side uses it.
    Local,
    /// The peer may reach it too.
    Remote {
        /// Whether it may read.
        read: bool,
        /// Whether it may write.
        write: bool,
    },
}

/// One region and the DMA mapping beneath it.
///
/// # Invariants
///
/// While `mr` is `Some`, it is alive and refers to the addresses of `table`, which is allocated and mapped on `device`.
struct Segment {
    mr: Option<NonNull<raw::ib_mr>>,
    table: KBox<bindings::sg_table>,
    device: Device,
}

// SAFETY: Regions and tables are not tied to a thread; only drop changes them.
unsafe impl Send for Segment {}

impl Segment {
    fn new(
        pd: &Pd,
        (pages, bytes): (&[NonNull<bindings::page>], usize),
        max_pages: u32,
        hooks: &Hooks,
    ) -> Result<Self> {
        let device = pd.device();
        let count = u32::try_from(pages.len()).map_err(|_| EINVAL)?;
        let mut table = KBox::new(bindings::sg_table::default(), GFP_CHARGED)?;
        // SAFETY: The table is ours and empty; the caller of `RegionSet::new()` keeps the pages alive, and the callee
        // only reads their array (its parameter lacks the `const`).
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                &mut *table,
                pages.as_ptr().cast_mut().cast(),
                count,
                0,
                bytes,
                MAX_SG_BYTES,
                raw::DMAPLANE_GFP_CHARGED,
            )
        })?;
        let mapped = hooks.dma_map.fail(ENOMEM).and_then(|()| {
            // SAFETY: The table was filled just above, and the device is alive by its invariant.
            to_result(unsafe { raw::dmaplane_ib_dma_map_sgtable(device.as_ptr(), &mut *table) })
        });
        if let Err(error) = mapped {
            // SAFETY: Allocated above, not mapped.
            unsafe { bindings::sg_free_table(&mut *table) };
            return Err(error);
        }
        match Self::region(pd, &mut table, bytes, max_pages, hooks) {
            Ok(mr) => Ok(Self {
                mr: Some(mr),
                table,
                device,
            }),
            Err(error) => {
                // SAFETY: Mapped and allocated above, each undone once.
                unsafe {
                    raw::dmaplane_ib_dma_unmap_sgtable(device.as_ptr(), &mut *table);
                    bindings::sg_free_table(&mut *table);
                }
                Err(error)
            }
        }
    }

    /// Allocates a region over a mapped table of so many bytes.
    fn region(
        pd: &Pd,
        table: &mut bindings::sg_table,
        bytes: usize,
        max_pages: u32,
        hooks: &Hooks,
    ) -> Result<NonNull<raw::ib_mr>> {
        // SAFETY: By its invariant the domain is alive.
        let mr = from_err_ptr(unsafe {
            raw::ib_alloc_mr(pd.as_ptr(), raw::ib_mr_type_IB_MR_TYPE_MEM_REG, max_pages)
        })?;
        let mr = NonNull::new(mr).ok_or(ENOMEM)?;
        let entries = i32::try_from(table.nents).unwrap_or(i32::MAX);
        // SAFETY: The region is ours and unused, the table is mapped on its device.
        let mapped = unsafe {
            raw::ib_map_mr_sg(
                mr.as_ptr(),
                table.sgl,
                entries,
                ptr::null_mut(),
                PAGE_BYTES as u32,
            )
        };
        // SAFETY: The region is ours. Its length was set by the mapping.
        let length = unsafe { (*mr.as_ptr()).length };
        let short = hooks.map_region.fires();
        if short || mapped != entries || length != bytes as u64 {
            // SAFETY: Allocated above, and given back once; no user data.
            unsafe { raw::ib_dereg_mr_user(mr.as_ptr(), ptr::null_mut()) };
            return Err(if mapped < 0 {
                Error::from_errno(mapped)
            } else {
                EIO
            });
        }
        // SAFETY: The region is ours and not registered yet. It begins at a page's start, so address 0 keeps the offset
        // in the page.
        unsafe { (*mr.as_ptr()).iova = 0 };
        Ok(mr)
    }

    /// The region and the key by which it is used.
    fn region_and_key(&self, access: Access) -> Result<(NonNull<raw::ib_mr>, u32)> {
        let mr = self.mr.ok_or(ESHUTDOWN)?;
        // SAFETY: By the type invariant the region is alive, and its keys are constant after allocation.
        let key = unsafe {
            match access {
                Access::Local => (*mr.as_ptr()).lkey,
                Access::Remote { .. } => (*mr.as_ptr()).rkey,
            }
        };
        Ok((mr, key))
    }
}

impl Segment {
    /// Frees the region and its mapping, once the provider is done with both. False if the provider refuses, which none
    /// may do to the kernel: it may go on using the addresses, so they stay mapped.
    fn end(&mut self) -> bool {
        let Some(mr) = self.mr.take() else {
            return true;
        };
        // SAFETY: By the type invariant the region is ours, and it is freed once, because it was taken just above. This
        // waits until the provider is done with it.
        let refused = unsafe { raw::ib_dereg_mr_user(mr.as_ptr(), ptr::null_mut()) };
        if refused != 0 {
            pr_err!("a provider refuses to deregister memory (error {refused}); it is leaked\n");
            return false;
        }
        // SAFETY: By the type invariant table and device are ours; the provider is done with the addresses.
        unsafe {
            raw::dmaplane_ib_dma_unmap_sgtable(self.device.as_ptr(), &mut *self.table);
            bindings::sg_free_table(&mut *self.table);
        }
        true
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let _given_back = self.end();
    }
}

/// Largest run of pages that one entry of a scatter list describes.
const MAX_SG_BYTES: u32 = 2 << 20;

/// Most pages that a segment gets, even if the device could take more: 64 MiB.
const MAX_SEGMENT_PAGES: u32 = 1 << 14;

/// Pages of each segment but the last, for `count` pages: a power of two, so that a peer finds the segment by shifting.
fn segment_pages(region_pages: u32, count: usize) -> Result<NonZero<usize>> {
    let limit = region_pages.min(MAX_SEGMENT_PAGES);
    let most = 1usize << limit.checked_ilog2().ok_or(EOPNOTSUPP)?;
    NonZero::new(most.min(count.next_power_of_two())).ok_or(EINVAL)
}

/// Segments over `count` pages; `region_pages` as for [`region_bytes`].
pub(crate) fn segments(region_pages: u32, count: usize) -> Result<usize> {
    Ok(count.div_ceil(segment_pages(region_pages, count)?.get()))
}

/// Estimate of the bytes that a provider takes for the regions over `count` pages. The numbers are rxe's, which keeps
/// 16 bytes for each page and charges nobody. `region_pages` is that of
/// [`Capabilities`](super::capabilities::Capabilities), of a device that may have gone meanwhile.
pub(crate) fn region_bytes(region_pages: u32, count: usize) -> Result<u64> {
    const REGION_BYTES: u64 = 1024;
    const PAGE_ENTRY_BYTES: u64 = 16;
    let per_segment = segment_pages(region_pages, count)?.get();
    let segments = segments(region_pages, count)? as u64;
    Ok(segments * (REGION_BYTES + per_segment as u64 * PAGE_ENTRY_BYTES))
}

/// The provider has not answered yet.
const REGISTERING: i32 = 0;
/// All of it is registered.
const REGISTERED: i32 = 1;

/// The row of regions over a range of pages. It does not keep the pages alive: its owner does.
///
/// # Invariants
///
/// `keys` holds one key for each segment that was made. Once `segments` is empty the provider no longer touches
/// the pages.
#[pin_data]
pub(crate) struct RegionSet {
    access: Access,
    segment_bytes: u64,
    keys: KVVec<u32>,
    /// Whether the provider refused to free a segment.
    stuck: Atomic<bool>,
    /// Whether it was revoked.
    ended: Atomic<bool>,
    /// [`REGISTERING`], [`REGISTERED`], or the negative errno with which the registration failed.
    registration: Atomic<i32>,
    #[pin]
    segments: Mutex<KVVec<Segment>>,
}

impl RegionSet {
    /// Makes regions over `bytes` from page `first` on: the last one ends with the last byte, and not with its page. They
    /// are unusable until a connection has registered them. The caller keeps the pages alive until [`Self::revoke`] or
    /// drop.
    pub(crate) fn new(
        pd: &Pd,
        pages: &Pages,
        first: usize,
        bytes: usize,
        access: Access,
        hooks: &Hooks,
    ) -> Result<Arc<Self>> {
        let count = bytes.div_ceil(PAGE_BYTES);
        let end = first.checked_add(count).ok_or(EINVAL)?;
        let range = pages.as_slice().get(first..end).ok_or(EINVAL)?;
        let per_segment = segment_pages(pd.device().capabilities().region_pages, count)?;
        let wanted = per_segment.get();
        let chunks = range.chunks(per_segment.get());
        let mut segments = KVVec::with_capacity(chunks.len(), GFP_CHARGED)?;
        let mut keys = KVVec::with_capacity(chunks.len(), GFP_CHARGED)?;
        let mut left = bytes;
        for chunk in chunks {
            if is_killed() {
                return Err(EINTR);
            }
            let bytes = left.min(chunk.len() * PAGE_BYTES);
            left -= bytes;
            let segment = Segment::new(pd, (chunk, bytes), wanted as u32, hooks)?;
            let (_, key) = segment.region_and_key(access)?;
            keys.push(key, GFP_CHARGED)?;
            segments.push(segment, GFP_CHARGED)?;
        }
        Arc::pin_init(
            pin_init!(Self {
                access,
                segment_bytes: (wanted * PAGE_BYTES) as u64,
                keys,
                stuck: Atomic::new(false),
                ended: Atomic::new(false),
                registration: Atomic::new(REGISTERING),
                segments <- new_mutex!(segments, "RegionSet::segments"),
            }),
            GFP_CHARGED,
        )
    }

    /// Bytes of every segment but the last, a power of two.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// The key of each segment, local or remote as the access says.
    pub(crate) fn keys(&self) -> &[u32] {
        &self.keys
    }

    /// Ends all access and waits until the provider is done with the pages. A second caller returns when the first is
    /// done, because the lock is held meanwhile.
    pub(crate) fn revoke(&self) {
        let mut segments = self.segments.lock();
        self.ended.store(true, Relaxed);
        for segment in segments.iter_mut() {
            if !segment.end() {
                self.stuck.store(true, Relaxed);
            }
        }
        segments.clear();
    }

    /// Records that the registration is over. Called once.
    pub(crate) fn set_registered(&self, result: Result) {
        let state = result.map_or_else(Error::to_errno, |()| REGISTERED);
        // A thread that sees it sees what the provider did before.
        self.registration.store(state, ordering::Release);
    }

    /// Result of the registration; `None` as long as the provider has it.
    pub(crate) fn registration_result(&self) -> Option<Result> {
        match self.registration.load(ordering::Acquire) {
            REGISTERING => None,
            REGISTERED => Some(Ok(())),
            error => Some(Err(Error::from_errno(error))),
        }
    }

    /// Whether its access was ended.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    /// Whether the provider may still use the pages after a revocation. Then they must never be reused.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Relaxed)
    }

    /// The work request that registers segment `index`; `ESHUTDOWN` after a revocation.
    ///
    /// The caller holds the set until the request has completed, and ensures that it is not revoked before: its
    /// segments hold the region.
    pub(super) fn registration(&self, index: usize) -> Result<raw::ib_reg_wr> {
        let segments = self.segments.lock();
        let segment = segments.get(index).ok_or(ESHUTDOWN)?;
        let access = match self.access {
            Access::Local => raw::ib_access_flags_IB_ACCESS_LOCAL_WRITE,
            Access::Remote { read, write } => {
                let allowed = |on: bool, flag| if on { flag } else { 0 };
                raw::ib_access_flags_IB_ACCESS_LOCAL_WRITE
                    | allowed(read, raw::ib_access_flags_IB_ACCESS_REMOTE_READ)
                    | allowed(write, raw::ib_access_flags_IB_ACCESS_REMOTE_WRITE)
            }
        };
        let (mr, key) = segment.region_and_key(self.access)?;
        let mut request = raw::ib_reg_wr {
            mr: mr.as_ptr(),
            key,
            access: access as i32,
            ..Default::default()
        };
        request.wr.opcode = raw::ib_wr_opcode_IB_WR_REG_MR;
        request.wr.send_flags = raw::ib_send_flags_IB_SEND_SIGNALED;
        Ok(request)
    }
}
