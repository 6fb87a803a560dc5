// SPDX-License-Identifier: GPL-2.0-only

//! Records of the operations that the provider has of one endpoint, in completion order. Cancels and time limits find
//! posted operations by them, and fences know what is ahead of them.

use super::{op::OpState, operations::DONE, Phase, Shared, State};
use crate::{
    base::tuning::TUNING,
    channel::{Ticket, TicketKey},
    kx::{box_queue::BoxQueue, rdma::transfer::Transfer},
    logic::{
        operation::{End, Operation},
        pace::Flight,
    },
    observe::Mark,
    uapi,
};
use kernel::{
    prelude::*,
    time::{Instant, Monotonic},
};

/// Divisor of the time for an answer: bytes in flight may take this part of it, so that messages behind them arrive in
/// time.
const PACE_SHARE: u64 = 4;

/// An entry in completion order.
pub(super) enum InFlight {
    /// An operation that the provider has, along with the box that has its ticket.
    Provider(Named),
    /// A fence, which completes when it is the first.
    Fence(KBox<Transfer<OpState>>),
}

/// What the driver must know of an operation while the provider has its box.
pub(super) struct Named {
    pub(super) id: u64,
    pub(super) key: TicketKey,
    pub(super) deadline: Option<Instant<Monotonic>>,
    /// The key of the memory that it uses; 0 for none.
    pub(super) memory: usize,
    pub(super) life: Operation,
    pub(super) mark: Mark,
    requests: u32,
    /// Its part of the bytes in flight, and since when. `None` for operations in steps, and for those that are no
    /// writes.
    paced: Option<(Flight, Instant<Monotonic>)>,
}

impl InFlight {
    /// The record of an operation that is about to be posted.
    pub(super) fn of(posted: &mut OpState, requests: u32) -> Named {
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
            paced: None,
        }
    }

    /// Whether it uses the memory with this key.
    pub(super) fn is_on(&self, memory: usize) -> bool {
        matches!(self, InFlight::Provider(named) if named.memory == memory)
    }

    /// The ticket of a fence.
    pub(super) fn fence(&self) -> Option<&Ticket> {
        match self {
            InFlight::Fence(fence) => fence.body().map(|posted| &posted.ticket),
            InFlight::Provider(_) => None,
        }
    }
}

impl State {
    /// Records that the provider took an operation. `paced` has the bytes that go to the peer, either all or those of
    /// the first step, and whether the operation goes in steps.
    pub(super) fn mark_posted(
        &mut self,
        mut named: Named,
        requests: u32,
        paced: Option<(u32, bool)>,
    ) {
        // It was queued until now, so this succeeds.
        let _queued = named.life.post();
        self.next_id += 1;
        self.window.posted(requests);
        if let Some((bytes, in_steps)) = paced {
            match in_steps {
                true => self.step_posted(named.id, bytes),
                false => named.paced = Some((self.pace.posted(bytes), Instant::now())),
            }
        }
        // Operations that spend a credit are counted when it is spent, which happens next.
        let seq = match named.mark.op {
            uapi::OP_WRITE_IMM | uapi::OP_SEND => self.flow.data_sent().wrapping_add(1),
            _ => 0,
        };
        self.record.posted(&named.mark, seq);
        // There is room: that was checked before posting.
        let _ = self.in_flight.push(InFlight::Provider(named));
    }

    /// Records that the provider returned an operation. Returns its state so far.
    pub(super) fn mark_completed(&mut self, id: u64) -> Option<Operation> {
        let found = self.in_flight.remove_first(
            |in_flight| matches!(in_flight, InFlight::Provider(named) if named.id == id),
        )?;
        match found {
            InFlight::Provider(named) => {
                self.window.returned(named.requests);
                self.came_back(named.paced);
                Some(named.life)
            }
            InFlight::Fence(_) => None,
        }
    }

