// SPDX-License-Identifier: GPL-2.0-only

//! Entries: what each operation does with the objects that its entry names.
//!
//! A channel hands over its copy of an entry and the ticket that completes it; who has the objects says so by
//! [`Objects`].

mod entries;

use crate::{
    base::delay_points::DELAY_POINTS,
    buffer::Buffer,
    channel::{check, Ticket},
    logic::outcome::{Outcome, State},
    rdma::{Endpoint, Grant, Op, PeerGrant, Selector},
    uapi::{self, Sqe},
};
use kernel::{prelude::*, sync::Arc};

/// Done, with nothing to fail at.
const DONE: Outcome = Outcome {
    state: State::Ok,
    errno: 0,
};

/// Who has the objects that entries name. A handle that names none of the kind gives `ENOENT`.
pub(crate) trait Objects {
    /// The buffer that a handle names.
    fn buffer(&self, handle: u32) -> Result<Arc<Buffer>>;
    /// The endpoint that a handle names.
    fn endpoint(&self, handle: u32) -> Result<Arc<Endpoint>>;
    /// The own grant that a handle names.
    fn grant(&self, handle: u32) -> Result<Arc<Grant>>;
    /// The peer's grant that a handle names.
    fn peer_grant(&self, handle: u32) -> Result<Arc<PeerGrant>>;
    /// Calls `look` for every endpoint, without a lock. May leave out one that is made meanwhile.
    fn each_endpoint(&self, look: impl FnMut(&Endpoint));
    /// Calls `look` for every buffer, likewise.
    fn each_buffer(&self, look: impl FnMut(&Buffer));
}

/// Carries out an entry, or starts to: the ticket completes it.
pub(crate) fn dispatch(objects: &impl Objects, mut ticket: Ticket, entry: &Sqe) {
    if let Err(field) = check::check(entry) {
        return ticket.refuse(field, EINVAL);
    }
    DELAY_POINTS.entry_accepted.pass();
    match entry.op {
        uapi::OP_NOP => ticket.complete(DONE),
        uapi::OP_CANCEL => cancel(objects, ticket, entry),
        uapi::OP_COPY => match entries::copy(objects, entry) {
            Ok(length) => {
                ticket.set_length(length);
                ticket.complete(DONE);
            }
            Err(refusal) => entries::refused(ticket, refusal),
        },
        uapi::OP_WATCH if entry.buffer != 0 => match objects.buffer(entry.buffer) {
            Ok(buffer) => buffer.watch(ticket),
            Err(error) => ticket.refuse(uapi::FIELD_BUFFER, error),
        },
        _ => match objects.endpoint(entry.endpoint) {
            Ok(endpoint) => on_endpoint(objects, &endpoint, ticket, entry),
            Err(error) => ticket.refuse(uapi::FIELD_ENDPOINT, error),
        },
    }
}

fn on_endpoint(objects: &impl Objects, endpoint: &Arc<Endpoint>, ticket: Ticket, entry: &Sqe) {
    let prepared = match entry.op {
        uapi::OP_RECV => match entries::target(objects, entry) {
            Ok(target) => return endpoint.post_receive(ticket, target),
            Err(refusal) => Err(refusal),
        },
        uapi::OP_WATCH if entry.grant != 0 => match objects.grant(entry.grant) {
            Ok(grant) if grant.is_of(endpoint) => return endpoint.watch_grant(ticket, &grant),
            Ok(_) => Err((uapi::FIELD_GRANT, EINVAL)),
            Err(error) => Err((uapi::FIELD_GRANT, error)),
        },
        uapi::OP_WATCH => match entries::watched(entry) {
            Ok(watched) => return endpoint.watch(ticket, watched),
            Err(refusal) => Err(refusal),
        },
        uapi::OP_FENCE => Ok(Op::Fence),
        uapi::OP_SEND => entries::payload(objects, entry).map(Op::Send),
        _ => entries::transfer(objects, endpoint, entry).map(Op::Transfer),
    };
    match prepared {
        Ok(op) => endpoint.submit(ticket, op),
        // Registration fails on an endpoint that went down meanwhile.
        Err((uapi::FIELD_NONE, _)) if endpoint.is_down() => {
            ticket.complete(endpoint.down_outcome());
        }
        // Registration failed before the disconnect event arrived.
        Err((uapi::FIELD_NONE, ENOTCONN)) => ticket.fail(EIO),
        Err(refusal) => entries::refused(ticket, refusal),
    }
}

fn cancel(objects: &impl Objects, mut ticket: Ticket, entry: &Sqe) {
    let spare = entry.flags & uapi::SQE_CANCEL_QUEUED != 0;
    let (mut ended, mut spared) = (0, 0);
    if entry.flags & uapi::SQE_CANCEL_ALL != 0 {
        objects.each_endpoint(|endpoint| {
            let tally = endpoint.cancel(&Selector::All, spare);
            ended += tally.ended;
            spared += tally.spared;
        });
        objects.each_buffer(|buffer| ended += buffer.cancel(None));
    } else if entry.buffer != 0 {
        let buffer = match objects.buffer(entry.buffer) {
            Ok(buffer) => buffer,
            Err(error) => return ticket.refuse(uapi::FIELD_BUFFER, error),
        };
        ended = buffer.cancel(Some(ticket.key_of(entry.offset)));
    } else {
        let endpoint = match objects.endpoint(entry.endpoint) {
            Ok(endpoint) => endpoint,
            Err(error) => return ticket.refuse(uapi::FIELD_ENDPOINT, error),
        };
        let selector = if entry.flags & uapi::SQE_CANCEL_ENDPOINT != 0 {
            Selector::All
        } else {
            Selector::One(ticket.key_of(entry.offset))
        };
        let tally = endpoint.cancel(&selector, spare);
        (ended, spared) = (tally.ended, tally.spared);
    }
    if ended == 0 {
        return ticket.fail(if spared > 0 { EBUSY } else { ENOENT });
    }
    ticket.set_length(ended);
    ticket.complete(DONE);
}
