// SPDX-License-Identifier: GPL-2.0-only

//! Operations: from acceptance to their one completion.

use super::{
    ending::run_by,
    in_flight::InFlight,
    op::{Direction, Fenced, Op, OpState, TransferOp},
    Endpoint, Phase, Shared, State,
};
use crate::{
    base::{delay_points::DELAY_POINTS, faults::FAULTS},
    channel::Ticket,
    kx::rdma::{connection::Connection, transfer::Transfer, Status},
    logic::{
        operation::{End, Operation},
        outcome::{Down, Outcome, State as Terminal},
        pace::Admission,
        range::Pieces,
    },
};
use core::num::NonZero;
use kernel::{
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// The outcome of what cannot fail.
pub(super) const DONE: Outcome = Outcome {
    state: Terminal::Ok,
    errno: 0,
};

/// Most operations that wait in one endpoint for credits or room.
const MAX_QUEUED: u32 = 4096;

/// Time between two checks whether other devices use an operation's memory, in milliseconds.
const FENCE_LOOK_MS: i64 = 2;

/// When to check again.
pub(super) fn next_fence_look() -> Instant<Monotonic> {
    Instant::now() + Delta::from_millis(FENCE_LOOK_MS)
}

/// Why an operation ended without the provider.
enum Unposted {
    /// The provider, or the grant, refused it.
    Refused(Error),
    /// Its memory could not be registered.
    Unregistered(Error),
    /// It is a fence with nothing ahead of it.
    Done,
}

impl Endpoint {
    /// Accepts an operation. It completes whatever happens.
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
                // Checked under the lock: the sweep of a revocation misses operations that are queued later.
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
                    state.outstanding += 1;
                    None
                }
            }
        };
        match refused {
            Some((transfer, Ok(outcome))) => cut_off(transfer, outcome),
            Some((transfer, Err(error))) => {
                if let Some(OpState { ticket, op, .. }) = Transfer::into_body(transfer) {
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

    /// The outcome of an operation that is submitted after the end.
    pub(crate) fn down_outcome(&self) -> Outcome {
        self.shared.down_cause().outcome()
    }
}

/// Completes an operation that was never posted.
pub(super) fn cut_off(transfer: KBox<Transfer<OpState>>, outcome: Outcome) {
    if let Some(posted) = Transfer::into_body(transfer) {
        let OpState {
            ticket,
            op,
            mut life,
            ..
        } = posted;
        if let Some(outcome) = life.cut(outcome) {
            ticket.complete(outcome);
        }
        // The memory is released after the completion is posted, without locks.
        drop(op);
    }
}

type Built = core::result::Result<KBox<Transfer<OpState>>, (Ticket, Error)>;

/// Splits an operation into work requests.
#[allow(clippy::result_large_err)] // Reason: the error has the ticket, which reports it.
fn build(ticket: Ticket, op: Op, reads_alone: bool) -> Built {
    // The box comes first: a failure to allocate it later would drop the ticket, which would report "canceled".
    let mut transfer = match Transfer::empty() {
        Ok(transfer) => transfer,
        Err(error) => return Err((ticket, error)),
    };
    let mut unannounced = false;
    if let Op::Transfer(transfer_op) = &op {
        if let Err(error) = cut(&mut transfer, transfer_op) {
            return Err((ticket, error));
        }
        match transfer_op.direction {
            Direction::Write => {}
            Direction::WriteImm(imm) => {
                transfer.set_immediate(imm);
                unannounced = transfer.count() > 1;
            }
            Direction::Read => transfer.set_read(reads_alone),
        }
    }
    let posted = OpState {
        unannounced,
        announced: false,
        ticket,
        op,
        life: Operation::new(),
        id: 0,
        fenced: None,
    };
    Ok(Transfer::fill(transfer, posted))
}

fn cut(transfer: &mut Transfer<OpState>, op: &TransferOp) -> Result {
    let local = NonZero::new(op.region.segment_bytes()).ok_or(EINVAL)?;
    let remote = NonZero::new(op.grant.segment_bytes()).ok_or(EINVAL)?;
    let (offset, remote_offset) = (op.offset, op.remote_offset);
    let pieces = Pieces::new(offset, local, remote_offset, remote, op.length.into());
    for piece in pieces {
        let key = |keys: &[u32], at: u64| keys.get(usize::try_from(at).ok()?).copied();
        let (lkey, rkey) = key(op.region.keys(), piece.local_segment)
            .zip(key(op.grant.keys(), piece.remote_segment))
            .ok_or(EINVAL)?;
        transfer.push(&piece, lkey, rkey)?;
    }
    Ok(())
}

impl Shared {
    /// Sends messages, then operations in order, as far as possible. Called after anything that may have made room.
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
                    self.changed.wake_all();
                }
                let unposted = state.send_operations(connection);
                if unposted.is_some() {
                    state.outstanding = state.outstanding.saturating_sub(1);
                    state.ending += 1;
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
            self.end_unposted(transfer, why);
            self.ended();
        }
    }

    /// Completes an operation that ended without the provider.
    fn end_unposted(&self, transfer: KBox<Transfer<OpState>>, why: Unposted) {
        let Some(OpState { ticket, op, .. }) = Transfer::into_body(transfer) else {
            return;
        };
        match why {
            Unposted::Done => ticket.complete(DONE),
            // Registration failed before the disconnect event arrived.
            Unposted::Unregistered(error) if error == ENOTCONN => ticket.fail(EIO),
            Unposted::Unregistered(error) => ticket.fail(error),
            Unposted::Refused(error) => match op.revoked() {
                Some(outcome) => ticket.complete(outcome),
                None if error == ESHUTDOWN => ticket.complete(self.down_cause().outcome()),
                None => ticket.fail(error),
            },
        }
        drop(op);
    }

    /// Completes an operation that the provider has returned, and the fences behind it.
    pub(super) fn finish(&self, posted: OpState, status: Status) {
        let OpState {
            mut ticket, op, id, ..
        } = posted;
        DELAY_POINTS.work_completed.pass();
        let (outcome, gone) = {
            let mut state = self.state.lock();
            let state = &mut *state;
            let mut gone = None;
            if let Some(grant) = op.grant() {
                if grant.finish() {
                    if !grant.is_revoked() {
                        // Used up.
                        gone = state.grants.revoked(grant.number());
                    }
                    // If there is no room, the peer has revoked more than it granted, and waits in vain.
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
            state.step_over_of(id);
            let completion = status.completion();
            let revoked = op.grant().is_some_and(|grant| grant.is_revoked());
            let outcome = state
                .mark_completed(id)
                .and_then(|mut life| life.finish(completion, down, revoked))
                .unwrap_or_else(|| completion.outcome(down, revoked));
            state.outstanding = state.outstanding.saturating_sub(1);
            state.ending += 1;
            (outcome, gone)
        };
        // Not under the lock: its keys may be many pages.
        drop(gone);
        ticket.set_length(op.length());
        ticket.set_provider_status(status.raw());
        ticket.complete(outcome);
        // The memory is released after the completion is posted, without locks.
        drop(op);
        self.ended();
    }

    /// Completes operations that were never posted. The endpoint is down.
    pub(super) fn fail_pending(&self) {
        loop {
            let transfer = {
                let mut state = self.state.lock();
                let transfer = state.pending.pop();
                if transfer.is_some() {
                    state.queued = state.queued.saturating_sub(1);
                    state.outstanding = state.outstanding.saturating_sub(1);
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
    /// Posts operations in order as long as credits, the window and room last. Returns one that ends without the
    /// provider.
    fn send_operations(
        &mut self,
        connection: &Connection<Shared>,
    ) -> Option<(KBox<Transfer<OpState>>, Unposted)> {
        // Behind an operation that was posted in part, the peer would take its announced length for the next one's.
        while let Some(front) = self
            .pending
            .front()
            .filter(|_| !self.withdrawing && !self.broken)
        {
            let requests = front.count();
            let OpState { op, .. } = front.body()?;
            if op.revoked().is_some() {
                return Some((self.unqueue()?, Unposted::Refused(EACCES)));
            }
            if self.in_flight.is_full() {
                return None;
            }
            let is_fence = matches!(op, Op::Fence);
            if is_fence {
                let fence = self.unqueue()?;
                if self.in_flight.len() == 0 && self.ending == 0 {
                    return Some((fence, Unposted::Done));
                }
                // There is room: that was checked above.
                let _ = self.in_flight.push(InFlight::Fence(fence));
                continue;
            }
            match op.registration() {
                Some(Ok(())) => {}
                Some(Err(error)) => return Some((self.unqueue()?, Unposted::Unregistered(error))),
                // The end of the registration calls this again.
                None => return None,
            }
            match self.pending.front_mut()?.body_mut()?.look_at_fences() {
                Fenced::No => self.fenced = false,
                Fenced::Yes => {
                    self.look_again();
                    return None;
                }
                Fenced::TooLong => return Some((self.unqueue()?, Unposted::Refused(ETIMEDOUT))),
            }
            let OpState { op, .. } = self.pending.front()?.body()?;
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
                // There is one: that was checked under this lock.
                let _spent = self.flow.take_data();
            }
        }
        if self.pending.front().is_none() {
            // What waited for credits has ended without one.
            self.end_stall();
        }
        None
    }

    /// Makes the timer check soon whether other devices have finished with the memory of the first operation. Nothing
    /// else reports that.
    fn look_again(&mut self) {
        self.fenced = true;
        if let Some(timer) = &self.timer {
            run_by(timer, &mut self.next_expiry, next_fence_look());
        }
    }

    fn unqueue(&mut self) -> Option<KBox<Transfer<OpState>>> {
        let transfer = self.pending.pop()?;
        self.queued = self.queued.saturating_sub(1);
        Some(transfer)
    }

    /// Posts the transfer at the front. Returns `None` if it has to wait, otherwise the transfer if it was refused.
    #[allow(clippy::type_complexity)] // Reason: the line above explains it.
    fn post_transfer(
        &mut self,
        connection: &Connection<Shared>,
    ) -> Option<Option<(KBox<Transfer<OpState>>, Error)>> {
        let mut transfer = self.unqueue()?;
        let is_write = transfer.body()?.op.is_write();
        if is_write {
            // Set by an attempt that came too early.
            transfer.set_write_steps(None);
        }
        let requests = transfer.count() as u32;
        let id = self.next_id;
        let posted = transfer.body_mut()?;
        posted.id = id;
        let grant = posted.op.grant().cloned();
        let length = posted.op.length();
        let steps = match is_write.then(|| self.pace.admits(length)) {
            Some(Admission::Wait) => {
                return Some(Some((transfer, EAGAIN)));
            }
            Some(Admission::Steps(size)) => Some(size),
            Some(Admission::Whole) | None => None,
        };
        // The peer's provider reports the last step's length only, as with several requests.
        posted.unannounced |= steps.is_some() && !posted.announced && posted.op.is_write_imm();
        let unannounced = posted.unannounced;
        let in_flight = InFlight::of(posted, requests);
        if unannounced {
            // Announced only if it can be posted right away: nothing may come between.
            let ready = connection.room_for(transfer.count());
            if !ready || !self.announce(connection, length) {
                return Some(Some((transfer, EAGAIN)));
            }
            if let Some(posted) = transfer.body_mut() {
                posted.unannounced = false;
                posted.announced = true;
            }
        }
        if is_write {
            transfer.set_write_steps(steps);
        }
        let bytes = steps.map_or(length, |_| transfer.step_bytes());
        let paced = is_write.then_some((bytes, steps.is_some()));
        match connection.post(transfer) {
            Ok(posted) => {
                if let Some(grant) = grant {
                    grant.begin();
                }
                self.broken |= matches!(posted, crate::kx::rdma::connection::Posted::InPart);
                self.mark_posted(in_flight, requests, paced);
                Some(None)
            }
            Err((error, transfer)) => {
                // The peer would take the announced length for that of the next operation.
                self.broken |= unannounced;
                Some(Some((transfer, error)))
            }
        }
    }

    /// Posts the SEND at the front. Returns the same as [`Self::post_transfer`].
    #[allow(clippy::type_complexity)] // Reason: as for `post_transfer()`.
    fn post_send(
        &mut self,
        connection: &Connection<Shared>,
    ) -> Option<Option<(KBox<Transfer<OpState>>, Error)>> {
        // Not during a READ, nor between its steps.
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
        let in_flight = InFlight::of(posted, 1);
        match self.send_payload(connection, payload) {
            Ok(slot) => {
                if let Some(place) = self.senders.get_mut(usize::from(slot)) {
                    *place = Some(transfer);
                }
                self.mark_posted(in_flight, 1, None);
                Some(None)
            }
            Err(error) => Some(Some((transfer, error))),
        }
    }
}
