// SPDX-License-Identifier: GPL-2.0-only

//! A mutex for holders that may take long: its waiters can be killed.
//!
//! Extends `kernel::sync::Mutex`, which has no killable wait.

use super::waitq::{EndedBy, WaitQueue};
use kernel::{
    prelude::*,
    sync::atomic::{ordering, Atomic},
};

/// Longest single sleep, in milliseconds.
const SLEEP_MS: u32 = 1_000_000;

/// Nobody has the turn.
const FREE: u32 = 0;
/// Somebody has it, and nobody waits.
const TAKEN: u32 = 1;
/// Somebody has it, and threads may be waiting.
const AWAITED: u32 = 2;

/// A turn, which one thread has at a time. Taken before the locks of the object that it is used with. lockdep does not
/// know it, and newcomers may overtake waiters.
///
/// # Invariants
///
/// `state` is [`FREE`] if and only if there is no [`Mine`] of it. Between a waiter's last look, which leaves
/// [`AWAITED`], and its wake-up, whoever gives the turn back finds [`AWAITED`].
#[pin_data]
pub(crate) struct Turn {
    state: Atomic<u32>,
    #[pin]
    queue: WaitQueue,
}

/// A turn that is held, until drop.
pub(crate) struct Mine<'a>(&'a Turn);

impl Turn {
    /// A turn that nobody has.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state: Atomic::new(FREE),
            queue <- WaitQueue::new(),
        })
    }

    /// Waits for it. `EINTR` when the thread is being killed.
    pub(crate) fn take(&self) -> Result<Mine<'_>> {
        let free = self.state.cmpxchg(FREE, TAKEN, ordering::Acquire);
        if free.is_ok() {
            return Ok(Mine(self));
        }
        // The queue has this thread before it looks: either it finds the turn free, or it leaves the word for whoever
        // gives it back. A turn that was got so may be given back with one wake-up too many.
        let mut look = || {
            let before = self.state.xchg(AWAITED, ordering::Full);
            (before == FREE).then(|| Mine(self))
        };
        loop {
            match self.queue.wait(EndedBy::Kill, SLEEP_MS, &mut look) {
                Ok(Some(mine)) => return Ok(mine),
                Ok(None) => {}
                Err(_) => return Err(EINTR),
            }
        }
    }
}

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        if self.0.state.xchg(FREE, ordering::Full) == AWAITED {
            self.0.queue.wake_all();
        }
    }
}
