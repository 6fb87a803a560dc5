// SPDX-License-Identifier: GPL-2.0-only

//! Signals of a channel's eventfd, several completions for each where the user wants it so.

use crate::{
    kx::{
        eventfd::EventFd,
        tick::{Tick, Ticked},
    },
    uapi,
};
use kernel::{new_spinlock, prelude::*, sync::SpinLock};

/// Longest delay, in microseconds.
const MAX_DELAY_US: u32 = 10_000_000;

/// When a signal is due.
#[derive(Clone, Copy)]
struct Terms {
    /// As soon as so many completions were not signalled.
    batch: u32,
    /// So long after the first of them, in milliseconds.
    delay_ms: u32,
}

/// Completions since the last signal.
#[derive(Default)]
struct Count {
    unsignalled: u32,
    /// The clock runs.
    armed: bool,
    /// Nobody waits for more: each is signalled at once.
    ended: bool,
}

/// The eventfd with what is known of it. Lock: `count` (spinlock), taken alone.
#[pin_data]
struct Pending {
    eventfd: EventFd,
    terms: Terms,
    #[pin]
    count: SpinLock<Count>,
}

impl Ticked for Pin<KBox<Pending>> {
    fn tick(&self, _clock: &Tick<Self>) {
        let due = {
            let mut count = self.count.lock();
            count.armed = false;
            core::mem::take(&mut count.unsignalled) > 0
        };
        if due {
            self.eventfd.signal();
        }
    }
}

/// The signals of one channel. No completion stays unsignalled when it goes.
pub(super) struct Signals(Pin<KBox<Tick<Pin<KBox<Pending>>>>>);

impl Signals {
    /// What the user asked for. `EINVAL` where it makes no sense, `EBADF` for what is no eventfd.
    pub(super) fn new(want: &uapi::ChannelCreate) -> Result<Option<Self>> {
        let (batch, delay_us) = (want.event_batch.max(1), want.event_delay_us);
        // What is not signalled at once needs an end of the wait.
        if delay_us > MAX_DELAY_US || (batch > 1 && delay_us == 0) {
            return Err(EINVAL);
        }
        if want.eventfd == -1 {
            return if batch > 1 || delay_us > 0 {
                Err(EINVAL)
            } else {
                Ok(None)
            };
        }
        let pending = KBox::pin_init(
            pin_init!(Pending {
                eventfd: EventFd::from_fd(want.eventfd)?,
                terms: Terms {
                    batch,
                    delay_ms: delay_us.div_ceil(1000),
                },
                count <- new_spinlock!(Count::default(), "Signals::count"),
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(Some(Self(KBox::pin_init(Tick::new(pending), GFP_KERNEL)?)))
    }

    /// So many completions were posted. Never sleeps.
    pub(super) fn add(&self, posted: u32) {
        let pending = self.0.owner();
        if pending.terms.batch == 1 {
            // One for each, as an eventfd counts.
            return (0..posted).for_each(|_| pending.eventfd.signal());
        }
        let due = {
            let mut count = pending.count.lock();
            count.unsignalled = count.unsignalled.saturating_add(posted);
            let due = count.ended || count.unsignalled >= pending.terms.batch;
            if due {
                count.unsignalled = 0;
            } else if !count.armed {
                count.armed = true;
                self.0.run_within(pending.terms.delay_ms);
            }
            due
        };
        if due {
            pending.eventfd.signal();
        }
    }

    /// The channel ends: what was not signalled is, and what comes still is at once.
    pub(super) fn end(&self) {
        let pending = self.0.owner();
        let due = {
            let mut count = pending.count.lock();
            count.ended = true;
            core::mem::take(&mut count.unsignalled) > 0
        };
        if due {
            pending.eventfd.signal();
        }
    }
}
