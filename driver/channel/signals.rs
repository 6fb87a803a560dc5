// SPDX-License-Identifier: GPL-2.0-only

//! Signals of a channel's eventfd, one for several completions where the user wants that.

use crate::{
    kx::{
        charged::GFP_CHARGED,
        delayed_work::{DelayedTask, DelayedWork},
        eventfd::EventFd,
        timed_work::TimedWork,
    },
    uapi,
};
use kernel::{new_spinlock, prelude::*, sync::SpinLock, time::Delta};

/// Longest delay, in microseconds.
const MAX_DELAY_US: u32 = 10_000_000;

/// When a signal is due.
#[derive(Clone, Copy)]
struct Terms {
    /// As soon as this many completions are unsignalled.
    batch: u32,
    /// At the latest this long after the first of them.
    delay: Delta,
}

/// Completions since the last signal.
#[derive(Default)]
struct Count {
    unsignalled: u32,
    /// The timer runs for the first of them.
    armed: bool,
    /// The channel has ended: each completion is signalled at once.
    ended: bool,
}

/// The eventfd and its unsignalled completions. Lock: `count` (spinlock), taken alone.
#[pin_data]
struct Pending {
    eventfd: EventFd,
    terms: Terms,
    #[pin]
    count: SpinLock<Count>,
}

impl DelayedTask for Pin<KBox<Pending>> {
    fn run(&self, _work: &DelayedWork<Self>) {
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

/// The signals of one channel. When it ends, no completion stays unsignalled.
pub(super) struct Signals(Pin<KBox<TimedWork<Pin<KBox<Pending>>>>>);

impl Signals {
    /// The signals that the user asked for. `EINVAL` for settings that make no sense and for a descriptor that is no
    /// eventfd, `EBADF` for one that is not open.
    pub(super) fn new(want: &uapi::ChannelCreate) -> Result<Option<Self>> {
        let (batch, delay_us) = (want.event_batch.max(1), want.event_delay_us);
        // Completions that are not signalled at once need a time limit.
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
                    delay: Delta::from_micros(delay_us.into()),
                },
                count <- new_spinlock!(Count::default(), "Signals::count"),
            }? Error),
            GFP_CHARGED,
        )?;
        Ok(Some(Self(KBox::pin_init(
            TimedWork::new(pending),
            GFP_CHARGED,
        )?)))
    }

    /// Counts `posted` new completions, and signals when that is due. Never sleeps.
    pub(super) fn add(&self, posted: u32) {
        let pending = self.0.owner();
        if pending.terms.batch == 1 {
            // One signal for each, because an eventfd counts them.
            return (0..posted).for_each(|_| pending.eventfd.signal());
        }
        let due = {
            let mut count = pending.count.lock();
            count.unsignalled = count.unsignalled.saturating_add(posted);
            let due = count.ended || count.unsignalled >= pending.terms.batch;
            if due {
                // The next completion is the first again.
                (count.unsignalled, count.armed) = (0, false);
            } else if !count.armed {
                count.armed = true;
                self.0.start(pending.terms.delay);
            }
            due
        };
        if due {
            pending.eventfd.signal();
        }
    }

    /// Ends the channel's batches: signals what is unsignalled, and every later completion at once.
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
