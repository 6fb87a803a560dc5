// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Channels: a submission and a completion ring that user space and the driver share.

use super::*;

/// Creates a channel ([`ChannelCreate`]). Errors: `EINVAL` (entries not a power of two, or out of range, coalescing
/// without an eventfd, another kind of file in its place, a poll node that does not exist or has no processors that the
/// caller may use), `EBADF` (the eventfd is not open), `ENOMEM`, `EMFILE`, `EDQUOT` (beyond [`Query::max_channels`], or
/// too many polling threads in this open file or on this machine), `EINTR` (the thread is being killed).
pub const IOC_CHANNEL_CREATE: u32 = (IOC_TYPE << 8) | 0x20;
/// Submits entries and waits for completions ([`Enter`]). Errors: `EINVAL` (the ring's indices make
/// no sense), `EINTR` (nothing was submitted), `ENOENT` (also when the channel is destroyed during the
/// wait), `EFAULT` (the ring is broken beyond use).
pub const IOC_ENTER: u32 = (IOC_TYPE << 8) | 0x21;

/// Flag of a channel: a kernel thread takes entries from the submission ring as they are filled. It runs on the
/// processors of `poll_node` on which the caller may run, sleeps after `poll_idle_us` without an entry
/// ([`SQ_NEED_WAKEUP`]) and ends with the channel. `EINVAL` where the driver does not have [`CAP_SQPOLL`].
pub const CHANNEL_SQPOLL: u32 = 1 << 0;

/// Argument of [`IOC_CHANNEL_CREATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCreate {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `CHANNEL_*` bits.
    pub flags: u32,
    /// Entries of the submission ring, a power of two.
    pub sq_entries: u32,
    /// Entries of the completion ring, a power of two, at least `sq_entries`.
    pub cq_entries: u32,
    /// An eventfd that is signalled with completions, or -1.
    pub eventfd: i32,
    /// Out: handle of the channel.
    pub handle: u32,
    /// Out: offset to pass to mmap(2).
    pub mmap_offset: u64,
    /// Out: bytes to map: a [`RingHeader`] page, then both rings.
    pub mmap_bytes: u64,
    /// Out: offset of the array of [`Sqe`] in the mapping.
    pub sq_offset: u32,
    /// Out: offset of the array of [`Cqe`] in the mapping.
    pub cq_offset: u32,
    /// Signal the eventfd once this many completions came since the last signal; 0 and 1 for each. More than 1 gives
    /// `EINVAL` where the driver does not have [`CAP_COALESCE`].
    pub event_batch: u32,
    /// Signal it this many microseconds after the first unsignalled completion, unless the batch is full before. An
    /// hrtimer measures it. At most 10 s; 0 only where each completion is signalled at once.
    pub event_delay_us: u32,
    /// NUMA node of the polling thread, or -1 for any; 0 without [`CHANNEL_SQPOLL`].
    pub poll_node: i32,
    /// Microseconds without an entry after which the polling thread sleeps, at most 1 s; 0 without
    /// [`CHANNEL_SQPOLL`].
    pub poll_idle_us: u32,
}

/// Flag of [`Enter`]: wakes the polling thread of the channel, which takes the entries; `to_submit` must be 0. `EINVAL`
/// when the channel has none, and once after the thread has found that the ring's indices make no sense
/// ([`SQ_BROKEN`]): then it looks again.
pub const ENTER_WAKE: u32 = 1 << 0;

/// Argument of [`IOC_ENTER`].
///
/// Entries that find no free completion slot stay in the submission ring and are not counted in
/// `submitted`. The call fails only when it submitted nothing; the out members are valid whenever
/// it succeeds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enter {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `ENTER_*` bits.
    pub flags: u32,
    /// Handle of the channel.
    pub channel: u32,
    /// Most entries to take from the submission ring; 0 on a channel with a polling thread.
    pub to_submit: u32,
    /// Return as soon as this many completions wait in the ring.
    pub min_complete: u32,
    /// Out: entries taken from the submission ring.
    pub submitted: u32,
    /// Out: completions that wait in the ring; fewer than `min_complete` after the time limit.
    pub available: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Time limit of the wait in nanoseconds.
    pub timeout_ns: u64,
}

/// Bit of [`RingHeader::sq_flags`]: the polling thread sleeps. After filling entries, user space issues a full memory
/// barrier, looks at this bit, and wakes the thread by [`ENTER_WAKE`] when it is set. It does the same after taking
/// completions while entries wait for their slots.
pub const SQ_NEED_WAKEUP: u32 = 1 << 0;
/// Bit of [`RingHeader::sq_flags`]: the polling thread found that the ring's indices make no sense. It takes nothing until
/// [`ENTER_WAKE`]; until then [`IOC_ENTER`] gives `EINVAL` and poll(2) `POLLERR`.
pub const SQ_BROKEN: u32 = 1 << 1;

/// First page of a channel's mapping. Indices run freely and wrap at 2^32; an entry's place is its
/// index modulo the ring's size. Each index has a cache line of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RingHeader {
    /// Next entry that the kernel takes; written by the kernel (release).
    pub sq_head: u32,
    /// `SQ_*` bits; written by the kernel.
    pub sq_flags: u32,
    #[doc(hidden)]
    pub pad0: [u32; 14],
    /// One past the last entry that user space filled; written by user space (release).
    pub sq_tail: u32,
    #[doc(hidden)]
    pub pad1: [u32; 15],
    /// Next completion that user space takes; written by user space (release).
    pub cq_head: u32,
    #[doc(hidden)]
    pub pad2: [u32; 15],
    /// One past the last completion that the kernel filled; written by the kernel (release).
    pub cq_tail: u32,
    #[doc(hidden)]
    pub pad3: [u32; 15],
}

const _: () = {
    assert!(size_of::<ChannelCreate>() == 64);
    assert!(size_of::<Enter>() == 40);
    assert!(size_of::<RingHeader>() == 256);
};
