// SPDX-License-Identifier: GPL-2.0-only

//! dma-bufs: memory that drivers share with each other through file descriptors.
//!
//! Would become `kernel::dma_buf`.
//!
//! # Locks
//! Each dma-buf has a reservation lock (`dma_resv`), which its framework takes around most callbacks. It is taken
//! inside the mmap lock of a process, so user memory is never touched while it is held; memory may be allocated.

pub(crate) mod device;
pub(crate) mod export;
pub(crate) mod import;

mod callbacks;
mod outliving;
mod table;
mod view;

pub(crate) use view::Shown;

use super::{pages::PAGE_BYTES, raw};
use core::{mem::ManuallyDrop, ptr::NonNull};
use kernel::{
    error::from_err_ptr,
    fs::file::{flags, File, FileDescriptorReservation},
    prelude::*,
    sync::aref::ARef,
};

/// A counted reference to a dma-buf.
///
/// # Invariants
///
/// One reference to its file is ours until drop.
pub(crate) struct DmaBuf(NonNull<raw::dma_buf>);

// SAFETY: dma-bufs lock themselves, and references may be given back from any thread.
unsafe impl Send for DmaBuf {}
// SAFETY: dma-bufs lock themselves, and references may be given back from any thread.
unsafe impl Sync for DmaBuf {}

impl DmaBuf {
    /// The dma-buf behind a file descriptor of the calling process. `EBADF` when there is none, `EINVAL` when it is another
    /// kind of file.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any integer may be passed.
        Self::adopt(unsafe { raw::dma_buf_get(fd) })
    }

    /// Takes over a reference that a successful call of the framework gave.
    fn adopt(result: *mut raw::dma_buf) -> Result<Self> {
        // INVARIANT: The reference comes with the pointer.
        NonNull::new(from_err_ptr(result)?).map(Self).ok_or(ENOMEM)
    }

    /// Its size in bytes, rounded down to whole pages.
    pub(crate) fn bytes(&self) -> u64 {
        // SAFETY: By the type invariant the dma-buf is alive, and its size is constant.
        let bytes = unsafe { (*self.0.as_ptr()).size };
        (bytes - bytes % PAGE_BYTES) as u64
    }

    /// Takes its reservation lock, until drop. May sleep.
    fn reserve(&self) -> Reserved<'_> {
        // SAFETY: By the type invariant the dma-buf is alive. Without a context the lock cannot fail.
        unsafe { raw::dmaplane_resv_lock((*self.0.as_ptr()).resv) };
        Reserved(self)
    }

    /// Gives it a file descriptor in the calling process. `report` gets the number before anybody can use it, and may
    /// still refuse.
    pub(crate) fn publish(self, cloexec: bool, report: impl FnOnce(i32) -> Result) -> Result {
        let flags = if cloexec { flags::O_CLOEXEC } else { 0 };
        let reserved = FileDescriptorReservation::get_unused_fd_flags(flags)?;
        report(reserved.reserved_fd() as i32)?;
        let this = ManuallyDrop::new(self);
        // SAFETY: By the type invariant a reference to the file is ours, and it moves into the result. Files of dma-bufs
        // have no position.
        let file = unsafe {
            let file = NonNull::new((*this.0.as_ptr()).file).ok_or(EBADF)?;
            ARef::<File>::from_raw(file.cast())
        };
        reserved.fd_install(file);
        Ok(())
    }
}

impl Clone for DmaBuf {
    fn clone(&self) -> Self {
        // SAFETY: By the type invariant the file is alive.
        unsafe { raw::dmaplane_get_dma_buf(self.0.as_ptr()) };
        // INVARIANT: Taken above.
        Self(self.0)
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours, and it is given back once.
        unsafe { raw::dma_buf_put(self.0.as_ptr()) };
    }
}

/// The reservation lock of a dma-buf, while it is held.
struct Reserved<'a>(&'a DmaBuf);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        // SAFETY: Taken by `reserve()`, given back once.
        unsafe { raw::dmaplane_resv_unlock((*self.0 .0.as_ptr()).resv) };
    }
}
