// SPDX-License-Identifier: GPL-2.0-only

//! What the provider has of one endpoint, in the order in which it completes: by it, cancels and time limits find
//! operations that are out of reach, and fences know what is before them.

use super::{
    op::Posted,
    operations::DONE,
    Phase, Shared, State,
};
use crate::{
    channel::{Ticket, TicketKey},
    kx::{chain::Chain, rdma::transfer::Transfer},
    logic::operation::Operation,
    observe::Mark,
    uapi,
};
use kernel::{
    prelude::*,
    time::{Instant, Monotonic},
};

/// One place in the order.
pub(super) enum Flying {
    /// An operation that the provider has; the box with its ticket is there too.
    Provider(Named),
    /// A fence, which ends when it is the first.
    Fence(KBox<Transfer<Posted>>),
}

/// What must be known of an operation while the provider has its box.
pub(super) struct Named {
    pub(super) id: u64,
    pub(super) key: TicketKey,
    pub(super) deadline: Option<Instant<Monotonic>>,
    /// The key of the memory that it uses; 0 for none.
    pub(super) memory: usize,
    pub(super) life: Operation,
    pub(super) mark: Mark,
    requests: u32,
}

impl Flying {
    /// The record of an operation that is about to be posted.
    pub(super) fn of(posted: &mut Posted, requests: u32) -> Named {
        let mark = posted.ticket.mark();
        posted.ticket.set_posted(Some(mark.posted));
        Named {
            mark,
            id: posted.id,
            key: posted.ticket.key(),
            deadline: posted.ticket.deadline(),
            memory: posted.op.memory().unwrap_or(0),
            life: posted.life,
            requests,
        }
    }

    /// Whether it uses some memory, by its key.
    pub(super) fn is_on(&self, memory: usize) -> bool {
        matches!(self, Flying::Provider(named) if named.memory == memory)
    }

    /// The ticket of a fence.
    pub(super) fn fence(&self) -> Option<&Ticket> {
        match self {
            Flying::Fence(fence) => fence.body().map(|posted| &posted.ticket),
            Flying::Provider(_) => None,
        }
    }
}

impl State {
    /// The provider took an operation.
    pub(super) fn took_off(&mut self, mut named: Named, requests: u32) {
        // It came out of the queue.
        let _queued = named.life.post();
        self.next_id += 1;
        self.window.posted(requests);
        // Those that spend a credit are counted when it is spent, which comes next.
        let seq = match named.mark.op {
            uapi::OP_WRITE_IMM | uapi::OP_SEND => self.flow.data_sent().wrapping_add(1),
            _ => 0,
        };
        self.record.posted(&named.mark, seq);
        // There is room: that was asked before posting.
        let _ = self.flying.push(Flying::Provider(named));
    }

    /// The provider gave an operation back: its life so far.
    pub(super) fn landed(&mut self, id: u64) -> Option<Operation> {
        let found = self
            .flying
            .remove_first(|flying| matches!(flying, Flying::Provider(named) if named.id == id))?;
        match found {
            Flying::Provider(named) => {
                self.window.returned(named.requests);
                Some(named.life)
            }
            Flying::Fence(_) => None,
        }
    }

    /// Takes the fences that nothing is before any more.
    pub(super) fn fences_reached(&mut self) -> Chain<Transfer<Posted>> {
        let mut reached = Chain::new();
        while matches!(self.flying.front(), Some(Flying::Fence(_))) {
            if let Some(Flying::Fence(fence)) = self.flying.pop() {
                self.in_flight = self.in_flight.saturating_sub(1);
                reached.push_back(fence);
            }
        }
        reached
    }
}

impl Shared {
    /// Completes fences that were reached.
    pub(super) fn end_fences(&self, mut fences: Chain<Transfer<Posted>>) {
        while let Some(fence) = fences.pop() {
            let outcome = match self.state.lock().phase {
                Phase::Down(cause) => cause.outcome(),
                Phase::Connecting | Phase::Up => DONE,
            };
            super::operations::cut_off(fence, outcome);
        }
    }

    /// Completes the fences of an endpoint whose queue pair is gone. What the provider never gave back was ended with
    /// the queue pair.
    pub(super) fn end_flying(&self) {
        loop {
            let (fences, empty) = {
                let mut state = self.state.lock();
                let fences = state.fences_reached();
                // Dropped here: it is only a record.
                let empty = state.flying.pop().is_none();
                (fences, empty)
            };
            self.end_fences(fences);
            if empty {
                return;
            }
        }
    }
}
