// SPDX-License-Identifier: GPL-2.0-only

//! Mapping pages into a process. A mapping keeps an object alive.
//!
//! Extends `kernel::mm::virt`.

use super::{
    bar::IoRange,
    mapping_space::Place,
    pages::{Pages, PAGE_BYTES},
    raw,
    shared::SharedMemory,
};
use core::{mem::ManuallyDrop, ptr::NonNull};
use kernel::{
    bindings,
    error::to_result,
    mm::virt::{flags, VmaNew},
    prelude::*,
    sync::Arc,
};

/// An object that user mappings keep alive. The methods run under the process's mmap lock and must not
/// take locks that are held while user memory is touched.
pub(crate) trait Mapped: Send + Sync + 'static {
    /// One more mapping: at mmap(2), fork(2) and when a mapping is split.
    fn mapped(&self);
    /// One mapping fewer.
    fn unmapped(&self);
}

/// What can be mapped.
pub(crate) trait Mappable {
    /// Bytes of the object, whole pages.
    fn bytes(&self) -> usize;
    /// The page at a byte offset below [`Self::bytes`], alive as long as the object.
    #[doc(hidden)]
    fn page(&self, offset: usize) -> Result<NonNull<bindings::page>>;
}

/// The memory that is mapped.
pub(crate) enum What<'a> {
    /// Pages of host memory.
    Pages(&'a Pages),
    /// A range of a device's memory, by its frames.
    Io(&'a IoRange),
}

impl What<'_> {
    fn count(&self) -> usize {
        match self {
            What::Pages(pages) => pages.count(),
            What::Io(range) => range.count(),
        }
    }
}

/// Pages that may be revoked at any time, which empties their mappings.
pub(crate) trait Paged: Mapped {
    /// As long as this lives, the pages are not revoked.
    type Guard;
    /// Begins a short use; an error once the pages are being revoked. Runs under the process's mmap lock.
    fn enter(self: &Arc<Self>) -> Result<Self::Guard>;
    /// What is mapped.
    fn what(&self) -> What<'_>;
    /// The place where their mappings are found.
    fn place(&self) -> &Place;
}

impl Mappable for SharedMemory {
    fn bytes(&self) -> usize {
        SharedMemory::bytes(self)
    }

    fn page(&self, offset: usize) -> Result<NonNull<bindings::page>> {
        SharedMemory::page(self, offset)
    }
}

/// The byte offset that was passed to mmap(2).
pub(crate) fn offset(vma: &VmaNew) -> u64 {
    // SAFETY: The VMA is alive and its offset does not change during mmap(2).
    let pages = unsafe { (*vma.as_ptr()).vm_pgoff };
    (pages as u64) * PAGE_BYTES as u64
}

/// Accepts only shared mappings, and rules out execution for good. `EINVAL` for anything else. A program whose
/// personality makes every readable mapping executable (`READ_IMPLIES_EXEC`) did not ask for execution: its mapping is
/// made without it.
pub(super) fn accept(vma: &VmaNew) -> Result {
    // Not `SHARED`, which a shared mapping of a file that is open for reading only has lost.
    if vma.flags() & flags::MAYSHARE == 0 {
        return Err(EINVAL);
    }
    // SAFETY: Reads the calling task's own personality.
    if vma.flags() & flags::EXEC != 0 && !unsafe { raw::dmaplane_read_implies_exec() } {
        return Err(EINVAL);
    }
    // SAFETY: A new VMA is exclusively ours during mmap(2).
    unsafe { raw::dmaplane_vma_shared_only(vma.as_ptr()) };
    Ok(())
}

/// Checks a request to map an object of `bytes` bytes from byte `start` on. `EINVAL` for a range beyond the object's
/// end, and see [`accept`]. Returns the first byte.
fn prepare(vma: &VmaNew, bytes: usize, start: u64) -> Result<usize> {
    let start = usize::try_from(start).map_err(|_| EINVAL)?;
    let end = start.checked_add(vma.end() - vma.start()).ok_or(EINVAL)?;
    if start % PAGE_BYTES != 0 || end > bytes {
        return Err(EINVAL);
    }
    accept(vma)?;
    Ok(start)
}

/// Makes a new VMA keep `keeper`.
fn hand_over<K: Mapped>(
    vma: &VmaNew,
    table: &'static bindings::vm_operations_struct,
    keeper: Arc<K>,
) {
    keeper.mapped();
    // SAFETY: The VMA is still exclusively ours. The reference in its private data belongs to the operations below,
    // which drop it in `close`.
    unsafe {
        (*vma.as_ptr()).vm_ops = table;
        (*vma.as_ptr()).vm_private_data = Arc::into_raw(keeper).cast_mut().cast();
    }
}

/// Maps `what` from byte `start` on into the whole of `vma`, which then keeps `keeper` alive. For `EINVAL` see
/// [`prepare`].
pub(crate) fn map<K: Mapped>(
    vma: &VmaNew,
    what: &impl Mappable,
    start: u64,
    keeper: Arc<K>,
) -> Result {
    let start = prepare(vma, what.bytes(), start)?;
    // SAFETY: The VMA is still exclusively ours. The offset is below all places of a `MappingSpace`, so that emptying a
    // place does not affect it.
    unsafe { (*vma.as_ptr()).vm_pgoff = start / PAGE_BYTES };
    for offset in (0..vma.end() - vma.start()).step_by(PAGE_BYTES) {
        let page = what.page(start + offset)?;
        // SAFETY: The VMA is new and the address inside it; the page is alive and of order 0, and the page
        // tables take a reference of their own. On failure the caller unmaps what was inserted.
        to_result(unsafe {
            bindings::vm_insert_page(vma.as_ptr(), vma.start() + offset, page.as_ptr())
        })?;
    }
    hand_over(vma, &Operations::<K>::TABLE, keeper);
    Ok(())
}

