// SPDX-License-Identifier: GPL-2.0-only

//! Operations: from acceptance to their one completion.

use super::{
    flying::Flying,
    op::{Between, Direction, Op, Posted},
    Endpoint, Phase, Shared, State,
};
use crate::{
    channel::Ticket,
    faults::FAULTS,
    kx::rdma::{connection::Connection, transfer::Transfer, Status},
    logic::{
        operation::{End, Operation},
        outcome::{Down, Outcome, State as Terminal},
        range::Pieces,
    },
    windows::WINDOWS,
};
use core::num::NonZero;
use kernel::prelude::*;

/// The outcome of what has nothing to fail at.
pub(super) const DONE: Outcome = Outcome {
    state: Terminal::Ok,
    errno: 0,
};

/// Most operations that wait in one endpoint for credits or room.
const MAX_QUEUED: u32 = 4096;

/// Why an operation ended without the provider.
enum Unposted {
    /// The provider, or the grant, refused it.
    Refused(Error),
    /// A fence behind nothing.
    Done,
}

impl Endpoint {
    /// Takes an operation over. Its completion comes whatever happens.
    pub(crate) fn submit(&self, mut ticket: Ticket, op: Op) {
        ticket.on(self.record());
        if let Some(outcome) = op.revoked().filter(|_| !self.is_down()) {
            return ticket.complete(outcome);
        }
        let deadline = ticket.deadline();
        let transfer = match build(ticket, op, self.connection.reads_alone()) {
            Ok(transfer) => transfer,
            Err((ticket, error)) => return ticket.fail(error),
        };
        let refused = {
            let mut state = self.shared.state.lock();
            match state.phase {
                Phase::Down(cause) => Some((transfer, Ok(cause.outcome()))),
                // Under the lock: what comes later is not swept out of the queue any more.
                _ if transfer
                    .body()
                    .is_some_and(|posted| posted.op.is_memory_gone()) =>
                {
                    Some((transfer, Ok(End::Revoked.outcome())))
                }
                _ if state.queued >= MAX_QUEUED => Some((transfer, Err(ENOBUFS))),
                Phase::Connecting | Phase::Up => {
                    state.pending.push_back(transfer);
                    state.queued += 1;
                    state.in_flight += 1;
                    None
                }
            }
        };
        match refused {
            Some((transfer, Ok(outcome))) => cut_off(transfer, outcome),
            Some((transfer, Err(error))) => {
                if let Some(Posted { ticket, op, .. }) = Transfer::into_body(transfer) {
                    ticket.fail(error);
                    drop(op);
                }
            }
            None => {
                self.arm(deadline);
                self.shared.pump(&self.connection);
            }
        }
    }

    /// The outcome of what is submitted after the end.
    pub(crate) fn down_outcome(&self) -> Outcome {
        self.shared.down_cause().outcome()
    }
}

/// Completes an operation that was never posted.
pub(super) fn cut_off(transfer: KBox<Transfer<Posted>>, outcome: Outcome) {
    if let Some(posted) = Transfer::into_body(transfer) {
        let Posted {
            ticket,
            op,
            mut life,
            ..
        } = posted;
        if let Some(outcome) = life.cut(outcome) {
            ticket.complete(outcome);
        }
        // The memory goes after the completion is posted, and without locks.
        drop(op);
    }
}

type Built = core::result::Result<KBox<Transfer<Posted>>, (Ticket, Error)>;

/// Cuts an operation into work requests.
#[allow(clippy::result_large_err)] // Reason: what fails is the ticket itself, which goes on to say so.
fn build(ticket: Ticket, op: Op, reads_alone: bool) -> Built {
    // An allocation failure drops the ticket, which would say "canceled": so the box comes first.
    let mut transfer = match Transfer::empty() {
        Ok(transfer) => transfer,
        Err(error) => return Err((ticket, error)),
    };
    let mut unannounced = false;
    if let Op::Transfer(between) = &op {
        if let Err(error) = cut(&mut transfer, between) {
            return Err((ticket, error));
        }
        match between.direction {
            Direction::Write => {}
            Direction::WriteImm(imm) => {
                transfer.set_immediate(imm);
                unannounced = transfer.count() > 1;
            }
            Direction::Read => transfer.set_read(reads_alone),
        }
    }
    let posted = Posted {
        unannounced,
        ticket,
        op,
        life: Operation::new(),
        id: 0,
    };
    Ok(Transfer::fill(transfer, posted))
}

