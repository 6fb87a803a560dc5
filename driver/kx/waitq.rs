// SPDX-License-Identifier: GPL-2.0-only

//! A wait queue whose waiters check a condition themselves, and choose which signals end their wait.
//!
//! Extends `kernel::sync::CondVar`, which has no wait that only a fatal signal ends.

use super::raw;
use kernel::{bindings, ffi::c_void, prelude::*, time::msecs_to_jiffies, types::Opaque};

/// Which signals end a wait.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// Any signal: for calls that have made nothing yet, and restart by themselves.
    AnySignal,
    /// Only one that kills the thread: for calls that would have to undo something, and might never finish where
    /// signals are frequent.
    Kill,
}

/// Threads that wait for something to change.
///
/// # Invariants
///
/// The head is initialised and does not move.
#[pin_data]
pub(crate) struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: Wait queues lock themselves.
unsafe impl Send for WaitQueue {}
// SAFETY: Wait queues lock themselves.
unsafe impl Sync for WaitQueue {}

/// A condition, and its result.
struct Condition<F, R> {
    ready: F,
    result: Option<R>,
}

impl WaitQueue {
    /// A queue without waiters.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            head <- Opaque::ffi_init(|slot: *mut bindings::wait_queue_head| {
                // SAFETY: The slot is valid for writing, and pinned from here on.
                unsafe { raw::dmaplane_init_waitqueue(slot) };
            }),
        })
    }

    /// Makes all waiters check again. They see what was changed before. Any context.
    pub(crate) fn wake_all(&self) {
        // SAFETY: By the type invariant the head is initialised.
        unsafe { raw::dmaplane_wake_up_all(self.head.get()) };
    }

    /// Sleeps until `ready` returns something, for `limit_ms` at most; `None` after that, `ERESTARTSYS` on a signal.
    /// `ready` is called once more before giving up, and must not sleep.
    pub(crate) fn wait<R>(
        &self,
        ended_by: EndedBy,
        limit_ms: u32,
        ready: impl FnMut() -> Option<R>,
    ) -> Result<Option<R>> {
        let mut condition = Condition {
            ready,
            result: None,
        };
        let left = self.sleep(&mut condition, ended_by, limit_ms);
        match condition.result {
            None if left < 0 => Err(ERESTARTSYS),
            result => Ok(result),
        }
    }

    fn sleep<F: FnMut() -> Option<R>, R>(
        &self,
        condition: &mut Condition<F, R>,
        ended_by: EndedBy,
        limit_ms: u32,
    ) -> isize {
        // SAFETY: By the type invariant the head is initialised. `look` gets what it expects, alive and unused by others until
        // the call returns. Process context, which may sleep.
        unsafe {
            raw::dmaplane_wait_for(
                self.head.get(),
                Some(look::<F, R>),
                core::ptr::from_mut(condition).cast(),
                ended_by == EndedBy::Kill,
                msecs_to_jiffies(limit_ms) as isize,
            )
        }
    }
}

/// # Safety
///
/// `condition` is a [`Condition<F, R>`] that nobody else uses.
unsafe extern "C" fn look<F: FnMut() -> Option<R>, R>(condition: *mut c_void) -> bool {
    // SAFETY: By this function's contract.
    let condition = unsafe { &mut *condition.cast::<Condition<F, R>>() };
    if condition.result.is_none() {
        condition.result = (condition.ready)();
    }
    condition.result.is_some()
}
