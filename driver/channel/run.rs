// SPDX-License-Identifier: GPL-2.0-only

//! Runs of entries that end at once: they cost one lock and one wake-up together, and no ticket.

use super::{Channel, CQ_HEAD, CQ_TAIL, SQ_HEAD, SQ_OFFSET};
use crate::{
    logic::{outcome::State, ring},
    observe,
    uapi::{self, Cqe, Sqe},
};
use kernel::prelude::*;

/// Most entries of one run: the spinlock is held as long.
const MAX_RUN: u32 = 64;

/// What was found at the front of the submission ring.
pub(super) struct Run {
    /// Entries that have ended; the ring's head is behind them.
    pub(super) count: u32,
    /// The entry behind them, if it does not end at once. Its completion slot is reserved, its place not given back yet.
    pub(super) next: Option<Sqe>,
}

impl Channel {
    /// Takes entries that end at once, up to `limit`, and the first that does not. Neither without a free completion
    /// slot. The caller holds the lock of the head.
    pub(super) fn run(&self, head: u32, limit: u32) -> Result<Run> {
        // Not in the loop below, which would cost every NOP something, told or not.
        if observe::tells_of_entries() {
            return self.first(head);
        }
        let mut run = Run {
            count: 0,
            next: None,
        };
        let waited_for = {
            let mut completions = self.completions.lock();
            // Looked at once: what the user takes meanwhile makes room for the next run.
            let user_head = self.memory.load_acquire(CQ_HEAD)?;
            while run.count < limit.min(MAX_RUN) {
                let reserved = completions.slots.reserve(user_head, self.cq_entries);
                match reserved {
                    Ok(true) => {}
                    Ok(false) => break,
                    // What has ended must be told; the next call meets the same index.
                    Err(_) if run.count > 0 => break,
                    Err(_) => return Err(EINVAL),
                }
                let entry = self.entry(head.wrapping_add(run.count))?;
                if !is_nop(&entry) {
                    run.next = Some(entry);
                    break;
                }
                run.count += 1;
                let place = ring::place(completions.slots.post(), self.cq_entries) as usize;
                let offset = self.cq_offset + place * size_of::<Cqe>();
                // As above.
                let _ = self.memory.write(offset, &ended(&entry));
            }
            if run.count > 0 {
                // The places are free before the completions can be seen.
                let _ = self
                    .memory
                    .store_release(SQ_HEAD, head.wrapping_add(run.count));
                let _ = self.memory.store_release(CQ_TAIL, completions.slots.tail());
            }
            self.is_waited_for(&completions)
        };
        if run.count > 0 {
            self.tell(waited_for, run.count);
        }
        Ok(run)
    }

    /// The first entry, as one that does not end at once: it gets a ticket, which tells of it.
    #[cold]
    fn first(&self, head: u32) -> Result<Run> {
        let user_head = self.memory.load_acquire(CQ_HEAD)?;
        let reserved = self
            .completions
            .lock()
            .slots
            .reserve(user_head, self.cq_entries);
        let next = match reserved.map_err(|_| EINVAL)? {
            true => Some(self.entry(head)?),
            false => None,
        };
        Ok(Run { count: 0, next })
    }

    /// A copy of the entry with this index.
    #[inline(always)]
    fn entry(&self, index: u32) -> Result<Sqe> {
        let place = ring::place(index, self.sq_entries) as usize;
        // Inside the memory, by construction.
        self.memory.read(SQ_OFFSET + place * size_of::<Sqe>())
    }
}

/// Whether an entry is a NOP with nothing wrong about it, told faster than what is wrong would be.
fn is_nop(entry: &Sqe) -> bool {
    let narrow = u32::from(entry.flags) | u32::from(entry.reserved);
    let names = entry.endpoint | entry.buffer | entry.grant | entry.length | entry.imm;
    let wide = entry.offset | entry.remote_offset | entry.timeout_ns;
    entry.op == uapi::OP_NOP && u64::from(narrow | names) | wide == 0
}

/// The completion of an entry that has ended at its acceptance.
fn ended(entry: &Sqe) -> Cqe {
    Cqe {
        user_data: entry.user_data,
        trace_id: entry.trace_id,
        op: entry.op,
        state: State::Ok as u8,
        ..Default::default()
    }
}
