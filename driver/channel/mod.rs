// SPDX-License-Identifier: GPL-2.0-only

//! Channels: the rings that a process shares with the kernel.

pub(crate) mod check;
mod poller;
mod run;
mod signals;
mod submit;
mod ticket;

pub(crate) use poller::Polling;
pub(crate) use ticket::{Ticket, TicketKey};

use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::{
        gauges::{Held, GAUGES},
        quota::Charge,
        readiness::Readiness,
        wait::Deadline,
    },
    kx::{pages::PAGE_BYTES, shared::SharedMemory, thread::Thread, turn::Turn, vma::Mapped},
    logic::ring::{self, Slots},
    uapi,
};
use core::mem::offset_of;
use kernel::{
    new_condvar, new_mutex, new_spinlock,
    prelude::*,
    sync::{atomic::Atomic, Arc, CondVar, Mutex, SpinLock},
};
use signals::Signals;

/// Largest transfer of one operation, in bytes.
pub(crate) const MAX_OP_BYTES: u32 = 4 << 20;

/// The kernel's side of the completion ring.
#[derive(Default)]
struct Completions {
    slots: Slots,
    /// The channel's handle is gone: waits end.
    ended: bool,
    /// The polling thread found that the ring's indices make no sense.
    broken: bool,
    /// Threads that wait.
    waiters: u32,
    /// No thread waits for fewer completions than this. Valid only while a thread waits; too low a value causes
    /// spurious wake-ups.
    least: u32,
}

/// A channel. Locks: `turn` while entries are taken, outside the objects' own locks; `completions` (spinlock) to
/// reserve and to post, the innermost lock of all; `poller` (mutex) to start, wake and stop the thread, outside
/// `completions`.
#[pin_data]
pub(crate) struct Channel {
    memory: SharedMemory,
    sq_entries: u32,
    cq_entries: u32,
    cq_offset: usize,
    signals: Option<Signals>,
    readiness: Arc<Readiness>,
    /// Whether the polling thread, and nobody else, takes the entries.
    polled: bool,
    #[pin]
    poller: Mutex<Option<Thread>>,
    /// 1 when the thread was woken and has not looked at the ring since.
    nudged: Atomic<u32>,
    /// Held by the thread that takes entries.
    #[pin]
    turn: Turn,
    /// Index of the next entry to take. Written only with `turn` held.
    head: Atomic<u32>,
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
    /// Allocates both rings. `EINVAL` for sizes that are not powers of two or are out of range, and for invalid signal
    /// settings. A `polled` channel takes no entries before [`Self::start_polling`].
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
                turn <- Turn::new(),
                head: Atomic::new(0),
                completions <- new_spinlock!(Completions::default(), "Channel::completions"),
                posted <- new_condvar!("Channel::posted"),
                _charge: charge,
                _count: GAUGES.channels.hold(1),
            }),
            GFP_CHARGED,
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

    /// Writes a completion into its reserved slot and wakes the waiters.
    fn post(&self, completion: &uapi::Cqe) {
        let waited_for = {
            let mut completions = self.completions.lock();
            let slots = &mut completions.slots;
            let place = ring::place(slots.post(), self.cq_entries) as usize;
            let offset = self.cq_offset + place * size_of::<uapi::Cqe>();
            // Cannot fail: the memory was allocated for the header and all `cq_entries` places.
            let _ = self.memory.write(offset, completion);
            let _ = self.memory.store_release(CQ_TAIL, slots.tail());
            self.is_waited_for(&completions)
        };
        self.notify(waited_for, 1);
    }

    /// Whether the completions in the ring are enough for a waiting thread. A thread that waits for many is not woken
    /// for each.
    fn is_waited_for(&self, completions: &Completions) -> bool {
        completions.waiters > 0
            && self
                .waiting(completions)
                .map_or(true, |count| count >= completions.least)
    }

    /// Notifies waiters of `count` new completions. `waited_for` was read under the lock under which they were posted.
    fn notify(&self, waited_for: bool, count: u32) {
        if waited_for {
            self.posted.notify_all();
        }
        if let Some(signals) = &self.signals {
            signals.add(count);
        }
        self.readiness.notify();
    }

    /// Whether a polling thread takes the entries.
    pub(crate) fn is_polled(&self) -> bool {
        self.polled
    }

    /// Whether its polling thread found that the ring's indices make no sense, and nobody has woken it since.
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

    /// Waits until `wanted` completions are in the ring, for `timeout_ns` at most, and returns how many there are.
    /// Running out of time is not an error; a signal is. `ENOENT` when the channel was destroyed meanwhile.
    pub(crate) fn wait(&self, wanted: u32, timeout_ns: u64) -> Result<u32> {
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
        // The clock is read only by those who wait.
        let deadline = Deadline::after(timeout_ns);
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

    /// Ends the channel when its handle is gone: wakes the waiters and waits for the end of the polling thread.
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
