// SPDX-License-Identifier: GPL-2.0-only

//! Runs of entries that complete at once: a whole run costs one lock and one wake-up, and no tickets.

use super::{Channel, CQ_HEAD, CQ_TAIL, SQ_HEAD, SQ_OFFSET};
use crate::{
    logic::{outcome::State, ring},
    observe,
    uapi::{self, Cqe, Sqe},
};
use kernel::prelude::*;

/// Most entries of one run, which bounds how long the spinlock is held.
const MAX_RUN: u32 = 64;

/// What was found at the front of the submission ring.
pub(super) struct Run {
    /// Entries that have completed; the ring's head is past them.
    pub(super) count: u32,
    /// The entry after them, if it does not complete at once. Its completion slot is reserved; its place is not freed
    /// yet.
    pub(super) next: Option<Sqe>,
}

impl Channel {
    /// Takes up to `limit` entries that complete at once, and the first one that does not. Takes none without a free
    /// completion slot. The caller holds `turn`, which protects the head.
    pub(super) fn run(&self, head: u32, limit: u32) -> Result<Run> {
        // Checked here and not in the loop below, where it would cost every NOP something, traced or not.
        if observe::traces_entries() {
            return self.first(head);
        }
        let mut run = Run {
            count: 0,
            next: None,
        };
        let waited_for = {
            let mut completions = self.completions.lock();
            // Loaded once: what the user takes meanwhile makes room for the next run.
            let user_head = self.memory.load_acquire(CQ_HEAD)?;
            while run.count < limit.min(MAX_RUN) {
                let reserved = completions.slots.reserve(user_head, self.cq_entries);
                match reserved {
                    Ok(true) => {}
                    Ok(false) => break,
                    // Completed entries must be reported; the next call finds the same index.
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
                // Cannot fail: the memory was allocated for the header and all `cq_entries` places.
                let _ = self.memory.write(offset, &ended(&entry));
            }
            if run.count > 0 {
                // Frees the places before the completions can be seen.
                let _ = self
                    .memory
                    .store_release(SQ_HEAD, head.wrapping_add(run.count));
                let _ = self.memory.store_release(CQ_TAIL, completions.slots.tail());
            }
            self.is_waited_for(&completions)
        };
        if run.count > 0 {
            self.notify(waited_for, run.count);
        }
        Ok(run)
    }

    /// Takes the first entry as one that does not complete at once, so that it gets a ticket, which traces it.
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
        // Cannot fail: the memory was allocated for the header and all `sq_entries` places.
        self.memory.read(SQ_OFFSET + place * size_of::<Sqe>())
    }
}

/// Whether an entry is a valid NOP. Cheaper than the full check, which also finds the wrong member.
fn is_nop(entry: &Sqe) -> bool {
    let narrow = u32::from(entry.flags) | u32::from(entry.reserved);
    let names = entry.endpoint | entry.buffer | entry.grant | entry.length | entry.imm;
    let wide = entry.offset | entry.remote_offset | entry.timeout_ns;
    entry.op == uapi::OP_NOP && u64::from(narrow | names) | wide == 0
}

/// The completion of an entry that completed when it was accepted.
fn ended(entry: &Sqe) -> Cqe {
    Cqe {
        user_data: entry.user_data,
        trace_id: entry.trace_id,
        op: entry.op,
        state: State::Ok as u8,
        ..Default::default()
    }
}
