// SPDX-License-Identifier: GPL-2.0-only

//! Taking entries from the submission ring.
//!
//! The ring is in hostile hands: each entry is copied once and only the copy is looked at; the tail is
//! loaded once; the work of a call is bounded by the ring's size.

use super::{check::check, entries, Channel, Ticket, SQ_HEAD, SQ_TAIL};
use crate::{
    context::Context,
    logic::{
        outcome::{Outcome, State},
        ring,
    },
    rdma::{Endpoint, Op, Selector},
    uapi::{self, Sqe},
    windows::WINDOWS,
};
use kernel::{prelude::*, sync::Arc};

/// Done, with nothing to fail at.
const DONE: Outcome = Outcome {
    state: State::Ok,
    errno: 0,
};

impl Channel {
    /// Takes up to `wanted` entries. Stops early when no completion slot is free. `EINVAL` when the ring's
    /// indices make no sense and nothing was taken.
    pub(crate) fn submit(self: &Arc<Self>, context: &Context, wanted: u32) -> Result<u32> {
        self.submit_until(context, wanted, || false)
    }

    /// As [`Self::submit`]; ends early when `stop` says so, which is asked after each entry.
    pub(super) fn submit_until(
        self: &Arc<Self>,
        context: &Context,
        wanted: u32,
        stop: impl Fn() -> bool,
    ) -> Result<u32> {
        let mut head = self.head.lock();
        let tail = self.memory.load_acquire(SQ_TAIL)?;
        let queued = ring::queued(*head, tail, self.sq_entries).map_err(|_| EINVAL)?;
        let mut taken = 0;
        while taken < wanted.min(queued) {
            let limit = wanted.min(queued) - taken;
            // Those at the front that end at once, and the first one that does not.
            let run = match self.run(*head, limit) {
                Ok(run) => run,
                Err(error) if taken == 0 => return Err(error),
                Err(_) => break,
            };
            *head = head.wrapping_add(run.count);
            taken += run.count;
            if let Some(entry) = run.next {
                *head = head.wrapping_add(1);
                taken += 1;
                // The place is free for the next entry before this one's completion can be seen.
                self.memory.store_release(SQ_HEAD, *head)?;
                dispatch(context, Ticket::new(self, &entry), &entry);
            } else if run.count == 0 {
                // No completion slot is free.
                break;
            }
            if kernel::current!().signal_pending() || stop() {
                break;
            }
        }
        Ok(taken)
    }
}

fn dispatch(context: &Context, mut ticket: Ticket, entry: &Sqe) {
    if let Err(field) = check(entry) {
        return ticket.refuse(field, EINVAL);
    }
    WINDOWS.accepted.pass();
    match entry.op {
        uapi::OP_NOP => ticket.complete(DONE),
        uapi::OP_CANCEL => cancel(context, ticket, entry),
        uapi::OP_COPY => match entries::copy(context, entry) {
            Ok(length) => {
                ticket.set_length(length);
                ticket.complete(DONE);
            }
            Err(refusal) => entries::refused(ticket, refusal),
        },
        uapi::OP_WATCH if entry.buffer != 0 => match context.buffer(entry.buffer) {
            Ok(buffer) => buffer.watch(ticket),
            Err(error) => ticket.refuse(uapi::FIELD_BUFFER, error),
        },
        _ => match context.endpoint(entry.endpoint) {
            Ok(endpoint) => on_endpoint(context, &endpoint, ticket, entry),
            Err(error) => ticket.refuse(uapi::FIELD_ENDPOINT, error),
        },
    }
}

fn on_endpoint(context: &Context, endpoint: &Arc<Endpoint>, ticket: Ticket, entry: &Sqe) {
    let prepared = match entry.op {
        uapi::OP_RECV => match entries::target(context, entry) {
            Ok(target) => return endpoint.post_receive(ticket, target),
            Err(refusal) => Err(refusal),
        },
        uapi::OP_WATCH if entry.grant != 0 => match context.grant(entry.grant) {
            Ok(grant) if grant.is_of(endpoint) => return endpoint.watch_grant(ticket, &grant),
            Ok(_) => Err((uapi::FIELD_GRANT, EINVAL)),
            Err(error) => Err((uapi::FIELD_GRANT, error)),
        },
        uapi::OP_WATCH => match entries::watched(entry) {
            Ok(watched) => return endpoint.watch(ticket, watched),
            Err(refusal) => Err(refusal),
        },
        uapi::OP_FENCE => Ok(Op::Fence),
        uapi::OP_SEND => entries::payload(context, entry).map(Op::Send),
        _ => entries::between(context, endpoint, entry).map(Op::Transfer),
    };
    match prepared {
        Ok(op) => endpoint.submit(ticket, op),
        // Registration fails on an endpoint that went down meanwhile.
        Err((uapi::FIELD_NONE, _)) if endpoint.is_down() => {
            ticket.complete(endpoint.down_outcome());
        }
        // It was faster than what tells of the end.
        Err((uapi::FIELD_NONE, ENOTCONN)) => ticket.fail(EIO),
        Err(refusal) => entries::refused(ticket, refusal),
    }
}

fn cancel(context: &Context, mut ticket: Ticket, entry: &Sqe) {
    let spare = entry.flags & uapi::SQE_CANCEL_QUEUED != 0;
    let (mut ended, mut spared) = (0, 0);
    if entry.flags & uapi::SQE_CANCEL_ALL != 0 {
        context.each_endpoint(|endpoint| {
            let tally = endpoint.cancel(&Selector::All, spare);
            ended += tally.ended;
            spared += tally.spared;
        });
        context.each_buffer(|buffer| ended += buffer.cancel(None));
    } else if entry.buffer != 0 {
        let buffer = match context.buffer(entry.buffer) {
            Ok(buffer) => buffer,
            Err(error) => return ticket.refuse(uapi::FIELD_BUFFER, error),
        };
        ended = buffer.cancel(Some(ticket.key_of(entry.offset)));
    } else {
        let endpoint = match context.endpoint(entry.endpoint) {
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
