// SPDX-License-Identifier: GPL-2.0-only

//! Mapping pages into a process, with the mapping keeping an object alive.

use super::{
    pages::{Pages, PAGE_BYTES},
    raw,
    shared::SharedMemory,
};
use core::ptr::NonNull;
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

impl Mappable for Pages {
    fn bytes(&self) -> usize {
        self.count() * PAGE_BYTES
    }

    fn page(&self, offset: usize) -> Result<NonNull<bindings::page>> {
        self.as_slice()
            .get(offset / PAGE_BYTES)
            .copied()
            .ok_or(EINVAL)
    }
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

/// Maps `what` from byte `start` on into the whole of `vma`, which then keeps `keeper` alive.
///
/// Only shared mappings are accepted, and execution is ruled out for good. `EINVAL` for a private mapping
/// or a range beyond the object's end.
pub(crate) fn map<K: Mapped>(
    vma: &VmaNew,
    what: &impl Mappable,
    start: u64,
    keeper: Arc<K>,
) -> Result {
    if vma.flags() & flags::SHARED == 0 || vma.flags() & flags::EXEC != 0 {
        return Err(EINVAL);
    }
    let start = usize::try_from(start).map_err(|_| EINVAL)?;
    let length = vma.end() - vma.start();
    let end = start.checked_add(length).ok_or(EINVAL)?;
    if start % PAGE_BYTES != 0 || end > what.bytes() {
        return Err(EINVAL);
    }
    let raw_vma = vma.as_ptr();
    // SAFETY: A new VMA is exclusively ours during mmap(2).
    unsafe { raw::dmaplane_vma_shared_only(raw_vma) };
    for offset in (0..length).step_by(PAGE_BYTES) {
        let page = what.page(start + offset)?;
        // SAFETY: The VMA is new and the address inside it; the page is alive and of order 0, and the page
        // tables take a reference of their own. On failure the caller unmaps what was inserted.
        to_result(unsafe {
            bindings::vm_insert_page(raw_vma, vma.start() + offset, page.as_ptr())
        })?;
    }
    keeper.mapped();
    // SAFETY: The VMA is still exclusively ours. The reference in its private data belongs to the
    // operations below, which give it back in `close`.
    unsafe {
        (*raw_vma).vm_ops = &Operations::<K>::TABLE;
        (*raw_vma).vm_private_data = Arc::into_raw(keeper).cast_mut().cast();
    }
    Ok(())
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
            let keeper =
                core::mem::ManuallyDrop::new(Arc::from_raw((*vma).vm_private_data.cast::<K>()));
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