    /// Records that bytes are no longer in flight.
    fn came_back(&mut self, paced: Option<(Flight, Instant<Monotonic>)>) {
        if let Some((flight, posted)) = paced {
            let took_us = u64::try_from(posted.elapsed().as_micros_ceil()).unwrap_or(0);
            let budget_us = u64::from(TUNING.answer_ms()) * 1000 / PACE_SHARE;
            self.pace.returned(flight, took_us, budget_us.max(1));
        }
    }

    /// Records that the step in flight has completed.
    pub(super) fn step_over(&mut self) {
        if let Some((_, flight, posted)) = self.paced.take() {
            self.came_back(Some((flight, posted)));
        }
    }

    /// Records that an operation is over, and with it its step in flight, which was flushed. The step in flight may
    /// also be another operation's.
    pub(super) fn step_over_of(&mut self, id: u64) {
        if matches!(self.paced, Some((of, _, _)) if of == id) {
            self.step_over();
        }
    }

    /// Records that a step of an operation was posted.
    pub(super) fn step_posted(&mut self, id: u64, bytes: u32) {
        self.paced = Some((id, self.pace.posted(bytes), Instant::now()));
    }

    /// Records that the memory of a posted operation is being revoked: whatever the provider reports, the operation
    /// ends as revoked.
    pub(super) fn revoke_posted(&mut self, id: u64) {
        self.in_flight.for_each(|in_flight| match in_flight {
            InFlight::Provider(named) if named.id == id => {
                let _asked = named.life.ask(End::Revoked);
            }
            _ => {}
        });
    }

    /// Takes the fences that have become first, once the completions of all that was ahead of them are posted.
    fn fences_reached(&mut self) -> BoxQueue<Transfer<OpState>> {
        match self.ending {
            0 => self.take_fences(),
            _ => BoxQueue::new(),
        }
    }

    /// Takes the fences that have become first.
    fn take_fences(&mut self) -> BoxQueue<Transfer<OpState>> {
        let mut reached = BoxQueue::new();
        while matches!(self.in_flight.front(), Some(InFlight::Fence(_))) {
            if let Some(InFlight::Fence(fence)) = self.in_flight.pop() {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.ending += 1;
                reached.push_back(fence);
            }
        }
        reached
    }

    /// Records that the completions of `count` operations are posted. Returns the fences that waited for them.
    fn ended(&mut self, count: u32) -> BoxQueue<Transfer<OpState>> {
        self.ending = self.ending.saturating_sub(count);
        self.fences_reached()
    }
}

impl Shared {
    /// Has to follow the completion of each operation that was counted in [`State::ending`]. Completes the fences that
    /// waited for it. Not under a lock.
    pub(super) fn ended(&self) {
        let fences = self.state.lock().ended(1);
        self.end_fences(fences);
    }

    /// Completes fences that were reached, and those behind them.
    fn end_fences(&self, mut fences: BoxQueue<Transfer<OpState>>) {
        loop {
            let mut count = 0;
            while let Some(fence) = fences.pop() {
                let outcome = match self.state.lock().phase {
                    Phase::Down(cause) => cause.outcome(),
                    Phase::Connecting | Phase::Up => DONE,
                };
                super::operations::cut_off(fence, outcome);
                count += 1;
            }
            if count == 0 {
                return;
            }
            fences = self.state.lock().ended(count);
        }
    }

    /// Completes the fences of an endpoint whose queue pair is gone. Operations that the provider never returned have
    /// ended with the queue pair.
    pub(super) fn end_in_flight(&self) {
        loop {
            let (fences, empty) = {
                let mut state = self.state.lock();
                // They end with the endpoint, whose operations have no order among each other any more.
                let fences = state.take_fences();
                // Dropped here: it is only a record.
                let empty = state.in_flight.pop().is_none();
                (fences, empty)
            };
            self.end_fences(fences);
            if empty {
                return;
            }
        }
    }
}
