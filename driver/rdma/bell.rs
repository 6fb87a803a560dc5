// SPDX-License-Identifier: GPL-2.0-only

//! An event count that acceptors wait on. It counts new requests and ends of handshakes.

use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::wait::Deadline,
    kx::waitq::{EndedBy, WaitQueue},
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
    },
};

/// An event count that threads can wait on. A waiter reads it before it checks its condition, so that it misses no
/// event between the check and the wait.
#[pin_data]
pub(super) struct Bell {
    rung: Atomic<u32>,
    #[pin]
    waiting: WaitQueue,
}

impl Bell {
    /// A count of 0.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                rung: Atomic::new(0),
                waiting <- WaitQueue::new(),
            }),
            GFP_CHARGED,
        )
    }

    /// Counts an event and wakes all waiters. Any context.
    pub(super) fn ring(&self) {
        let _ = self.rung.fetch_add(1, ordering::Release);
        self.waiting.wake_all();
    }

    /// Number of events so far.
    pub(super) fn count(&self) -> u32 {
        self.rung.load(ordering::Acquire)
    }

    /// Waits until the count is no longer `seen`. `ETIMEDOUT`, or `ERESTARTSYS` on a signal.
    pub(super) fn wait(&self, seen: u32, deadline: Deadline) -> Result {
        deadline.wait_on(&self.waiting, EndedBy::AnySignal, || {
            (self.count() != seen).then_some(())
        })
    }
}