fn cut(transfer: &mut Transfer<Posted>, between: &Between) -> Result {
    let local = NonZero::new(between.region.segment_bytes()).ok_or(EINVAL)?;
    let remote = NonZero::new(between.grant.segment_bytes()).ok_or(EINVAL)?;
    let (offset, remote_offset) = (between.offset, between.remote_offset);
    let pieces = Pieces::new(offset, local, remote_offset, remote, between.length.into());
    for piece in pieces {
        let key = |keys: &[u32], at: u64| keys.get(usize::try_from(at).ok()?).copied();
        let (lkey, rkey) = key(between.region.keys(), piece.local_segment)
            .zip(key(between.grant.keys(), piece.remote_segment))
            .ok_or(EINVAL)?;
        transfer.push(&piece, lkey, rkey)?;
    }
    Ok(())
}

impl Shared {
    /// Sends what may be sent: messages, then operations in order. Called after whatever may have made room.
    pub(super) fn pump(&self, connection: &Connection<Self>) {
        loop {
            let (unposted, broken) = {
                let mut state = self.state.lock();
                if !matches!(state.phase, Phase::Up) {
                    return;
                }
                state.frozen |= FAULTS.freeze.fires();
                if state.frozen {
                    return;
                }
                if state.send_messages(connection) {
                    self.changed.notify_all();
                }
                let unposted = state.send_operations(connection);
                if unposted.is_some() {
                    state.in_flight = state.in_flight.saturating_sub(1);
                }
                (unposted, state.broken)
            };
            if broken {
                self.go_down(Down::Transfer);
                self.hurry();
            }
            // Completed outside the lock: dropping memory may sleep.
            let Some((transfer, why)) = unposted else {
                return;
            };
            let Some(Posted { ticket, op, .. }) = Transfer::into_body(transfer) else {
                continue;
            };
            match why {
                Unposted::Done => ticket.complete(DONE),
                Unposted::Refused(error) => match op.revoked() {
                    Some(outcome) => ticket.complete(outcome),
                    None if error == ESHUTDOWN => ticket.complete(self.down_cause().outcome()),
                    None => ticket.fail(error),
                },
            }
            drop(op);
        }
    }

    /// Completes an operation that the provider has given back, and the fences behind it.
    pub(super) fn finish(&self, posted: Posted, status: Status) {
        let Posted {
            mut ticket, op, id, ..
        } = posted;
        WINDOWS.landed.pass();
        let (outcome, fences) = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if let Some(grant) = op.grant() {
                if grant.finish() {
                    if !grant.is_revoked() {
                        // Used up. The operation keeps its own reference, so that nothing goes under the lock.
                        let _gone = state.grants.revoked(grant.number());
                    }
                    // Without room the peer has revoked more than it granted, and will wait in vain.
                    let _ = state.outbox.push_revoked(grant.number());
                }
            }
            if status.is_not_ready() {
                state.not_ready += 1;
            }
            let down = match state.phase {
                Phase::Down(cause) => Some(cause),
                Phase::Connecting | Phase::Up => None,
            };
            let completion = status.completion();
            let revoked = op.grant().is_some_and(|grant| grant.is_revoked());
            let outcome = state
                .landed(id)
                .and_then(|mut life| life.finish(completion, down, revoked))
                .unwrap_or_else(|| completion.outcome(down, revoked));
            state.in_flight = state.in_flight.saturating_sub(1);
            (outcome, state.fences_reached())
        };
        ticket.set_length(op.length());
        ticket.set_provider_status(status.raw());
        ticket.complete(outcome);
        // The memory goes after the completion is posted, and without locks.
        drop(op);
        self.end_fences(fences);
    }

    /// Completes what was never posted. The endpoint is down.
    pub(super) fn fail_pending(&self) {
        loop {
            let transfer = {
                let mut state = self.state.lock();
                let transfer = state.pending.pop();
                if transfer.is_some() {
                    state.queued = state.queued.saturating_sub(1);
                    state.in_flight = state.in_flight.saturating_sub(1);
                }
                transfer
            };
            let Some(transfer) = transfer else { return };
            cut_off(transfer, self.down_cause().outcome());
        }
    }

    pub(super) fn down_cause(&self) -> Down {
        self.down().unwrap_or(Down::Peer)
    }
}

