// SPDX-License-Identifier: MIT OR Apache-2.0

//! Channels: a submission and a completion ring shared with the driver.

mod completion;
mod entry;
mod ring;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use dmaplane_uapi as abi;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

pub use completion::{Completion, Field, OpError, State};
pub use entry::Entry;

use crate::context::{Context, Handle, nanoseconds};
use crate::error::{Call, Error, Result};
use crate::sys::{self, SharedMemory};
use ring::Rings;

/// The submission ring has no free place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the submission ring is full: submit, or take completions so that the driver can go on")]
pub struct QueueFull;

/// What a submission did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Entries that the driver took; 0 with a polling thread, which takes them by itself.
    pub entries: u32,
    /// Completions that wait in the ring.
    pub available: u32,
}

/// How to make a [`Channel`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct ChannelBuilder {
    entries: u32,
    completions: Option<u32>,
    event: bool,
    coalescing: (u32, Duration),
    polling: Option<Polling>,
    spin: Duration,
}

/// The kernel thread that takes a channel's entries, so that submitting needs no system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// The NUMA node on whose processors it runs; any node if `None`.
    pub node: Option<u32>,
    /// How long it polls without finding an entry before it sleeps, at most a second. Waking it costs a system call.
    pub idle: Duration,
}

impl Default for Polling {
    fn default() -> Self {
        Self {
            node: None,
            idle: Duration::from_millis(1),
        }
    }
}

impl ChannelBuilder {
    /// Places of the submission ring, a power of two; 128 by default.
    pub fn entries(mut self, entries: u32) -> Self {
        self.entries = entries;
        self
    }

    /// Places of the completion ring, a power of two; twice the entries by default.
    ///
    /// It bounds the operations in flight: each reserves its completion's place.
    pub fn completions(mut self, completions: u32) -> Self {
        self.completions = Some(completions);
        self
    }

    /// With an eventfd that is signalled with each completion; see [`Channel::event`].
    pub fn event(mut self) -> Self {
        self.event = true;
        self
    }

    /// With an eventfd that is signalled once for `batch` completions, and at the latest `delay` after the first of them,
    /// rounded up to the kernel's timer tick; see [`Channel::event`].
    pub fn coalesced_event(mut self, batch: u32, delay: Duration) -> Self {
        self.event = true;
        self.coalescing = (batch, delay);
        self
    }

    /// With a kernel thread that polls. The administrator limits their number.
    pub fn polling(mut self, polling: Polling) -> Self {
        self.polling = Some(polling);
        self
    }

    /// Polls for completions for this long before a wait sleeps: less latency for more processor time. 0 by default.
    pub fn spin(mut self, limit: Duration) -> Self {
        self.spin = limit;
        self
    }

    /// Creates and maps the channel.
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` (sizes, or a node without processors), `ENOMEM`, `EMFILE`, `EDQUOT` (channels or polling
    /// threads). [`Error::Map`], [`Error::Event`].
    pub fn build(self, context: &Context) -> Result<Channel> {
        let event = if self.event {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            Some(eventfd(0, flags).map_err(Error::Event)?)
        } else {
            None
        };
        let mut create = abi::ChannelCreate {
            sq_entries: self.entries,
            cq_entries: self.completions.unwrap_or(self.entries.saturating_mul(2)),
            eventfd: event.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            event_batch: self.coalescing.0,
            event_delay_us: microseconds(self.coalescing.1),
            ..Default::default()
        };
        if let Some(polling) = self.polling {
            create.flags |= abi::CHANNEL_SQPOLL;
            // A node beyond `i32` becomes one that cannot exist, which the driver refuses.
            let node = |node| i32::try_from(node).unwrap_or(i32::MAX);
            create.poll_node = polling.node.map_or(-1, node);
            create.poll_idle_us = microseconds(polling.idle);
        }
        context.call(&mut create).map_err(|errno| {
            let subject = format!(
                " of {} entries, {} completions",
                create.sq_entries, create.cq_entries
            );
            Error::call(Call::ChannelCreate, errno, subject)
        })?;
        let handle = context.adopt(create.handle);
        let bytes = usize::try_from(create.mmap_bytes).unwrap_or(usize::MAX);
        let memory =
            SharedMemory::map(sys::fd(context), create.mmap_offset, bytes).map_err(|source| {
                Error::Map {
                    what: "a channel",
                    bytes,
                    source,
                }
            })?;
        Ok(Channel {
            rings: Rings::new(memory, &create),
            handle,
            event,
            polled: self.polling.is_some(),
            spin: self.spin,
        })
    }
}

/// A submission and a completion ring. Any number of operations costs one system call.
///
/// The rings have one user: share a channel between threads by a mutex, or give each its own.
///
/// ```no_run
/// use std::time::Duration;
/// use dmaplane::{Channel, Context, Entry};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::open()?;
/// let mut channel = Channel::builder().entries(8).build(&context)?;
/// for i in 0..8 {
///     channel.push(Entry::nop().user_data(i))?;
/// }
/// channel.submit_and_wait(8, Duration::from_secs(1))?;
/// assert_eq!(channel.completions().filter(|done| done.is_ok()).count(), 8);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Channel {
    rings: Rings,
    handle: Handle,
    event: Option<OwnedFd>,
    polled: bool,
    spin: Duration,
}

