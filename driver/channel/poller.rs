// SPDX-License-Identifier: GPL-2.0-only

//! The polling thread of a channel: takes entries as they come, without system calls.
//!
//! The thread refers to the context and to the channel, which owns it. [`Channel::end`] breaks this cycle: it is called
//! when the channel's handle is destroyed and when the file is closed. A closed file's endpoints end before, so that
//! nothing that the thread waits for lasts.

use super::{Channel, Ticket, CQ_HEAD, SQ_FLAGS, SQ_TAIL};
use crate::{
    base::{delay_points::DELAY_POINTS, gauges::GAUGES, quota::Charge},
    kx::thread::{Kthread, Thread},
    logic::ring,
    module_parameters,
    uapi::{self, Sqe},
};
use kernel::{
    prelude::*,
    sync::{
        atomic::ordering,
        barrier::{smp_mb, Full},
        Arc,
    },
    time::{Delta, Instant, Monotonic},
};

/// Longest time without an entry before the thread sleeps, in microseconds.
const MAX_IDLE_US: u32 = 1_000_000;
/// Entries between two checks whether others want the processor. Whether to stop is checked after each entry.
const ROUND: u32 = 256;

/// The user's settings for the polling thread.
pub(crate) struct Polling {
    node: Option<i32>,
    idle: Delta,
}

impl Polling {
    /// The settings in a channel's description; `None` without a thread. `EINVAL` when they make no sense.
    pub(crate) fn of(want: &uapi::ChannelCreate) -> Result<Option<Self>> {
        if want.flags & !uapi::CHANNEL_SQPOLL != 0 {
            return Err(EINVAL);
        }
        if want.flags & uapi::CHANNEL_SQPOLL == 0 {
            let unused = want.poll_node == 0 && want.poll_idle_us == 0;
            return if unused { Ok(None) } else { Err(EINVAL) };
        }
        if want.poll_node < -1 || want.poll_idle_us > MAX_IDLE_US {
            return Err(EINVAL);
        }
        Ok(Some(Self {
            node: (want.poll_node != -1).then_some(want.poll_node),
            idle: Delta::from_micros(want.poll_idle_us.into()),
        }))
    }
}

impl Channel {
    /// Starts the thread of a polled channel, which keeps `charge` until it ends. `EINVAL` for a node without
    /// processors that the caller may use, `EDQUOT` when there are too many threads on the machine.
    pub(crate) fn start_polling(
        self: &Arc<Self>,
        polling: &Polling,
        charge: Charge,
        dispatch: impl Fn(Ticket, &Sqe) + Send + 'static,
    ) -> Result {
        let most: u32 = module_parameters::max_pollers.value();
        let count = GAUGES.pollers.hold_below(most as usize).ok_or(EDQUOT)?;
        let (channel, idle) = (self.clone(), polling.idle);
        let thread = Thread::start(c"dmaplane-poll", polling.node, move |kthread| {
            let (_count, _charge) = (count, charge);
            channel.take_until_stopped(&dispatch, idle, kthread);
        })?;
        *self.poller.lock() = Some(thread);
        Ok(())
    }

    /// Stops the thread, if there is one, and waits for its end.
    pub(super) fn stop_polling(&self) {
        let thread = self.poller.lock().take();
        drop(thread);
    }

    /// Wakes the thread. `EINVAL` once after it found that the ring's indices make no sense; it then looks again.
    /// `ENOENT` after the channel's end.
    pub(crate) fn wake_poller(&self) -> Result {
        let poller = self.poller.lock();
        let thread = poller.as_ref().ok_or(ENOENT)?;
        let was_broken = core::mem::take(&mut self.completions.lock().broken);
        self.nudged.store(1, ordering::Release);
        thread.wake();
        if was_broken {
            Err(EINVAL)
        } else {
            Ok(())
        }
    }

    fn take_until_stopped(
        self: &Arc<Self>,
        dispatch: &impl Fn(Ticket, &Sqe),
        idle: Delta,
        kthread: &Kthread,
    ) {
        let mut busy = Instant::<Monotonic>::now();
        while !kthread.should_stop() {
            let broken = match self.submit_until(ROUND, dispatch, || kthread.should_stop()) {
                Ok(0) => false,
                Ok(_) => {
                    busy = Instant::now();
                    kthread.relax();
                    continue;
                }
                Err(_) => true,
            };
            if broken {
                self.found_broken();
            } else if (busy.elapsed() - idle).is_negative() {
                kthread.relax();
                continue;
            }
            self.doze(broken, kthread);
            busy = Instant::now();
        }
    }

    /// Marks the ring as broken, because its indices make no sense, and notifies the waiters. Later calls fail as well.
    fn found_broken(&self) {
        let waited_for = {
            let mut completions = self.completions.lock();
            completions.broken = true;
            completions.waiters > 0
        };
        self.notify(waited_for, 0);
    }

    /// Sleeps until there is something to take, it is woken or the channel ends.
    fn doze(&self, broken: bool, kthread: &Kthread) {
        DELAY_POINTS.idle.pass();
        let flags = if broken {
            uapi::SQ_NEED_WAKEUP | uapi::SQ_BROKEN
        } else {
            uapi::SQ_NEED_WAKEUP
        };
        // Cannot fail: the header is inside the memory.
        let _ = self.memory.store_release(SQ_FLAGS, flags);
        // Either this side sees the entry, or the user sees the flag.
        smp_mb(Full);
        DELAY_POINTS.before_sleep.pass();
        // Only this thread takes entries, so the head does not move.
        let head = self.head.load(ordering::Relaxed);
        kthread.sleep_unless(|| {
            let nudged = self.nudged.load(ordering::Acquire) != 0;
            nudged || (!broken && self.has_work(head))
        });
        // Cleared before the next look at the ring, which finds what the wake-up was for.
        let _ = self.nudged.xchg(0, ordering::Full);
        let _ = self.memory.store_release(SQ_FLAGS, 0);
        DELAY_POINTS.woken.pass();
    }

    /// Whether an entry could be taken now, or only a closer look can decide that. Never sleeps.
    fn has_work(&self, head: u32) -> bool {
        let (Ok(tail), Ok(user_head)) = (
            self.memory.load_acquire(SQ_TAIL),
            self.memory.load_acquire(CQ_HEAD),
        ) else {
            return true;
        };
        let free = {
            let completions = self.completions.lock();
            let slots = &completions.slots;
            let waiting = slots.waiting(user_head, self.cq_entries);
            waiting.map(|waiting| waiting + slots.reserved() < self.cq_entries)
        };
        match ring::queued(head, tail, self.sq_entries) {
            Ok(0) => false,
            Ok(_) => free.unwrap_or(true),
            Err(_) => true,
        }
    }
}
