// SPDX-License-Identifier: GPL-2.0-only

//! The polling thread of a channel: takes entries as they come, without system calls.
//!
//! It refers to the context and to the channel, which owns it: the circle is cut by [`Channel::end`], which every name's end
//! calls, explicit or with the file. Endpoints end before, so that nothing that the thread waits for lasts.

use super::{Channel, CQ_HEAD, SQ_FLAGS, SQ_TAIL};
use crate::{
    context::Context,
    gauges::GAUGES,
    kx::thread::{Me, Thread},
    logic::ring,
    module_parameters, uapi,
    windows::WINDOWS,
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
/// Entries between two looks whether others want the processor. Whether to stop is asked after each.
const ROUND: u32 = 256;

/// What the user wants of the thread.
pub(crate) struct Polling {
    node: Option<i32>,
    idle: Delta,
}

impl Polling {
    /// What a channel's description says; `None` without a thread. `EINVAL` where it makes no sense.
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
    /// Starts the thread of a channel that was made for one. `EINVAL` for a node without processors, `EDQUOT` when there
    /// are too many threads.
    pub(crate) fn start_polling(
        self: &Arc<Self>,
        context: &Arc<Context>,
        polling: &Polling,
    ) -> Result {
        let most: u32 = module_parameters::max_pollers.value();
        let count = GAUGES.pollers.hold_below(most as usize).ok_or(EDQUOT)?;
        let (channel, context, idle) = (self.clone(), context.clone(), polling.idle);
        let thread = Thread::start(c"dmaplane-poll", polling.node, move |me| {
            let _count = count;
            channel.take_until_stopped(&context, idle, me);
        })?;
        *self.poller.lock() = Some(thread);
        Ok(())
    }

    /// Waits for the end of the thread, if there is one.
    pub(super) fn stop_polling(&self) {
        let thread = self.poller.lock().take();
        drop(thread);
    }

    /// Wakes the thread. `EINVAL` once after it found that the ring makes no sense: then it looks again. `ENOENT` after the
    /// channel's end.
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

    fn take_until_stopped(self: &Arc<Self>, context: &Context, idle: Delta, me: &Me) {
        let mut busy = Instant::<Monotonic>::now();
        while !me.should_stop() {
            let broken = match self.submit_until(context, ROUND, || me.should_stop()) {
                Ok(0) => false,
                Ok(_) => {
                    busy = Instant::now();
                    me.breathe();
                    continue;
                }
                Err(_) => true,
            };
            if broken {
                self.found_broken();
            } else if (busy.elapsed() - idle).is_negative() {
                me.breathe();
                continue;
            }
            self.doze(broken, me);
            busy = Instant::now();
        }
    }

    /// The ring makes no sense: whoever waits, or asks next, is told.
    fn found_broken(&self) {
        let waited_for = {
            let mut completions = self.completions.lock();
            completions.broken = true;
            completions.waiters > 0
        };
        self.tell(waited_for, 0);
    }

    /// Sleeps until there is something to take, it is woken or the channel ends.
    fn doze(&self, broken: bool, me: &Me) {
        WINDOWS.dozing.pass();
        let flags = if broken {
            uapi::SQ_NEED_WAKEUP | uapi::SQ_BROKEN
        } else {
            uapi::SQ_NEED_WAKEUP
        };
        // Inside the memory, by construction.
        let _ = self.memory.store_release(SQ_FLAGS, flags);
        // Either this side sees the entry, or the user sees the flag.
        smp_mb(Full);
        WINDOWS.dozed.pass();
        // Only this thread takes entries, so that it does not move.
        let head = *self.head.lock();
        me.rest(|| {
            let nudged = self.nudged.load(ordering::Acquire) != 0;
            nudged || (!broken && self.has_work(head))
        });
        // Before the next look at the ring, so that what a wake was for is seen.
        let _ = self.nudged.xchg(0, ordering::Full);
        let _ = self.memory.store_release(SQ_FLAGS, 0);
        WINDOWS.roused.pass();
    }

    /// Whether an entry could be taken now, or is told apart from one by a closer look. Never sleeps.
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