impl Channel {
    /// Starts to describe a channel.
    pub fn builder() -> ChannelBuilder {
        ChannelBuilder {
            entries: 128,
            completions: None,
            event: false,
            coalescing: (0, Duration::ZERO),
            polling: None,
            spin: Duration::ZERO,
        }
    }

    /// Places of the submission ring.
    pub fn sq_entries(&self) -> u32 {
        self.rings.sq_entries()
    }

    /// Places of the completion ring, which limit the operations in flight.
    pub fn cq_entries(&self) -> u32 {
        self.rings.cq_entries()
    }

    /// Entries that were pushed and that the driver has not taken.
    pub fn pending(&self) -> u32 {
        self.rings.pending()
    }

    /// Completions that wait to be taken.
    pub fn available(&self) -> u32 {
        self.rings.available()
    }

    /// The driver's name of the channel.
    pub fn raw_handle(&self) -> u32 {
        self.handle.raw()
    }

    /// Puts an entry into the submission ring. The driver sees it at the next submission.
    ///
    /// # Errors
    /// [`QueueFull`] when the ring has no free place.
    #[inline]
    pub fn push(&mut self, entry: Entry) -> Result<(), QueueFull> {
        if !self.rings.push(entry.raw()) {
            return Err(QueueFull);
        }
        if self.polled {
            // The polling thread takes it without a call.
            self.rings.publish();
        }
        Ok(())
    }

    /// Submits what was pushed and does not wait.
    ///
    /// Entries that find no completion slot stay in the ring: take completions and submit again.
    ///
    /// # Errors
    /// As [`Channel::submit_and_wait`].
    pub fn submit(&mut self) -> Result<Submitted> {
        self.enter(self.rings.pending(), 0, Duration::ZERO)
    }