impl State {
    /// Posts operations in order as long as credits, the window and room last. One that ends without the provider is
    /// given back.
    fn send_operations(
        &mut self,
        connection: &Connection<Shared>,
    ) -> Option<(KBox<Transfer<Posted>>, Unposted)> {
        while let Some(front) = self.pending.front() {
            let requests = front.count();
            let Posted { op, .. } = front.body()?;
            if op.revoked().is_some() {
                return Some((self.unqueue()?, Unposted::Refused(EACCES)));
            }
            if self.flying.is_full() {
                return None;
            }
            let is_fence = matches!(op, Op::Fence);
            if is_fence {
                let fence = self.unqueue()?;
                if self.flying.len() == 0 {
                    return Some((fence, Unposted::Done));
                }
                // There is room, see above.
                let _ = self.flying.push(Flying::Fence(fence));
                continue;
            }
            let (needs_credit, is_send) = (op.needs_credit(), matches!(op, Op::Send(_)));
            let needs_credit = needs_credit && !FAULTS.credit_forged.fires();
            if needs_credit && self.flow.send_credits() == 0 {
                self.begin_stall();
                return None;
            }
            self.end_stall();
            if !self.window.admits(requests.max(1) as u32) {
                return None;
            }
            let refused = if is_send {
                self.post_send(connection)?
            } else {
                self.post_transfer(connection)?
            };
            if let Some((mut transfer, error)) = refused {
                if let Some(posted) = transfer.body_mut() {
                    posted.ticket.set_posted(None);
                }
                if error != EAGAIN {
                    return Some((transfer, Unposted::Refused(error)));
                }
                self.pending.push_front(transfer);
                self.queued += 1;
                return None;
            }
            if needs_credit {
                // There was one, under this same lock.
                let _spent = self.flow.take_data();
            }
        }
        None
    }

    fn unqueue(&mut self) -> Option<KBox<Transfer<Posted>>> {
        let transfer = self.pending.pop()?;
        self.queued = self.queued.saturating_sub(1);
        Some(transfer)
    }

    /// Posts the transfer at the front; `None` when it has to wait, else what was refused, if it was.
    #[allow(clippy::type_complexity)] // Reason: said in the line above.
    fn post_transfer(
        &mut self,
        connection: &Connection<Shared>,
    ) -> Option<Option<(KBox<Transfer<Posted>>, Error)>> {
        let mut transfer = self.unqueue()?;
        let requests = transfer.count() as u32;
        let id = self.next_id;
        let posted = transfer.body_mut()?;
        posted.id = id;
        let grant = posted.op.grant().cloned();
        let (unannounced, length) = (posted.unannounced, posted.op.length());
        let flying = Flying::of(posted, requests);
        if unannounced {
            // Announced only when it can be posted in the same breath: nothing may come between.
            let ready = connection.room_for(transfer.count());
            if !ready || !self.announce(connection, length) {
                return Some(Some((transfer, EAGAIN)));
            }
            if let Some(posted) = transfer.body_mut() {
                posted.unannounced = false;
            }
        }
        match connection.post(transfer) {
            Ok(posted) => {
                if let Some(grant) = grant {
                    grant.begin();
                }
                self.broken |= matches!(posted, crate::kx::rdma::connection::Posted::InPart);
                self.took_off(flying, requests);
                Some(None)
            }
            Err((error, transfer)) => {
                // The peer would take the length for that of the next operation.
                self.broken |= unannounced;
                Some(Some((transfer, error)))
            }
        }
    }

    /// Posts the SEND at the front, as above.
    #[allow(clippy::type_complexity)] // Reason: as above.
    fn post_send(
        &mut self,
        connection: &Connection<Shared>,
    ) -> Option<Option<(KBox<Transfer<Posted>>, Error)>> {
        // Neither within a READ, nor between its steps.
        if !connection.can_send_message() || !connection.room_for(0) {
            return None;
        }
        let mut transfer = self.unqueue()?;
        let id = self.next_id;
        let posted = transfer.body_mut()?;
        posted.id = id;
        let Op::Send(payload) = &posted.op else {
            return Some(Some((transfer, EINVAL)));
        };
        let payload = **payload;
        let flying = Flying::of(posted, 1);
        match self.send_payload(connection, payload) {
            Ok(slot) => {
                if let Some(place) = self.senders.get_mut(usize::from(slot)) {
                    *place = Some(transfer);
                }
                self.took_off(flying, 1);
                Some(None)
            }
            Err(error) => Some(Some((transfer, error))),
        }
    }
}