/// Like [`map`], but the pages are inserted on first access, so that none is inserted unnoticed by a revocation:
/// mmap(2) runs before the mapping can be found, a fault after that. An access after the revocation gives SIGBUS.
pub(crate) fn map_paged<K: Paged>(vma: &VmaNew, start: u64, keeper: Arc<K>) -> Result {
    let _guard = keeper.enter()?;
    let what = keeper.what();
    let start = prepare(vma, what.count() * PAGE_BYTES, start)?;
    let first = keeper.place().first() + start / PAGE_BYTES;
    // SAFETY: A new VMA is exclusively ours during mmap(2).
    unsafe {
        match what {
            // Not by reference: a user who pinned a page could still write it after it was reused for another owner.
            What::Pages(pages) if pages.are_lent() => {
                raw::dmaplane_vma_of_frames(vma.as_ptr(), first)
            }
            What::Pages(_) => raw::dmaplane_vma_on_demand(vma.as_ptr(), first),
            What::Io(range) => {
                raw::dmaplane_vma_of_io(vma.as_ptr(), first, range.tier() as u32);
            }
        }
    };
    hand_over(vma, &Operations::<K>::PAGED, keeper);
    Ok(())
}

/// Most pages that one fault inserts: up to the next multiple of this number.
const FAULT_AROUND: usize = 64;

impl<K: Paged> Operations<K> {
    const PAGED: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        ..Self::TABLE
    };

    /// # Safety
    ///
    /// Called by the memory manager for a fault in a VMA whose private data [`map_paged`] set.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The VMA is alive during the fault, and its private data is from `Arc::into_raw()`, whose reference the
        // VMA keeps meanwhile.
        let (vma, address, pgoff, keeper) = unsafe {
            let place = &(*vmf).__bindgen_anon_1;
            let vma = place.vma;
            let keeper = ManuallyDrop::new(Arc::from_raw((*vma).vm_private_data.cast::<K>()));
            (vma, place.address, place.pgoff, keeper)
        };
        // Nothing is inserted once the pages are being revoked, and the revocation waits for this.
        let Ok(_guard) = keeper.enter() else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        let what = keeper.what();
        let index = pgoff.checked_sub(keeper.place().first());
        let left = index.and_then(|index| what.count().checked_sub(index));
        let (Some(index), Some(left @ 1..)) = (index, left) else {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        };
        let address = address & !(PAGE_BYTES - 1);
        // SAFETY: The VMA is alive, and its bounds do not change during the fault.
        let end = unsafe { (*vma).__bindgen_anon_1.__bindgen_anon_1.vm_end };
        let around = FAULT_AROUND - address / PAGE_BYTES % FAULT_AROUND;
        let wanted = around.min((end - address) / PAGE_BYTES).min(left);
        match what {
            What::Pages(pages) => insert_pages(vma, address, pages, index, wanted),
            // SAFETY: The range is inside the VMA, which takes frames; the guard proves that these are the keeper's.
            What::Io(range) => unsafe {
                raw::dmaplane_vma_insert_io(vma, address, range.pfn() + index, wanted)
            },
        }
    }
}

/// Inserts `wanted` pages from page `index` on, inside the VMA, for a fault.
fn insert_pages(
    vma: *mut bindings::vm_area_struct,
    address: usize,
    pages: &Pages,
    index: usize,
    wanted: usize,
) -> bindings::vm_fault_t {
    let Some(row) = pages.as_slice().get(index..index + wanted) else {
        return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
    };
    if pages.are_lent() {
        // SAFETY: The range is inside the VMA, which takes frames; the pages are alive, and the mapping keeps them so.
        return unsafe {
            let row = row.as_ptr().cast_mut().cast();
            raw::dmaplane_vma_insert_frames(vma, address, row, wanted)
        };
    }
    let mut left = wanted;
    // SAFETY: The range is inside the VMA, which takes inserted pages; the pages are alive, their array is only
    // read, and the page tables take references of their own.
    let result = to_result(unsafe {
        bindings::vm_insert_pages(vma, address, row.as_ptr().cast_mut().cast(), &mut left)
    });
    match result {
        Err(error) if error == ENOMEM && left == wanted => bindings::vm_fault_reason_VM_FAULT_OOM,
        // A concurrent MADV_DONTNEED has freed the page table, and the access is tried again. Nothing else for which
        // the callee returns this error can be the cause, as the range is inside the VMA.
        Err(error) if error == EFAULT => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
        Err(error) if error != EBUSY && error != ENOMEM && left == wanted => {
            bindings::vm_fault_reason_VM_FAULT_SIGBUS
        }
        // The page is there, or another thread was faster: the access is tried again.
        _ => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
    }
}

struct Operations<K: Mapped>(core::marker::PhantomData<K>);

impl<K: Mapped> Operations<K> {
    const TABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by the memory manager for a VMA whose private data [`map`] set, and that was just copied.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The private data is from `Arc::into_raw()`, and the VMA that was copied holds a
        // reference during this call.
        let keeper = unsafe {
            let keeper = ManuallyDrop::new(Arc::from_raw((*vma).vm_private_data.cast::<K>()));
            // The copy needs a reference of its own.
            core::mem::forget(Arc::clone(&keeper));
            keeper
        };
        keeper.mapped();
    }

    /// # Safety
    ///
    /// Called by the memory manager once for each VMA whose private data [`map`] or [`Self::open`] set.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The VMA's reference is given back here, once.
        let keeper = unsafe { Arc::from_raw((*vma).vm_private_data.cast::<K>()) };
        keeper.unmapped();
    }
}
