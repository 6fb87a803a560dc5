// SPDX-License-Identifier: MIT OR Apache-2.0

//! Index arithmetic of the two rings, separate from the system calls so that tests can play the kernel.
//!
//! Indices run freely and wrap at 2^32. This side fills the submission ring and publishes it by a
//! release store of `sq_tail`; it reads completions after an acquire load of `cq_tail` and gives
//! their places back by a release store of `cq_head`. Each of these is done once for many entries:
//! the kernel's indices, as last seen, never overstate what the kernel has done.

use std::mem::offset_of;
use std::sync::atomic::{Ordering, fence};

use dmaplane_uapi as abi;

use crate::sys::SharedMemory;

/// User space's side of a channel's mapping.
#[derive(Debug)]
pub(super) struct Rings {
    memory: SharedMemory,
    sq: Ring,
    cq: Ring,
    /// One past the last entry that was filled, published or not.
    sq_filled: u32,
    /// One past the last entry that was published.
    sq_published: u32,
    /// Next entry that the kernel takes, when this side last looked.
    sq_head: u32,
    /// Next completion to take; the shared copy follows it.
    cq_taken: u32,
    /// One past the last completion whose place was given back.
    cq_given: u32,
    /// One past the last completion, when this side last looked.
    cq_tail: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ring {
    /// Entries, a power of two.
    entries: u32,
    /// Offset of the array in the mapping.
    offset: usize,
}

impl Ring {
    /// Offset of the entry with this index, of `size` bytes each.
    fn place(self, index: u32, size: usize) -> usize {
        self.offset + (index & (self.entries - 1)) as usize * size
    }
}

const SQ_HEAD: usize = offset_of!(abi::RingHeader, sq_head);
const SQ_FLAGS: usize = offset_of!(abi::RingHeader, sq_flags);
const SQ_TAIL: usize = offset_of!(abi::RingHeader, sq_tail);
const CQ_HEAD: usize = offset_of!(abi::RingHeader, cq_head);
const CQ_TAIL: usize = offset_of!(abi::RingHeader, cq_tail);

impl Rings {
    /// Takes over a mapping whose rings start where `create` says. Both sizes are powers of two.
    pub(super) fn new(memory: SharedMemory, create: &abi::ChannelCreate) -> Self {
        debug_assert!(create.sq_entries.is_power_of_two() && create.cq_entries.is_power_of_two());
        // A new channel starts at 0, but the header decides.
        let sq_filled = memory.atomic_u32(SQ_TAIL).load(Ordering::Relaxed);
        let cq_taken = memory.atomic_u32(CQ_HEAD).load(Ordering::Relaxed);
        let sq_head = memory.atomic_u32(SQ_HEAD).load(Ordering::Acquire);
        Self {
            memory,
            sq: Ring {
                entries: create.sq_entries,
                offset: create.sq_offset as usize,
            },
            cq: Ring {
                entries: create.cq_entries,
                offset: create.cq_offset as usize,
            },
            sq_filled,
            sq_published: sq_filled,
            sq_head,
            cq_taken,
            cq_given: cq_taken,
            cq_tail: cq_taken,
        }
    }

    pub(super) fn sq_entries(&self) -> u32 {
        self.sq.entries
    }

    pub(super) fn cq_entries(&self) -> u32 {
        self.cq.entries
    }

    /// Entries that were filled and that the kernel has not taken.
    pub(super) fn pending(&self) -> u32 {
        // Acquire: the kernel has read an entry's place before this side fills it again.
        let head = self.memory.atomic_u32(SQ_HEAD).load(Ordering::Acquire);
        self.sq_filled.wrapping_sub(head)
    }

    /// Whether a polling thread has to be woken for what was pushed, or for the places of completions that were taken.
    pub(super) fn needs_wakeup(&self) -> bool {
        // Either the kernel sees the entries, or this side sees the flag.
        fence(Ordering::SeqCst);
        let flags = self.memory.atomic_u32(SQ_FLAGS).load(Ordering::Acquire);
        flags & abi::SQ_NEED_WAKEUP != 0
    }

    /// Whether a polling thread found that the indices make no sense.
    pub(super) fn is_broken(&self) -> bool {
        let flags = self.memory.atomic_u32(SQ_FLAGS).load(Ordering::Acquire);
        flags & abi::SQ_BROKEN != 0
    }

    /// Fills the next place; `false` when the ring is full. The kernel sees it after [`Rings::publish`].
    #[inline]
    pub(super) fn push(&mut self, sqe: &abi::Sqe) -> bool {
        let full = |head: u32| self.sq_filled.wrapping_sub(head) >= self.sq.entries;
        if full(self.sq_head) {
            // Acquire: as in `pending()`.
            let head = self.memory.atomic_u32(SQ_HEAD).load(Ordering::Acquire);
            if full(head) {
                return false;
            }
            self.sq_head = head;
        }
        self.memory
            .write(self.sq.place(self.sq_filled, size_of::<abi::Sqe>()), *sqe);
        self.sq_filled = self.sq_filled.wrapping_add(1);
        true
    }

    /// Lets the kernel see what was filled.
    pub(super) fn publish(&mut self) {
        if self.sq_published != self.sq_filled {
            self.sq_published = self.sq_filled;
            // Release: the kernel sees the entries before the index that covers them.
            self.memory
                .atomic_u32(SQ_TAIL)
                .store(self.sq_filled, Ordering::Release);
        }
    }

    /// Completions that wait to be taken.
    pub(super) fn available(&self) -> u32 {
        self.load_tail().wrapping_sub(self.cq_taken)
    }

