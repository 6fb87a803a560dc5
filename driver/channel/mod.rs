// SPDX-License-Identifier: GPL-2.0-only

//! Channels: the rings that a process shares with the kernel.

mod check;
mod entries;
mod poller;
mod run;
mod signals;
mod submit;
mod ticket;

pub(crate) use entries::MAX_OP_BYTES;
pub(crate) use poller::Polling;
pub(crate) use ticket::{Ticket, TicketKey};

use crate::{
    context::{quota::Charge, Readiness},
    gauges::{Held, GAUGES},
    kx::{pages::PAGE_BYTES, shared::SharedMemory, thread::Thread, vma::Mapped},
    logic::ring::{self, Slots},
    uapi,
    wait::Deadline,
};
use core::mem::offset_of;
use kernel::{
    new_condvar, new_mutex, new_spinlock,
    prelude::*,
    sync::{atomic::Atomic, Arc, CondVar, Mutex, SpinLock},
};
use signals::Signals;

/// The kernel's side of the completion ring.
#[derive(Default)]
struct Completions {
    slots: Slots,
    /// Its name is gone: nobody waits any more.
    ended: bool,
    /// The polling thread found that the ring makes no sense.
    broken: bool,
    /// Threads that wait.
    waiters: u32,
    /// No thread waits for fewer completions than this. Only means something while one waits; too few wakes for nothing.
    least: u32,
}

/// A channel. Locks: `head` (mutex) while entries are taken, inside it objects' own locks; `completions` (spinlock)
/// to reserve and to post, innermost of all. `poller` (mutex) to start, wake and stop the thread; outside
/// `completions`.
#[pin_data]
pub(crate) struct Channel {
    memory: SharedMemory,
    sq_entries: u32,
    cq_entries: u32,
    cq_offset: usize,
    signals: Option<Signals>,
    readiness: Arc<Readiness>,
    /// Whether a thread takes the entries, and nobody else.
    polled: bool,
    #[pin]
    poller: Mutex<Option<Thread>>,
    /// 1 when the thread was woken and has not looked since.
    nudged: Atomic<u32>,
    /// Index of the next entry to take.
    #[pin]
    head: Mutex<u32>,
    #[pin]
    completions: SpinLock<Completions>,
    #[pin]
    posted: CondVar,
    _charge: Charge,
    _count: Held,
}

/// Offset of the submission ring: behind the page of the header.
const SQ_OFFSET: usize = PAGE_BYTES;

const SQ_HEAD: usize = offset_of!(uapi::RingHeader, sq_head);
const SQ_FLAGS: usize = offset_of!(uapi::RingHeader, sq_flags);
const SQ_TAIL: usize = offset_of!(uapi::RingHeader, sq_tail);
const CQ_HEAD: usize = offset_of!(uapi::RingHeader, cq_head);
const CQ_TAIL: usize = offset_of!(uapi::RingHeader, cq_tail);

impl Channel {
    /// Allocates both rings. `EINVAL` for sizes that are no powers of two or out of range, and for signals that make no
    /// sense. One that is `polled` waits for its thread: [`Self::start_polling`].
    pub(crate) fn new(
        want: &uapi::ChannelCreate,
        polled: bool,
        readiness: Arc<Readiness>,
        charge: Charge,
    ) -> Result<Arc<Self>> {
        let (sq_entries, cq_entries) = (want.sq_entries, want.cq_entries);
        let valid = ring::valid_entries(sq_entries) && ring::valid_entries(cq_entries);
        if !valid || cq_entries < sq_entries {
            return Err(EINVAL);
        }
        let signals = Signals::new(want)?;
        let cq_offset = SQ_OFFSET + sq_entries as usize * size_of::<uapi::Sqe>();
        let bytes = cq_offset + cq_entries as usize * size_of::<uapi::Cqe>();
        let memory = SharedMemory::new(bytes)?;
        Arc::pin_init(
            pin_init!(Self {
                memory,
                sq_entries,
                cq_entries,
                cq_offset,
                signals,
                readiness,
                polled,
                poller <- new_mutex!(None, "Channel::poller"),
                nudged: Atomic::new(0),
                head <- new_mutex!(0, "Channel::head"),
                completions <- new_spinlock!(Completions::default(), "Channel::completions"),
                posted <- new_condvar!("Channel::posted"),
                _charge: charge,
                _count: GAUGES.channels.hold(1),
            }),
            GFP_KERNEL,
        )
    }

