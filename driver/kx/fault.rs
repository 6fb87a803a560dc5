// SPDX-License-Identifier: GPL-2.0-only

//! Points at which a fault can be injected, as attributes of the kernel's fault injection in debugfs.
//!
//! Would become `kernel::fault_inject`.
//!
//! Without `CONFIG_FAULT_INJECTION_DEBUG_FS`, or when built with `DMAPLANE_FAULTS=n`, a point never fires and nothing of
//! it is left in the module.

use kernel::{prelude::*, time::delay::fsleep, time::Delta};

/// A fault point.
pub(crate) struct Point {
    index: u32,
    /// Whether the fail-nth of the calling task counts it. Points that make nothing fail are left out of such sweeps.
    swept: bool,
}

impl Point {
    /// The point with an index in the table of points. `swept` says that it stands for a failure of the caller's.
    pub(crate) const fn new(index: u32, swept: bool) -> Self {
        Self { index, swept }
    }

    /// Whether it fires now. Any context.
    #[cfg(dmaplane_faults)]
    pub(crate) fn fires(&self) -> bool {
        // SAFETY: Any integer may be passed, in any context.
        unsafe { super::raw::dmaplane_fault_fires(self.index, self.swept) }
    }

    /// Never fires.
    #[cfg(not(dmaplane_faults))]
    #[inline(always)]
    pub(crate) fn fires(&self) -> bool {
        let _ = (self.index, self.swept);
        false
    }

    /// Fails with `error` when it fires.
    #[inline(always)]
    pub(crate) fn fail(&self, error: Error) -> Result {
        if self.fires() {
            Err(error)
        } else {
            Ok(())
        }
    }

    /// Sleeps for `limit_ms` when it fires.
    #[inline(always)]
    pub(crate) fn stall(&self, limit_ms: u32) {
        if self.fires() {
            fsleep(Delta::from_millis(limit_ms.into()));
        }
    }
}

/// The folder `faults` in the driver's debugfs folder, until drop.
///
/// # Invariants
///
/// The pointer came from `dmaplane_faults_begin()` and the folder is removed once, by drop. Error pointers are fine.
pub(crate) struct Folder {
    #[cfg(dmaplane_faults)]
    folder: *mut kernel::bindings::dentry,
}

// SAFETY: debugfs locks itself; the pointer is only handed back to it.
unsafe impl Send for Folder {}
// SAFETY: There is nothing to do with a shared reference.
unsafe impl Sync for Folder {}

impl Folder {
    /// Makes the folder, with an attribute for each name. The position of a name is its point's index. The driver's own
    /// folder exists already.
    #[cfg(dmaplane_faults)]
    pub(crate) fn new(names: &[&'static CStr]) -> Self {
        // SAFETY: Process context. Errors are passed on to debugfs, which knows them.
        let folder = unsafe { super::raw::dmaplane_faults_begin() };
        for (index, name) in (0u32..).zip(names) {
            // SAFETY: The folder is the one just made, the name is static and ends in a zero.
            unsafe { super::raw::dmaplane_fault_add(folder, index, name.as_char_ptr()) };
        }
        // INVARIANT: Made above.
        Self { folder }
    }

    /// Makes nothing.
    #[cfg(not(dmaplane_faults))]
    pub(crate) fn new(_names: &[&'static CStr]) -> Self {
        Self {}
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        #[cfg(dmaplane_faults)]
        // SAFETY: By the type invariant it is ours, and it is removed once.
        unsafe {
            super::raw::dmaplane_faults_end(self.folder);
        }
    }
}
