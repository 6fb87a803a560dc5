// SPDX-License-Identifier: GPL-2.0-only

//! Allocation of memory that user space or a peer can make the driver need, and the memory cgroup that pays for it.
//!
//! Extends `kernel::alloc`.

use super::raw;
use core::mem::transmute;
use kernel::{alloc::Flags, bindings, prelude::*};

/// Charges the memory cgroup of the calling thread, or that of a [`Payer`]. A lack of memory ends in `ENOMEM` and never
/// invokes the OOM killer, because users choose the size.
pub(crate) const GFP_CHARGED: Flags = {
    // SAFETY: `Flags` is one integer with the kernel's own flag values. The assertion below checks that for a value
    // that the kernel crate has as well. The compiler compares the sizes.
    unsafe { transmute::<u32, Flags>(raw::DMAPLANE_GFP_CHARGED) }
};
const _: () = {
    // SAFETY: `Flags` is one integer, and any integer is a valid result. The compiler compares the sizes.
    let known = unsafe { transmute::<Flags, u32>(GFP_KERNEL) };
    assert!(known == bindings::GFP_KERNEL);
};

/// A memory cgroup that pays for allocations in its name by threads that are in no memory cgroup of their own.
///
/// # Invariants
///
/// Null, or a reference of ours until drop.
pub(crate) struct Payer(*mut bindings::mem_cgroup);

// SAFETY: Memory cgroups are counted and not tied to a thread.
unsafe impl Send for Payer {}
// SAFETY: Memory cgroups are counted and not tied to a thread, and nothing of this one changes.
unsafe impl Sync for Payer {}

impl Payer {
    /// The memory cgroup of the calling thread.
    pub(crate) fn of_caller() -> Self {
        // SAFETY: Reads the calling thread's own. INVARIANT: The reference is ours.
        Self(unsafe { raw::dmaplane_memcg_of_caller() })
    }

    /// Runs `work`, and pays for what it allocates.
    pub(crate) fn pays<R>(&self, work: impl FnOnce() -> R) -> R {
        // SAFETY: By the type invariant it is alive, and stays so until the choice is undone just below.
        let before = unsafe { raw::dmaplane_charge_to(self.0) };
        let result = work();
        // SAFETY: The caller that chose it keeps it alive until that choice is undone in turn.
        unsafe { raw::dmaplane_charge_to(before) };
        result
    }
}

impl Clone for Payer {
    fn clone(&self) -> Self {
        // SAFETY: By the type invariant it is alive, or null, which is ignored. INVARIANT: The new reference is the clone's.
        match unsafe { raw::dmaplane_memcg_get(self.0) } {
            true => Self(self.0),
            false => Self(core::ptr::null_mut()),
        }
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours, and null is ignored.
        unsafe { raw::dmaplane_memcg_put(self.0) };
    }
}