    fn load_tail(&self) -> u32 {
        // Acquire: the completions that the index covers are read after it.
        self.memory.atomic_u32(CQ_TAIL).load(Ordering::Acquire)
    }

    /// Takes the next completion. Its place is given back by [`Rings::give_back`].
    #[inline]
    pub(super) fn pop(&mut self) -> Option<abi::Cqe> {
        if self.cq_taken == self.cq_tail {
            self.cq_tail = self.load_tail();
            if self.cq_taken == self.cq_tail {
                return None;
            }
        }
        let cqe = self
            .memory
            .read(self.cq.place(self.cq_taken, size_of::<abi::Cqe>()));
        self.cq_taken = self.cq_taken.wrapping_add(1);
        Some(cqe)
    }

    /// Gives back the places of the completions that were taken.
    pub(super) fn give_back(&mut self) {
        if self.cq_given != self.cq_taken {
            self.cq_given = self.cq_taken;
            // Release: the completions are read before their places are given back.
            self.memory
                .atomic_u32(CQ_HEAD)
                .store(self.cq_taken, Ordering::Release);
        }
    }

    /// The mapping, for tests that corrupt it on purpose.
    pub(super) fn memory(&self) -> &SharedMemory {
        &self.memory
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Plays the kernel over memory that it shares with the rings.
    struct Kernel {
        sq_head: u32,
        cq_tail: u32,
    }

    const SQ: u32 = 4;
    const CQ: u32 = 8;
    const SQ_OFFSET: u32 = 4096;
    const CQ_OFFSET: u32 = 4096 + SQ * 64;

    fn rings(start: u32) -> (Rings, Kernel) {
        let memory = SharedMemory::anonymous(8192).expect("anonymous memory");
        for offset in [SQ_HEAD, SQ_TAIL, CQ_HEAD, CQ_TAIL] {
            memory.atomic_u32(offset).store(start, Ordering::Relaxed);
        }
        let create = abi::ChannelCreate {
            sq_entries: SQ,
            cq_entries: CQ,
            sq_offset: SQ_OFFSET,
            cq_offset: CQ_OFFSET,
            ..Default::default()
        };
        (
            Rings::new(memory, &create),
            Kernel {
                sq_head: start,
                cq_tail: start,
            },
        )
    }

    impl Kernel {
        /// Takes one entry and completes it with its user data.
        fn step(&mut self, rings: &Rings) -> bool {
            let memory = rings.memory();
            let tail = memory.atomic_u32(SQ_TAIL).load(Ordering::Acquire);
            let taken = memory.atomic_u32(CQ_HEAD).load(Ordering::Acquire);
            if self.sq_head == tail || self.cq_tail.wrapping_sub(taken) == CQ {
                return false;
            }
            let place = (self.sq_head % SQ) as usize * 64;
            let sqe: abi::Sqe = memory.read(SQ_OFFSET as usize + place);
            self.sq_head = self.sq_head.wrapping_add(1);
            memory
                .atomic_u32(SQ_HEAD)
                .store(self.sq_head, Ordering::Release);
            let cqe = abi::Cqe {
                user_data: sqe.user_data,
                state: abi::STATE_OK,
                ..Default::default()
            };
            memory.write(CQ_OFFSET as usize + (self.cq_tail % CQ) as usize * 64, cqe);
            self.cq_tail = self.cq_tail.wrapping_add(1);
            memory
                .atomic_u32(CQ_TAIL)
                .store(self.cq_tail, Ordering::Release);
            true
        }
    }

    fn sqe(user_data: u64) -> abi::Sqe {
        abi::Sqe {
            user_data,
            ..Default::default()
        }
    }

    #[test]
    fn a_full_ring_refuses_and_takes_again_after_the_kernel() {
        let (mut rings, mut kernel) = rings(0);
        for i in 0..u64::from(SQ) {
            assert!(rings.push(&sqe(i)));
        }
        assert!(!rings.push(&sqe(99)));
        assert_eq!(rings.pending(), SQ);
        assert!(!kernel.step(&rings), "nothing is published");
        rings.publish();
        assert!(kernel.step(&rings));
        assert!(rings.push(&sqe(4)));
        assert_eq!(rings.pop().map(|cqe| cqe.user_data), Some(0));
        assert_eq!(rings.pop(), None);
    }

    proptest! {
        #[test]
        fn completions_come_in_order_whatever_the_interleaving(
            start in prop_oneof![Just(0), Just(u32::MAX - 5), any::<u32>()],
            steps in proptest::collection::vec(0..5u8, 1..400),
        ) {
            let (mut rings, mut kernel) = rings(start);
            let mut expected = VecDeque::new();
            let mut next = 0;
            for step in steps {
                match step {
                    0 => {
                        if rings.push(&sqe(next)) {
                            expected.push_back(next);
                            next += 1;
                        }
                    }
                    1 => {
                        kernel.step(&rings);
                    }
                    2 => rings.publish(),
                    3 => rings.give_back(),
                    _ => {
                        let waiting = rings.available();
                        match rings.pop() {
                            Some(cqe) => {
                                prop_assert!(waiting > 0);
                                prop_assert_eq!(Some(cqe.user_data), expected.pop_front());
                            }
                            None => prop_assert_eq!(waiting, 0),
                        }
                    }
                }
                prop_assert!(rings.pending() <= SQ);
                prop_assert!(rings.available() <= CQ);
                prop_assert_eq!(
                    expected.len(),
                    (rings.pending() + rings.available()) as usize
                );
            }
        }
    }
}