    /// Submits what was pushed, then waits until `completions` wait in the ring.
    ///
    /// It returns with fewer of them when the time limit passes or a signal comes first;
    /// [`Submitted::available`] says how many. `Duration::MAX` waits without limit.
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` when the ring was corrupted.
    pub fn submit_and_wait(&mut self, completions: u32, timeout: Duration) -> Result<Submitted> {
        self.enter(self.rings.pending(), completions, timeout)
    }

    /// Waits until `completions` wait in the ring and submits nothing.
    ///
    /// # Errors
    /// As [`Channel::submit_and_wait`].
    pub fn wait(&mut self, completions: u32, timeout: Duration) -> Result<Submitted> {
        self.enter(0, completions, timeout)
    }

    /// Takes the next completion, without a system call.
    pub fn next_completion(&mut self) -> Option<Completion> {
        self.completions().next()
    }

    /// Takes the completions that wait, without a system call. What the iterator does not yield stays.
    pub fn completions(&mut self) -> Completions<'_> {
        Completions {
            rings: &mut self.rings,
        }
    }

    /// The eventfd, to be watched by an event loop; read it with [`Channel::take_event`].
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(AsFd::as_fd)
    }

    /// Waits for the eventfd and resets it. Returns how often it was signalled, 0 after the time
    /// limit or when a signal interrupts the wait.
    ///
    /// # Errors
    /// [`Error::Event`], also when the channel was built without an eventfd (`EBADF`).
    pub fn take_event(&self, timeout: Duration) -> Result<u64> {
        let event = self.event.as_ref().ok_or(Error::Event(Errno::BADF))?;
        let limit = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(event, PollFlags::IN)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(0),
            Ok(_) => {}
            Err(errno) => return Err(Error::Event(errno)),
        }
        let mut count = [0; 8];
        match rustix::io::read(event, &mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            // Another thread has read it first.
            Err(Errno::AGAIN) => Ok(0),
            Err(errno) => Err(Error::Event(errno)),
        }
    }

    /// Whether the polling thread found that the ring was corrupted, and takes nothing. The next submission returns
    /// that as an error, and makes the thread look again.
    pub fn has_broken_ring(&self) -> bool {
        self.rings.is_broken()
    }

    /// Overwrites a member of the ring's header, at a byte offset of
    /// [`RingHeader`](dmaplane_uapi::RingHeader).
    ///
    /// For tests of the driver: it must survive any value. The channel is of no use afterwards.
    ///
    /// # Panics
    /// When the offset is not that of a 32-bit word in the mapping.
    #[doc(hidden)]
    pub fn corrupt_header(&mut self, offset: usize, value: u32) {
        self.rings.publish();
        self.rings
            .memory()
            .atomic_u32(offset)
            .store(value, std::sync::atomic::Ordering::Release);
    }

    /// Enters with any number of entries to submit, as a hostile user would. For tests of the driver.
    ///
    /// # Errors
    /// As [`Channel::submit_and_wait`].
    #[doc(hidden)]
    pub fn enter_raw(&mut self, to_submit: u32, wait: u32, timeout: Duration) -> Result<Submitted> {
        self.enter(to_submit, wait, timeout)
    }

    fn enter(&mut self, to_submit: u32, min_complete: u32, timeout: Duration) -> Result<Submitted> {
        self.rings.publish();
        // Gives back the places of an iterator that was never dropped.
        self.rings.give_back();
        let mut taken = 0;
        if !self.spin.is_zero() && min_complete > 0 {
            taken = self.enter_once(to_submit, 0, Duration::ZERO)?.entries;
            let start = Instant::now();
            let limit = self.spin.min(timeout);
            while self.rings.available() < min_complete && start.elapsed() < limit {
                std::hint::spin_loop();
            }
            let available = self.rings.available();
            if available >= min_complete {
                let entries = taken;
                return Ok(Submitted { entries, available });
            }
        }
        // An entry that found no completion slot before may find one now.
        let mut done = self.enter_once(to_submit - taken.min(to_submit), min_complete, timeout)?;
        done.entries += taken;
        Ok(done)
    }

    fn enter_once(
        &mut self,
        to_submit: u32,
        min_complete: u32,
        timeout: Duration,
    ) -> Result<Submitted> {
        let mut enter = abi::Enter {
            channel: self.handle.raw(),
            to_submit,
            min_complete,
            timeout_ns: nanoseconds(timeout),
            ..Default::default()
        };
        if self.polled {
            enter.to_submit = 0;
            if self.rings.needs_wakeup() {
                enter.flags |= abi::ENTER_WAKE;
            }
            let available = self.rings.available();
            if enter.flags == 0 && available >= min_complete {
                let entries = 0;
                return Ok(Submitted { entries, available });
            }
        }
        match self.handle.context().call(&mut enter) {
            Ok(()) => {}
            // Nothing was submitted; completions that have arrived are in the ring all the same.
            Err(Errno::INTR) => enter.submitted = 0,
            Err(errno) => return Err(Error::call(Call::Enter, errno, "")),
        }
        Ok(Submitted {
            entries: enter.submitted,
            available: self.rings.available(),
        })
    }
}

/// A time in microseconds as the interface has it, rounded up. What does not fit is refused by the driver.
fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u32::MAX)
}

/// Iterator over the completions that wait in a channel.
#[derive(Debug)]
pub struct Completions<'a> {
    rings: &'a mut Rings,
}

impl Drop for Completions<'_> {
    fn drop(&mut self) {
        self.rings.give_back();
    }
}

impl Iterator for Completions<'_> {
    type Item = Completion;

    #[inline]
    fn next(&mut self) -> Option<Completion> {
        self.rings.pop().map(Completion::from_raw)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.rings.available() as usize, None)
    }
}
