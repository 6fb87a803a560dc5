// SPDX-License-Identifier: GPL-2.0-only

//! Operations: from acceptance to their one completion.

use super::{Endpoint, Phase, Shared, State};
use crate::{
    channel::Ticket,
    kx::rdma::{
        connection::{self, Connection},
        transfer::Transfer,
        Status,
    },
    logic::{
        outcome::{errno, Down, Outcome, State as Terminal},
        range::Pieces,
    },
    memory::Region,
    rdma::PeerGrant,
};
use core::num::NonZero;
use kernel::{prelude::*, sync::Arc};

/// The outcome of what the peer's revocation came before.
const REVOKED: Outcome = Outcome {
    state: Terminal::Revoked,
    errno: errno::EACCES,
};

/// A checked WRITE.
pub(crate) struct Op {
    /// The local memory on the endpoint's domain.
    pub(crate) region: Arc<Region>,
    /// The peer's memory.
    pub(crate) grant: Arc<PeerGrant>,
    /// Start in the local memory.
    pub(crate) offset: u64,
    /// Start in the grant.
    pub(crate) remote_offset: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// The immediate of a WRITE_IMM.
    pub(crate) imm: Option<u32>,
}

/// What an operation keeps until its completion. Field order is drop order: the user hears of it first, then the
/// memory may go.
pub(crate) struct Posted {
    ticket: Ticket,
    op: Op,
    /// Whether the peer has to be told the length first; see [`State::announce`].
    unannounced: bool,
}

impl Endpoint {
    /// Takes an operation over. Its completion comes whatever happens.
    pub(crate) fn submit(&self, ticket: Ticket, op: Op) {
        if op.grant.is_revoked() && !self.is_down() {
            return ticket.complete(REVOKED);
        }
        let transfer = match build(ticket, op) {
            Ok(transfer) => transfer,
            Err((ticket, error)) => return ticket.fail(error),
        };
        let refused = {
            let mut state = self.shared.state.lock();
            match state.phase {
                Phase::Down(cause) => Some((transfer, cause)),
                Phase::Connecting | Phase::Up => {
                    state.pending.push_back(transfer);
                    state.in_flight += 1;
                    None
                }
            }
        };
        match refused {
            Some((transfer, cause)) => cut_off(transfer, cause),
            None => self.shared.pump(&self.connection),
        }
    }

    /// Takes a receive over.
    pub(crate) fn post_receive(&self, ticket: Ticket) {
        let refused = {
            let mut state = self.shared.state.lock();
            if !state.receiving || matches!(state.phase, Phase::Down(_)) {
                Err((ticket, None))
            } else if !state.flow.post_receive() {
                Err((ticket, Some(ENOBUFS)))
            } else {
                // The depth bounds both, so that there is room.
                state
                    .receives
                    .push(ticket)
                    .map_err(|ticket| (ticket, Some(ENOBUFS)))
            }
        };
        match refused {
            Ok(()) => self.shared.pump(&self.connection),
            Err((ticket, Some(error))) => ticket.fail(error),
            Err((ticket, None)) => ticket.complete(self.shared.down_cause().outcome()),
        }
    }

    /// The outcome of what is submitted after the end.
    pub(crate) fn down_outcome(&self) -> Outcome {
        self.shared.down_cause().outcome()
    }
}

/// Completes an operation that was never posted.
fn cut_off(transfer: KBox<Transfer<Posted>>, cause: Down) {
    if let Some(Posted { ticket, op, .. }) = Transfer::into_body(transfer) {
        ticket.complete(cause.outcome());
        // The memory goes after the completion is posted, and without locks.
        drop(op);
    }
}

type Built = core::result::Result<KBox<Transfer<Posted>>, (Ticket, Error)>;

/// Cuts an operation into work requests.
fn build(ticket: Ticket, op: Op) -> Built {
    let sizes = NonZero::new(op.region.segment_bytes()).zip(NonZero::new(op.grant.segment_bytes()));
    let Some((local, remote)) = sizes else {
        return Err((ticket, EINVAL));
    };
    let length = op.length.into();
    let pieces = Pieces::new(op.offset, local, op.remote_offset, remote, length);
    let imm = op.imm;
    // An allocation failure drops the ticket, which would say "canceled": so the box comes first.
    let mut transfer = match Transfer::empty() {
        Ok(transfer) => transfer,
        Err(error) => return Err((ticket, error)),
    };
    for piece in pieces {
        let key = |keys: &[u32], at: u64| keys.get(usize::try_from(at).ok()?).copied();
        let keys = key(op.region.keys(), piece.local_segment)
            .zip(key(op.grant.keys(), piece.remote_segment))
            .ok_or(EINVAL);
        let pushed = keys.and_then(|(lkey, rkey)| transfer.push(&piece, lkey, rkey));
        if let Err(error) = pushed {
            return Err((ticket, error));
        }
    }
    if let Some(imm) = imm {
        transfer.set_immediate(imm);
    }
    let posted = Posted {
        unannounced: imm.is_some() && transfer.count() > 1,
        ticket,
        op,
    };
    Ok(Transfer::fill(transfer, posted))
}

