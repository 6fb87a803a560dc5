// SPDX-License-Identifier: GPL-2.0-only

//! A one-time signal that a thread waits for, ended early by a fatal signal only.

use super::pages::at_will;
use kernel::{bindings, prelude::*, sync::Arc, time::msecs_to_jiffies, types::Opaque};

/// Set once, seen by everybody who waits or will wait.
///
/// # Invariants
///
/// The completion is initialised and does not move.
#[pin_data]
pub(crate) struct Signal {
    #[pin]
    completion: Opaque<bindings::completion>,
}

// SAFETY: Completions lock themselves.
unsafe impl Send for Signal {}
// SAFETY: As above.
unsafe impl Sync for Signal {}

impl Signal {
    /// A signal that is not set.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                completion <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                    // SAFETY: The slot is valid for writing, and pinned from here on.
                    unsafe { bindings::init_completion(slot) };
                }),
            }),
            at_will(),
        )
    }

    /// Sets it. Never sleeps.
    pub(crate) fn set(&self) {
        // SAFETY: By the type invariant it is initialised.
        unsafe { bindings::complete_all(self.completion.get()) };
    }

    /// Waits until it is set, whatever happens.
    pub(crate) fn wait(&self) {
        // SAFETY: As above. Process context, which may sleep.
        unsafe { bindings::wait_for_completion(self.completion.get()) };
    }

    /// Waits until it is set, at most so long, whatever happens to the thread.
    pub(crate) fn wait_for(&self, limit_ms: u32) {
        let _set = self.wait_at_most(limit_ms);
    }

    /// Waits until it is set, at most so long, whatever happens to the thread; false when it is not.
    pub(crate) fn wait_at_most(&self, limit_ms: u32) -> bool {
        let jiffies = msecs_to_jiffies(limit_ms);
        // SAFETY: As above.
        unsafe { bindings::wait_for_completion_timeout(self.completion.get(), jiffies) > 0 }
    }

    /// Waits until it is set; false when the thread is being killed.
    pub(crate) fn wait_killable(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::wait_for_completion_killable(self.completion.get()) == 0 }
    }

    /// Waits until it is set; false after `limit_ms` or when the thread is being killed.
    pub(crate) fn wait_killable_for(&self, limit_ms: u32) -> bool {
        let jiffies = msecs_to_jiffies(limit_ms);
        // SAFETY: As above.
        let left = unsafe {
            bindings::wait_for_completion_killable_timeout(self.completion.get(), jiffies)
        };
        left > 0
    }
}
