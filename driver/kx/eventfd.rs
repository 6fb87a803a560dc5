// SPDX-License-Identifier: GPL-2.0-only

//! A reference to an eventfd that user space waits on.
//!
//! Would become `kernel::eventfd`.

use core::ptr::NonNull;
use kernel::{bindings, error::from_err_ptr, prelude::*};

/// A counted reference to an eventfd's context.
///
/// # Invariants
///
/// The pointer came from `eventfd_ctx_fdget()` and its reference is ours until drop.
pub(crate) struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: The context is reference counted and locks itself; any thread may signal or drop it.
unsafe impl Send for EventFd {}
// SAFETY: The context is reference counted and locks itself; any thread may signal or drop it.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Takes a reference to the eventfd behind a file descriptor of the calling process. `EBADF` when there is none,
    /// `EINVAL` when it is another kind of file.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any integer may be passed; a failure comes back as an error pointer.
        let context = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: A successful get transfers one reference.
        Ok(Self(NonNull::new(context).ok_or(EBADF)?))
    }

    /// Adds one to the counter and wakes whoever waits. Never sleeps.
    pub(crate) fn signal(&self) {
        // SAFETY: By the type invariant the context is alive. The callee would warn within the wake-up of another
        // eventfd, but no code of the driver is called from one.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours, and it is given back once.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}
