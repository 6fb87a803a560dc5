// SPDX-License-Identifier: GPL-2.0-only

//! Delayed work that is rescheduled at will and ends with its owner.
//!
//! Extends `kernel::workqueue::DelayedWork`.

use super::raw;
use kernel::{bindings, container_of, prelude::*, time::msecs_to_jiffies, types::Opaque};

/// A task that runs in process context, where it may sleep; never twice at once.
pub(crate) trait DelayedTask: Send + Sync {
    /// Runs the task, at its time.
    fn run(&self, work: &DelayedWork<Self>)
    where
        Self: Sized;
}

/// A task that runs at chosen times until [`DelayedWork::stop`] or drop. The task must not drop the last reference: it
/// would wait for itself.
///
/// # Invariants
///
/// The work is initialised with `run::<T>` and does not move. It is disabled, and not running, before the owner is
/// dropped.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct DelayedWork<T: DelayedTask> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    owner: T,
}

// SAFETY: Work items lock themselves, and the owner may be used from any thread.
unsafe impl<T: DelayedTask> Send for DelayedWork<T> {}
// SAFETY: Work items lock themselves, and the owner may be used from any thread.
unsafe impl<T: DelayedTask> Sync for DelayedWork<T> {}

impl<T: DelayedTask> DelayedWork<T> {
    /// Work that is not scheduled yet.
    pub(crate) fn new(owner: T) -> impl PinInit<Self> {
        pin_init!(Self {
            work <- Opaque::ffi_init(|slot: *mut bindings::delayed_work| {
                // SAFETY: The slot is valid for writing, and pinned from here on.
                unsafe { raw::dmaplane_init_delayed_work(slot, Some(run::<T>)) };
            }),
            owner,
        })
    }

    /// The task that runs.
    pub(crate) fn owner(&self) -> &T {
        &self.owner
    }

    /// Schedules it to run in `limit_ms` milliseconds, in place of any earlier schedule. Never sleeps, and does nothing
    /// after [`Self::stop`].
    pub(crate) fn run_within(&self, limit_ms: u32) {
        // SAFETY: By the type invariant the work is initialised.
        unsafe { raw::dmaplane_run_within(self.work.get(), msecs_to_jiffies(limit_ms)) };
    }

    /// Stops it. When this returns, it does not run and never will again. Must not be called by the task itself.
    pub(crate) fn stop(&self) {
        // SAFETY: By the type invariant the work is initialised. Disabling is counted and never undone.
        unsafe { bindings::disable_delayed_work_sync(self.work.get()) };
    }
}

#[pinned_drop]
impl<T: DelayedTask> PinnedDrop for DelayedWork<T> {
    fn drop(self: Pin<&mut Self>) {
        self.stop();
    }
}

/// # Safety
///
/// Called by the workqueue with the work of a [`DelayedWork`] of the same `T`.
unsafe extern "C" fn run<T: DelayedTask>(work: *mut bindings::work_struct) {
    // SAFETY: The work is the first member of a delayed work, which is that of a `DelayedWork`. By its invariant it lives
    // until this has run.
    let delayed = unsafe {
        let delayed = container_of!(work, bindings::delayed_work, work);
        &*container_of!(Opaque::cast_from(delayed), DelayedWork<T>, work)
    };
    delayed.owner.run(delayed);
}
