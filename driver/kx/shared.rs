// SPDX-License-Identifier: GPL-2.0-only

//! Kernel memory that user space maps, and that a hostile process changes at will.
//!
//! Extends `kernel::alloc`.

use super::{pages::PAGE_BYTES, raw};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
use kernel::{bindings, ffi::c_void, prelude::*};

/// Zeroed memory of whole pages, contiguous for the kernel, that user space may map.
///
/// All access is through atomics of machine words, because user space writes at the same time. Every word is read once,
/// and only the copy is used.
///
/// # Invariants
///
/// `base` is the start of a `vmalloc` area of `bytes` bytes, ours until drop. `bytes` is a multiple of the
/// page size.
pub(crate) struct SharedMemory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: The memory is not tied to a thread, and all access is atomic.
unsafe impl Send for SharedMemory {}
// SAFETY: The memory is not tied to a thread, and all access is atomic.
unsafe impl Sync for SharedMemory {}

/// A structure that consists of whole 64-bit words, so that it can be copied word by word.
///
/// # Safety
///
/// `repr(C)`, no padding, any bytes are valid, and size and alignment are multiples of 8.
pub(crate) unsafe trait Words: Copy + Default {}

// SAFETY: `repr(C)` of integers without padding, 64 bytes, aligned to 8 by its `u64` members.
unsafe impl Words for crate::uapi::Sqe {}
// SAFETY: `repr(C)` of integers without padding, 64 bytes, aligned to 8 by its `u64` members.
unsafe impl Words for crate::uapi::Cqe {}

impl SharedMemory {
    /// Allocates at least `bytes`, rounded up to pages and charged to the caller's memory cgroup.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let bytes = bytes.next_multiple_of(PAGE_BYTES);
        // SAFETY: Process context; a failure comes back as null.
        let base = unsafe { raw::dmaplane_vmalloc_shared(bytes) };
        // INVARIANT: A successful allocation is ours.
        Ok(Self {
            base: NonNull::new(base.cast()).ok_or(ENOMEM)?,
            bytes,
        })
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The 32-bit word at `offset`; `EFAULT` outside the memory.
    fn word(&self, offset: usize) -> Result<&AtomicU32> {
        if offset % 4 != 0 || offset.checked_add(4).is_none_or(|end| end > self.bytes) {
            return Err(EFAULT);
        }
        // SAFETY: In bounds and aligned, checked above; user space's accesses count as atomic too.
        Ok(unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(offset).cast()) })
    }

    /// Reads an index so that everything its writer wrote before is visible.
    pub(crate) fn load_acquire(&self, offset: usize) -> Result<u32> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Writes an index so that its reader sees everything written before.
    pub(crate) fn store_release(&self, offset: usize, value: u32) -> Result {
        self.word(offset)?.store(value, Ordering::Release);
        Ok(())
    }

    /// The words of a `T` at `offset`.
    fn words<T: Words>(&self, offset: usize) -> Result<impl Iterator<Item = &AtomicU64>> {
        let end = offset.checked_add(size_of::<T>());
        if offset % 8 != 0 || end.is_none_or(|end| end > self.bytes) {
            return Err(EFAULT);
        }
        let base = self.base;
        Ok((0..size_of::<T>() / 8).map(move |index| {
            // SAFETY: In bounds and aligned, checked above; user space's accesses count as atomic too.
            unsafe { AtomicU64::from_ptr(base.as_ptr().add(offset + 8 * index).cast()) }
        }))
    }

    /// Copies a structure out, each word once.
    pub(crate) fn read<T: Words>(&self, offset: usize) -> Result<T> {
        let mut copy = T::default();
        let to = core::ptr::from_mut(&mut copy).cast::<u64>();
        for (index, word) in self.words::<T>(offset)?.enumerate() {
            // SAFETY: `index` stays below the number of words of `T`, by `Words`'s contract aligned, and
            // any bytes are a valid `T`.
            unsafe { to.add(index).write(word.load(Ordering::Relaxed)) };
        }
        Ok(copy)
    }

    /// Copies a structure in, word by word. The caller publishes it with [`Self::store_release`].
    pub(crate) fn write<T: Words>(&self, offset: usize, value: &T) -> Result {
        let from = core::ptr::from_ref(value).cast::<u64>();
        for (index, word) in self.words::<T>(offset)?.enumerate() {
            // SAFETY: `index` stays below the number of words of `T`, by `Words`'s contract aligned. There is no
            // padding, so every byte is initialised.
            word.store(unsafe { from.add(index).read() }, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The page at a byte offset, for mapping.
    pub(super) fn page(&self, offset: usize) -> Result<NonNull<bindings::page>> {
        if offset >= self.bytes {
            return Err(EINVAL);
        }
        // SAFETY: In bounds of a `vmalloc` area, so a page is behind every address.
        let page =
            unsafe { bindings::vmalloc_to_page(self.base.as_ptr().add(offset).cast::<c_void>()) };
        NonNull::new(page).ok_or(EFAULT)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the area is ours. User mappings hold references to its pages, so the pages
        // outlive it.
        unsafe { raw::dmaplane_vfree(self.base.as_ptr().cast()) };
    }
}
