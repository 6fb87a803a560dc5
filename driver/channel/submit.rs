// SPDX-License-Identifier: GPL-2.0-only

//! Taking entries from the submission ring.
//!
//! The ring is in hostile hands: each entry is copied once and only the copy is used; the tail is loaded once; the work
//! of a call is bounded by the ring's size.

use super::{Channel, Ticket, SQ_HEAD, SQ_TAIL};
use crate::{logic::ring, uapi::Sqe};
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, Arc},
};

impl Channel {
    /// Whether the submission ring's indices may make no sense. Not sure while others take entries: [`Self::submit`] is,
    /// which waits for them.
    pub(crate) fn may_be_corrupt(&self) -> bool {
        let head = self.head.load(Relaxed);
        let queued = self.memory.load_acquire(SQ_TAIL);
        !queued.is_ok_and(|tail| ring::queued(head, tail, self.sq_entries).is_ok())
    }

    /// Takes up to `wanted` entries. Stops early when no completion slot is free. `EINVAL` when the ring's
    /// indices make no sense and nothing was taken, `EINTR` when the thread is killed while others take entries.
    /// `dispatch` gets each entry that does not complete at once.
    pub(crate) fn submit(
        self: &Arc<Self>,
        wanted: u32,
        dispatch: impl Fn(Ticket, &Sqe),
    ) -> Result<u32> {
        self.submit_until(wanted, dispatch, || false)
    }

    /// As [`Self::submit`], but ends early when `stop`, which is called after each entry, returns true.
    pub(super) fn submit_until(
        self: &Arc<Self>,
        wanted: u32,
        dispatch: impl Fn(Ticket, &Sqe),
        stop: impl Fn() -> bool,
    ) -> Result<u32> {
        let _turn = self.turn.take()?;
        let mut head = self.head.load(Relaxed);
        let tail = self.memory.load_acquire(SQ_TAIL)?;
        let queued = ring::queued(head, tail, self.sq_entries).map_err(|_| EINVAL)?;
        let mut taken = 0;
        while taken < wanted.min(queued) {
            let limit = wanted.min(queued) - taken;
            // Takes entries at the front that complete at once, and the first one that does not.
            let run = match self.run(head, limit) {
                Ok(run) => run,
                Err(error) if taken == 0 => return Err(error),
                Err(_) => break,
            };
            head = head.wrapping_add(run.count);
            self.head.store(head, Relaxed);
            taken += run.count;
            if let Some(entry) = run.next {
                head = head.wrapping_add(1);
                self.head.store(head, Relaxed);
                taken += 1;
                // Frees the place for the next entry before this entry's completion can be seen.
                self.memory.store_release(SQ_HEAD, head)?;
                dispatch(Ticket::new(self, &entry), &entry);
            } else if run.count == 0 {
                // No completion slot is free.
                break;
            }
            if kernel::current!().signal_pending() || stop() {
                break;
            }
        }
        Ok(taken)
    }
}