    /// The memory to map.
    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// Offsets of the two rings in the memory.
    pub(crate) fn offsets(&self) -> (u32, u32) {
        (SQ_OFFSET as u32, self.cq_offset as u32)
    }

    /// Writes a completion into its reserved slot and wakes whoever waits.
    fn post(&self, completion: &uapi::Cqe) {
        let waited_for = {
            let mut completions = self.completions.lock();
            let slots = &mut completions.slots;
            let place = ring::place(slots.post(), self.cq_entries) as usize;
            let offset = self.cq_offset + place * size_of::<uapi::Cqe>();
            // Both offsets lie inside the memory, by construction.
            let _ = self.memory.write(offset, completion);
            let _ = self.memory.store_release(CQ_TAIL, slots.tail());
            self.is_waited_for(&completions)
        };
        self.tell(waited_for, 1);
    }

    /// Whether a thread waits that the completions in the ring are enough for. Those who wait for many are not woken for each.
    fn is_waited_for(&self, completions: &Completions) -> bool {
        completions.waiters > 0
            && self
                .waiting(completions)
                .map_or(true, |count| count >= completions.least)
    }

    /// Tells whoever waits of so many new completions. `waited_for` was read under the lock under which they were posted.
    fn tell(&self, waited_for: bool, count: u32) {
        if waited_for {
            self.posted.notify_all();
        }
        if let Some(signals) = &self.signals {
            signals.add(count);
        }
        self.readiness.tell();
    }

    /// Whether a thread takes the entries.
    pub(crate) fn is_polled(&self) -> bool {
        self.polled
    }

    /// Whether its polling thread found that the ring makes no sense, and nobody has asked it to look again.
    pub(crate) fn is_broken(&self) -> bool {
        self.completions.lock().broken
    }

    /// Completions that are in the ring now. `EINVAL` when the user's index makes no sense.
    pub(crate) fn available(&self) -> Result<u32> {
        self.waiting(&self.completions.lock())
    }

    fn waiting(&self, completions: &Completions) -> Result<u32> {
        let user_head = self.memory.load_acquire(CQ_HEAD)?;
        let waiting = completions.slots.waiting(user_head, self.cq_entries);
        waiting.map_err(|_| EINVAL)
    }

    /// Waits until `wanted` completions are in the ring and returns how many there are. A passed time limit is no
    /// error; a signal is, and `ENOENT` tells that the channel was destroyed meanwhile.
    pub(crate) fn wait(&self, wanted: u32, deadline: Deadline) -> Result<u32> {
        let wanted = wanted.min(self.cq_entries);
        let mut completions = self.completions.lock();
        let enough = |completions: &Completions| match self.waiting(completions) {
            Ok(count) if count < wanted && completions.ended => Some(Err(ENOENT)),
            Ok(count) if count < wanted && completions.broken => Some(Err(EINVAL)),
            Ok(count) if count < wanted => None,
            result => Some(result),
        };
        if let Some(result) = enough(&completions) {
            return result;
        }
        completions.least = match completions.waiters {
            0 => wanted,
            _ => wanted.min(completions.least),
        };
        completions.waiters += 1;
        let waited = deadline.wait(&mut completions, &self.posted, |completions| {
            enough(completions)
        });
        completions.waiters -= 1;
        match waited {
            Ok(result) => result,
            Err(error) if error == ETIMEDOUT => self.waiting(&completions),
            Err(error) => Err(error),
        }
    }

    /// Wakes whoever waits, and waits for the end of the polling thread: the channel's name is gone.
    pub(crate) fn end(&self) {
        self.completions.lock().ended = true;
        self.posted.notify_all();
        self.stop_polling();
        if let Some(signals) = &self.signals {
            signals.end();
        }
    }
}

impl Mapped for Channel {
    fn mapped(&self) {}
    fn unmapped(&self) {}
}
