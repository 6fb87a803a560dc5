// SPDX-License-Identifier: GPL-2.0-only

//! A completion with waits that a time limit or a fatal signal ends.
//!
//! Extends `kernel::sync::Completion`.

use crate::kx::charged::GFP_CHARGED;
use kernel::{bindings, prelude::*, sync::Arc, time::msecs_to_jiffies, types::Opaque};

/// A completion. Once it is set, it stays set for all who wait or will wait.
///
/// # Invariants
///
/// The completion is initialised and does not move.
#[pin_data]
pub(crate) struct Completion {
    #[pin]
    completion: Opaque<bindings::completion>,
}

// SAFETY: Completions lock themselves.
unsafe impl Send for Completion {}
// SAFETY: Completions lock themselves.
unsafe impl Sync for Completion {}

impl Completion {
    /// A completion that is not set.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                completion <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                    // SAFETY: The slot is valid for writing, and pinned from here on.
                    unsafe { bindings::init_completion(slot) };
                }),
            }),
            GFP_CHARGED,
        )
    }

    /// Sets it. Never sleeps.
    pub(crate) fn set(&self) {
        // SAFETY: By the type invariant it is initialised.
        unsafe { bindings::complete_all(self.completion.get()) };
    }

    /// Waits until it is set. No signal ends the wait.
    pub(crate) fn wait(&self) {
        // SAFETY: By the type invariant it is initialised. Process context, which may sleep.
        unsafe { bindings::wait_for_completion(self.completion.get()) };
    }

    /// Waits until it is set, for `limit_ms` at most. No signal ends the wait.
    pub(crate) fn wait_for(&self, limit_ms: u32) {
        let _set = self.wait_timeout(limit_ms);
    }

    /// Waits until it is set, for `limit_ms` at most; false when it is not set then. No signal ends the wait.
    pub(crate) fn wait_timeout(&self, limit_ms: u32) -> bool {
        let jiffies = msecs_to_jiffies(limit_ms);
        // SAFETY: By the type invariant it is initialised. Process context, which may sleep.
        unsafe { bindings::wait_for_completion_timeout(self.completion.get(), jiffies) > 0 }
    }

    /// Waits until it is set; false when the thread is being killed.
    pub(crate) fn wait_killable(&self) -> bool {
        // SAFETY: By the type invariant it is initialised. Process context, which may sleep.
        unsafe { bindings::wait_for_completion_killable(self.completion.get()) == 0 }
    }

    /// Waits until it is set; false after `limit_ms` or when the thread is being killed.
    pub(crate) fn wait_killable_for(&self, limit_ms: u32) -> bool {
        let jiffies = msecs_to_jiffies(limit_ms);
        // SAFETY: By the type invariant it is initialised. Process context, which may sleep.
        let left = unsafe {
            bindings::wait_for_completion_killable_timeout(self.completion.get(), jiffies)
        };
        left > 0
    }
}