impl Shared {
    /// Sends what may be sent: messages, then operations in order. Called after whatever may have made room.
    pub(super) fn pump(&self, connection: &Connection<Self>) {
        loop {
            let (refused, broken) = {
                let mut state = self.state.lock();
                if !matches!(state.phase, Phase::Up) {
                    return;
                }
                if state.send_messages(connection) {
                    self.changed.notify_all();
                }
                (state.send_operations(connection), state.broken)
            };
            if broken {
                self.go_down(Down::Transfer);
            }
            // Completed outside the lock: dropping memory may sleep.
            let Some((transfer, error)) = refused else {
                return;
            };
            let Some(Posted { ticket, op, .. }) = Transfer::into_body(transfer) else {
                continue;
            };
            self.retire();
            if op.grant.is_revoked() {
                ticket.complete(REVOKED);
            } else if error == ESHUTDOWN {
                ticket.complete(self.down_cause().outcome());
            } else {
                ticket.fail(error);
            }
            drop(op);
        }
    }

    /// One operation fewer, just before its completion is posted.
    fn retire(&self) {
        let mut state = self.state.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    /// Completes an operation that the provider has given back.
    pub(super) fn finish(&self, posted: Posted, status: Status) {
        self.retire();
        let Posted { mut ticket, op, .. } = posted;
        let down = {
            let mut state = self.state.lock();
            if op.grant.finish() {
                // Without room the peer has revoked more than it granted, and will wait in vain.
                let _ = state.outbox.push_revoked(op.grant.number());
            }
            match state.phase {
                Phase::Down(cause) => Some(cause),
                Phase::Connecting | Phase::Up => None,
            }
        };
        ticket.set_length(op.length);
        ticket.set_provider_status(status.raw());
        ticket.complete(status.completion().outcome(down, op.grant.is_revoked()));
        // The memory goes after the completion is posted, and without locks.
        drop(op);
    }

    /// Completes what was never posted. The endpoint is down.
    pub(super) fn fail_pending(&self) {
        loop {
            let transfer = self.state.lock().pending.pop();
            let Some(transfer) = transfer else { return };
            self.retire();
            cut_off(transfer, self.down_cause());
        }
    }

    /// Completes the receives that nothing will consume any more.
    pub(super) fn end_receives(&self) {
        loop {
            let ticket = {
                let mut state = self.state.lock();
                state.receiving = false;
                state.receives.pop()
            };
            let Some(ticket) = ticket else { return };
            ticket.complete(self.down_cause().outcome());
        }
    }

    pub(super) fn down_cause(&self) -> Down {
        self.down().unwrap_or(Down::Peer)
    }
}

impl State {
    /// Posts operations in order as long as credits and room last. One that the provider refuses is given back.
    fn send_operations(
        &mut self,
        connection: &Connection<Shared>,
    ) -> Option<(KBox<Transfer<Posted>>, Error)> {
        while let Some(transfer) = self.pending.front() {
            let Posted { op, .. } = transfer.body()?;
            if op.grant.is_revoked() {
                return Some((self.pending.pop()?, EACCES));
            }
            let needs_credit = op.imm.is_some();
            if needs_credit && self.flow.send_credits() == 0 {
                return None;
            }
            let grant = op.grant.clone();
            let length = op.length;
            let mut transfer = self.pending.pop()?;
            let unannounced = transfer.body().is_some_and(|posted| posted.unannounced);
            if unannounced {
                // Announced only when it can be posted in the same breath: nothing may come between.
                let ready = connection.room_for(transfer.count());
                if !ready || !self.announce(connection, length) {
                    self.pending.push_front(transfer);
                    return None;
                }
                if let Some(posted) = transfer.body_mut() {
                    posted.unannounced = false;
                }
            }
            match connection.post(transfer) {
                Ok(posted) => {
                    grant.begin();
                    self.broken |= matches!(posted, connection::Posted::InPart);
                    if needs_credit {
                        // There was one, under this same lock.
                        let _spent = self.flow.take_data();
                    }
                }
                Err((error, transfer)) if error == EAGAIN => {
                    self.pending.push_front(transfer);
                    return None;
                }
                Err((error, transfer)) => return Some((transfer, error)),
            }
        }
        None
    }
}
