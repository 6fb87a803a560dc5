// SPDX-License-Identifier: GPL-2.0-only

//! Work that its owner has run at chosen moments, and that ends with it.

use super::raw;
use kernel::{bindings, container_of, prelude::*, time::msecs_to_jiffies, types::Opaque};

/// What runs. In process context, where it may sleep; never twice at once.
pub(crate) trait Ticked: Send + Sync {
    /// The moment has come.
    fn tick(&self, clock: &Tick<Self>)
    where
        Self: Sized;
}

/// Something that runs at chosen moments until [`Tick::stop`] or drop. What runs must not drop the last reference: it would
/// wait for itself.
///
/// # Invariants
///
/// The work is initialised with `run::<T>` and does not move. It is disabled, and not running, before the owner is
/// dropped.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Tick<T: Ticked> {
    #[pin]
    work: Opaque<bindings::delayed_work>,
    owner: T,
}

// SAFETY: Work items lock themselves, and the owner may be used from any thread.
unsafe impl<T: Ticked> Send for Tick<T> {}
// SAFETY: As above.
unsafe impl<T: Ticked> Sync for Tick<T> {}

impl<T: Ticked> Tick<T> {
    /// Runs nothing yet.
    pub(crate) fn new(owner: T) -> impl PinInit<Self> {
        pin_init!(Self {
            work <- Opaque::ffi_init(|slot: *mut bindings::delayed_work| {
                // SAFETY: The slot is valid for writing, and pinned from here on.
                unsafe { raw::dmaplane_init_delayed_work(slot, Some(run::<T>)) };
            }),
            owner,
        })
    }

    /// What runs.
    pub(crate) fn owner(&self) -> &T {
        &self.owner
    }

    /// Has it run in so many milliseconds, instead of when it was to run before. Never sleeps, and does nothing
    /// after [`Self::stop`].
    pub(crate) fn run_within(&self, limit_ms: u32) {
        // SAFETY: By the type invariant the work is initialised.
        unsafe { raw::dmaplane_run_within(self.work.get(), msecs_to_jiffies(limit_ms)) };
    }

    /// Ends it. When this returns, it does not run and never will again. Not from the owner itself.
    pub(crate) fn stop(&self) {
        // SAFETY: By the type invariant the work is initialised. Disabling is counted and never undone.
        unsafe { bindings::disable_delayed_work_sync(self.work.get()) };
    }
}

#[pinned_drop]
impl<T: Ticked> PinnedDrop for Tick<T> {
    fn drop(self: Pin<&mut Self>) {
        self.stop();
    }
}

/// # Safety
///
/// Called by the workqueue with the work of a [`Tick`] of the same `T`.
unsafe extern "C" fn run<T: Ticked>(work: *mut bindings::work_struct) {
    // SAFETY: The work is the first member of a delayed work, which is that of a `Tick`. By its invariant it lives
    // until this has run.
    let clock = unsafe {
        let delayed = container_of!(work, bindings::delayed_work, work);
        &*container_of!(Opaque::cast_from(delayed), Tick<T>, work)
    };
    clock.owner.tick(clock);
}
