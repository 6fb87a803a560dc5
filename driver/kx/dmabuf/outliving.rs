// SPDX-License-Identifier: GPL-2.0-only

//! The parts of one of the driver's own dma-bufs that outlive its file. The file may be freed, and another one be in
//! its place, while its dentry still keeps the dma-buf (a descriptor opened with `O_PATH` does that). So a revocation
//! never uses the file, but these.
//!
//! Would become part of `kernel::dma_buf`.

use super::{raw, DmaBuf};
use core::ptr::NonNull;
use kernel::{bindings, prelude::*};

/// A reservation lock.
///
/// # Invariants
///
/// The lock is ours and initialised until drop. The code that makes a dma-buf with it drops it after the dma-buf's
/// release.
pub(super) struct Reservation(NonNull<raw::dma_resv>);

// SAFETY: It is a lock, which any thread may take.
unsafe impl Send for Reservation {}
// SAFETY: It is a lock, which any thread may take.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// Makes one. `ENOMEM`.
    pub(super) fn new() -> Result<Self> {
        // SAFETY: The result is ours.
        let made = unsafe { raw::dmaplane_resv_new() };
        // INVARIANT: Initialised by the callee.
        NonNull::new(made).map(Self).ok_or(ENOMEM)
    }

    /// The raw lock, for the framework, which may keep it until the release.
    pub(super) fn as_ptr(&self) -> *mut raw::dma_resv {
        self.0.as_ptr()
    }

    /// Takes it, until drop. May sleep.
    pub(super) fn lock(&self) -> Held<'_> {
        // SAFETY: By the type invariant it is initialised. Without a context it cannot fail.
        unsafe { raw::dmaplane_resv_lock(self.as_ptr()) };
        Held(self)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is ours, and nobody has it any more.
        unsafe { raw::dmaplane_resv_free(self.as_ptr()) };
    }
}

/// A reservation lock that is held.
pub(super) struct Held<'a>(&'a Reservation);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: Taken by `lock()`, given back once.
        unsafe { raw::dmaplane_resv_unlock(self.0.as_ptr()) };
    }
}

/// The inode through which the user mappings of a dma-buf are found.
///
/// # Invariants
///
/// A reference to the inode is ours until drop, and its address space has the mappings of one dma-buf alone.
pub(super) struct Mappings(NonNull<bindings::inode>);

// SAFETY: Inodes lock themselves.
unsafe impl Send for Mappings {}
// SAFETY: Inodes lock themselves.
unsafe impl Sync for Mappings {}

impl Mappings {
    /// The mappings of a dma-buf.
    pub(super) fn of(dmabuf: &DmaBuf) -> Result<Self> {
        // SAFETY: The dma-buf is alive, and its file too, since a reference to it is the caller's.
        let inode = unsafe { raw::dmaplane_dma_buf_inode(dmabuf.0.as_ptr()) };
        // INVARIANT: The callee took a reference. Each dma-buf has an inode of its own.
        NonNull::new(inode).map(Self).ok_or(EINVAL)
    }

    /// Takes the pages out of all of them.
    pub(super) fn empty(&self) {
        // SAFETY: By the type invariant the inode is alive.
        unsafe { raw::dmaplane_space_zap(self.0.as_ptr(), 0, 0) };
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours.
        unsafe { raw::dmaplane_space_put(self.0.as_ptr()) };
    }
}
