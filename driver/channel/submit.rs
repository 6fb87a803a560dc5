// SPDX-License-Identifier: GPL-2.0-only

//! Taking entries from the submission ring.
//!
//! The ring is in hostile hands: each entry is copied once and only the copy is looked at; the tail is
//! loaded once; the work of a call is bounded by the ring's size.

use super::{Channel, Ticket, SQ_HEAD, SQ_OFFSET, SQ_TAIL};
use crate::{
    context::Context,
    logic::{
        outcome::{Outcome, State},
        range, ring,
    },
    rdma::{Endpoint, Op},
    uapi::{self, Sqe},
};
use kernel::{prelude::*, sync::Arc};

/// Largest transfer of one operation, in bytes.
pub(crate) const MAX_OP_BYTES: u32 = 4 << 20;

/// Which member is wrong, and how.
type Refusal = (u16, Error);

impl Channel {
    /// Takes up to `wanted` entries. Stops early when no completion slot is free. `EINVAL` when the ring's
    /// indices make no sense and nothing was taken.
    pub(crate) fn submit(self: &Arc<Self>, context: &Context, wanted: u32) -> Result<u32> {
        let mut head = self.head.lock();
        let tail = self.memory.load_acquire(SQ_TAIL)?;
        let queued = ring::queued(*head, tail, self.sq_entries).map_err(|_| EINVAL)?;
        let mut taken = 0;
        while taken < wanted.min(queued) {
            match self.reserve() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if taken == 0 => return Err(error),
                Err(_) => break,
            }
            let place = ring::place(*head, self.sq_entries) as usize;
            // Inside the memory, by construction.
            let entry = self.memory.read(SQ_OFFSET + place * size_of::<Sqe>())?;
            *head = head.wrapping_add(1);
            taken += 1;
            // The place is free for the next entry before this one's completion can be seen.
            self.memory.store_release(SQ_HEAD, *head)?;
            dispatch(context, Ticket::new(self, &entry), &entry);
            if kernel::current!().signal_pending() {
                break;
            }
        }
        Ok(taken)
    }
}

fn dispatch(context: &Context, ticket: Ticket, entry: &Sqe) {
    if let Err((field, error)) = check_common(entry) {
        return ticket.refuse(field, error);
    }
    match entry.op {
        uapi::OP_NOP => nop(ticket, entry),
        uapi::OP_RECV => receive(context, ticket, entry),
        uapi::OP_WRITE | uapi::OP_WRITE_IMM => write(context, ticket, entry),
        _ => ticket.refuse(uapi::FIELD_OP, EINVAL),
    }
}

fn check_common(entry: &Sqe) -> Result<(), Refusal> {
    if entry.flags != 0 {
        return Err((uapi::FIELD_FLAGS, EINVAL));
    }
    if entry.reserved != 0 || entry.timeout_ns != 0 {
        return Err((uapi::FIELD_RESERVED, EINVAL));
    }
    let unused = match entry.op {
        uapi::OP_NOP | uapi::OP_RECV => {
            let endpoint = if entry.op == uapi::OP_NOP {
                entry.endpoint
            } else {
                0
            };
            u64::from(endpoint | entry.buffer | entry.grant | entry.length | entry.imm)
                | entry.offset
                | entry.remote_offset
        }
        uapi::OP_WRITE => entry.imm.into(),
        _ => 0,
    };
    if unused != 0 {
        return Err((uapi::FIELD_RESERVED, EINVAL));
    }
    Ok(())
}

fn nop(ticket: Ticket, _entry: &Sqe) {
    ticket.complete(Outcome {
        state: State::Ok,
        errno: 0,
    });
}

fn receive(context: &Context, ticket: Ticket, entry: &Sqe) {
    match context.endpoint(entry.endpoint) {
        Ok(endpoint) => endpoint.post_receive(ticket),
        Err(error) => ticket.refuse(uapi::FIELD_ENDPOINT, error),
    }
}

fn write(context: &Context, ticket: Ticket, entry: &Sqe) {
    let endpoint = match context.endpoint(entry.endpoint) {
        Ok(endpoint) => endpoint,
        Err(error) => return ticket.refuse(uapi::FIELD_ENDPOINT, error),
    };
    match prepare_write(context, &endpoint, entry) {
        Ok(op) => endpoint.submit(ticket, op),
        // Registration fails on an endpoint that went down meanwhile.
        Err((uapi::FIELD_NONE, _)) if endpoint.is_down() => {
            ticket.complete(endpoint.down_outcome());
        }
        Err((field, error)) => ticket.refuse(field, error),
    }
}

/// Checks an entry and finds what it names.
fn prepare_write(context: &Context, endpoint: &Endpoint, entry: &Sqe) -> Result<Op, Refusal> {
    let at = |field: u16| move |error: Error| (field, error);
    let buffer = context
        .buffer(entry.buffer)
        .map_err(at(uapi::FIELD_BUFFER))?;
    let grant = context
        .peer_grant(entry.grant)
        .map_err(at(uapi::FIELD_GRANT))?;
    if !endpoint.gave(&grant) {
        return Err((uapi::FIELD_GRANT, EINVAL));
    }
    if entry.length == 0 {
        return Err((uapi::FIELD_LENGTH, EINVAL));
    }
    if entry.length > MAX_OP_BYTES {
        return Err((uapi::FIELD_LENGTH, EMSGSIZE));
    }
    let length = u64::from(entry.length);
    if !range::within(entry.offset, length, buffer.memory().bytes()) {
        return Err((uapi::FIELD_OFFSET, EINVAL));
    }
    if !range::within(entry.remote_offset, length, grant.length()) {
        return Err((uapi::FIELD_REMOTE_OFFSET, EINVAL));
    }
    let region = buffer.region(endpoint).map_err(at(uapi::FIELD_NONE))?;
    Ok(Op {
        region,
        grant,
        offset: entry.offset,
        remote_offset: entry.remote_offset,
        length: entry.length,
        imm: (entry.op == uapi::OP_WRITE_IMM).then_some(entry.imm),
    })
}
