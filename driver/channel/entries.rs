// SPDX-License-Identifier: GPL-2.0-only

//! What entries may say, and what they name. Only ever looks at the kernel's copy of an entry.

use super::ticket::Ticket;
use crate::{
    context::Context,
    logic::{
        operation::End,
        range,
        wire::{Payload, SEND_BYTES},
    },
    memory::Part,
    rdma::{Between, Direction, Endpoint, Target, Watched},
    uapi::{self, Sqe},
};
use kernel::prelude::*;

/// Largest transfer of one operation, in bytes.
pub(crate) const MAX_OP_BYTES: u32 = 4 << 20;

/// Which member is wrong, and how.
pub(super) type Refusal = (u16, Error);

/// A member that names a buffer whose memory is being revoked: [`refused`] makes it the terminal state of its own.
const GONE: Error = ESTALE;

/// Ends an entry that was refused.
pub(super) fn refused(ticket: Ticket, (field, error): Refusal) {
    if error == GONE {
        ticket.complete(End::Revoked.outcome());
    } else {
        ticket.refuse(field, error);
    }
}

fn at(field: u16) -> impl Fn(Error) -> Refusal {
    move |error| (field, error)
}

/// What a WRITE, WRITE_IMM or READ names.
pub(super) fn between(
    context: &Context,
    endpoint: &Endpoint,
    entry: &Sqe,
) -> Result<Between, Refusal> {
    let buffer = context
        .buffer(entry.buffer)
        .map_err(at(uapi::FIELD_BUFFER))?;
    let grant = context
        .peer_grant(entry.grant)
        .map_err(at(uapi::FIELD_GRANT))?;
    if !endpoint.gave(&grant) {
        return Err((uapi::FIELD_GRANT, EINVAL));
    }
    let (direction, right) = match entry.op {
        uapi::OP_READ => (Direction::Read, uapi::RIGHT_READ),
        uapi::OP_WRITE_IMM => (Direction::WriteImm(entry.imm), uapi::RIGHT_WRITE),
        _ => (Direction::Write, uapi::RIGHT_WRITE),
    };
    if grant.rights() & right == 0 {
        return Err((uapi::FIELD_GRANT, EPERM));
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
    let ready = buffer.memory().wait_ready(entry.op == uapi::OP_READ);
    ready.map_err(at(uapi::FIELD_BUFFER))?;
    let (guard, region, start) = buffer
        .enter_region(endpoint)
        .map_err(|(part, error)| match part {
            Part::Buffer => (uapi::FIELD_BUFFER, error),
            Part::Region => (uapi::FIELD_NONE, error),
        })?;
    Ok(Between {
        region,
        guard,
        grant,
        offset: start + entry.offset,
        remote_offset: entry.remote_offset,
        length: entry.length,
        direction,
    })
}

/// Carries a COPY out: the bytes that it moved.
pub(super) fn copy(context: &Context, entry: &Sqe) -> Result<u32, Refusal> {
    let from = context
        .buffer(entry.buffer)
        .map_err(at(uapi::FIELD_BUFFER))?;
    let to = context.buffer(entry.grant).map_err(at(uapi::FIELD_GRANT))?;
    if entry.length == 0 {
        return Err((uapi::FIELD_LENGTH, EINVAL));
    }
    if entry.length > MAX_OP_BYTES {
        return Err((uapi::FIELD_LENGTH, EMSGSIZE));
    }
    let length = u64::from(entry.length);
    let (from, to) = (from.memory(), to.memory());
    if !range::within(entry.offset, length, from.bytes()) {
        return Err((uapi::FIELD_OFFSET, EINVAL));
    }
    if !range::within(entry.remote_offset, length, to.bytes()) {
        return Err((uapi::FIELD_REMOTE_OFFSET, EINVAL));
    }
    let bytes = entry.length as usize;
    // Ended after the guards.
    let _reading = from.access(false).map_err(at(uapi::FIELD_BUFFER))?;
    let _writing = to.access(true).map_err(at(uapi::FIELD_GRANT))?;
    let from = from.enter().map_err(at(uapi::FIELD_BUFFER))?;
    let to = to.enter().map_err(at(uapi::FIELD_GRANT))?;
    to.copy_from(entry.remote_offset, &from, entry.offset, bytes)
        .map_err(at(uapi::FIELD_NONE))?;
    Ok(entry.length)
}

/// The bytes of a SEND, copied now.
pub(super) fn payload(context: &Context, entry: &Sqe) -> Result<KBox<Payload>, Refusal> {
    let mut payload = KBox::new(
        Payload {
            imm: entry.imm,
            length: entry.length,
            bytes: [0; SEND_BYTES],
        },
        GFP_KERNEL,
    )
    .map_err(|_| (uapi::FIELD_NONE, ENOMEM))?;
    if entry.length == 0 && entry.buffer == 0 && entry.offset == 0 {
        // The immediate alone.
        return Ok(payload);
    }
    let buffer = context
        .buffer(entry.buffer)
        .map_err(at(uapi::FIELD_BUFFER))?;
    let Some(bytes) = payload.bytes.get_mut(..entry.length as usize) else {
        return Err((uapi::FIELD_LENGTH, EMSGSIZE));
    };
    let memory = buffer.memory();
    let empty = entry.length == 0 && entry.offset <= memory.bytes();
    if !empty && !range::within(entry.offset, entry.length.into(), memory.bytes()) {
        return Err((uapi::FIELD_OFFSET, EINVAL));
    }
    // Ended after the guard.
    let _reading = memory.access(false).map_err(at(uapi::FIELD_BUFFER))?;
    let guard = memory.enter().map_err(at(uapi::FIELD_BUFFER))?;
    guard.read(entry.offset, bytes);
    Ok(payload)
}

/// Where a RECV wants the bytes of a SEND.
pub(super) fn target(context: &Context, entry: &Sqe) -> Result<Option<Target>, Refusal> {
    if entry.buffer == 0 {
        if entry.offset != 0 || entry.length != 0 {
            return Err((uapi::FIELD_RESERVED, EINVAL));
        }
        return Ok(None);
    }
    let buffer = context
        .buffer(entry.buffer)
        .map_err(at(uapi::FIELD_BUFFER))?;
    let memory = buffer.memory();
    if entry.length == 0 {
        return Err((uapi::FIELD_LENGTH, EINVAL));
    }
    if !range::within(entry.offset, entry.length.into(), memory.bytes()) {
        return Err((uapi::FIELD_OFFSET, EINVAL));
    }
    if !memory.takes_messages() {
        return Err((uapi::FIELD_BUFFER, EOPNOTSUPP));
    }
    let guard = memory.enter().map_err(at(uapi::FIELD_BUFFER))?;
    Ok(Some(Target {
        guard,
        offset: entry.offset,
        length: entry.length,
    }))
}

/// What a WATCH of arrivals waits for.
pub(super) fn watched(entry: &Sqe) -> Result<Watched, Refusal> {
    let mask = u32::try_from(entry.offset).map_err(|_| (uapi::FIELD_OFFSET, EINVAL))?;
    if entry.length == 0 {
        return Err((uapi::FIELD_LENGTH, EINVAL));
    }
    if entry.imm & !mask != 0 {
        return Err((uapi::FIELD_IMM, EINVAL));
    }
    Ok(Watched::Arrivals {
        imm: entry.imm,
        mask,
        left: entry.length,
    })
}
