// SPDX-License-Identifier: MIT OR Apache-2.0

//! The ledger of a channel's operations: each has exactly one completion.

use std::collections::{BTreeMap, HashMap};

use dmaplane::{Completion, State};
use dmaplane_testkit::{Result, bail, ensure};
use dmaplane_uapi as abi;

/// What is known of an operation that is under way.
#[derive(Clone, Copy, Debug)]
struct Open {
    op: u8,
    trace_id: u64,
    /// Whether it has a time limit.
    limited: bool,
}

/// Operations of one channel, by their `user_data`.
#[derive(Debug, Default)]
pub struct Ledger {
    open: HashMap<u64, Open>,
    /// Of those, how many may wait for somebody else.
    waiting: usize,
    next: u64,
    /// Completions by operation, state and errno.
    pub ends: BTreeMap<(u8, u8, i32), u64>,
}

/// Whether an operation may wait for something that never comes.
pub fn waits(op: u8) -> bool {
    matches!(
        op,
        abi::OP_RECV | abi::OP_WRITE_IMM | abi::OP_SEND | abi::OP_WATCH
    )
}

impl Ledger {
    /// A ledger whose numbers start at `first`, so that they are no other channel's.
    pub fn new(first: u64) -> Self {
        Self {
            next: first,
            ..Default::default()
        }
    }

    /// Numbers an entry and writes it down.
    pub fn enter(&mut self, sqe: &mut abi::Sqe) {
        sqe.user_data = self.next;
        sqe.trace_id = self.next.rotate_left(17);
        self.next += 1;
        let open = Open {
            op: sqe.op,
            trace_id: sqe.trace_id,
            limited: sqe.timeout_ns != 0,
        };
        self.waiting += usize::from(waits(sqe.op));
        self.open.insert(sqe.user_data, open);
    }

    /// Removes an operation.
    ///
    /// # Errors
    /// When it was removed before, was never there, or ended in a way that it cannot.
    pub fn leave(&mut self, done: &Completion) -> Result<()> {
        let Some(open) = self.open.remove(&done.user_data()) else {
            bail!("a second completion, or nobody's: {done:?}");
        };
        self.waiting -= usize::from(waits(open.op));
        ensure!(
            done.op() == open.op && done.trace_id() == open.trace_id,
            "{open:?} came back as {done:?}"
        );
        let state = done.state();
        let fits = match state {
            State::Ok => open.op <= abi::OP_WATCH && (open.op != abi::OP_NOP || !open.limited),
            State::Error => open.op != abi::OP_NOP || open.limited,
            State::Timeout => open.limited && open.op != abi::OP_NOP,
            State::Canceled | State::PeerDead | State::Revoked => {
                !matches!(open.op, abi::OP_NOP | abi::OP_COPY) && open.op <= abi::OP_WATCH
            }
            _ => false,
        };
        ensure!(fits, "{open:?} ended as it cannot: {done:?}");
        let raw = done.raw();
        let end = (open.op, raw.state, raw.error);
        *self.ends.entry(end).or_default() += 1;
        Ok(())
    }

    /// Operations under way.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Operations under way that may wait for somebody else.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The next operation's number.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Completions in all.
    pub fn completed(&self) -> u64 {
        self.ends.values().sum()
    }
}
