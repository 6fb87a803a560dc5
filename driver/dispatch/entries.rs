// SPDX-License-Identifier: GPL-2.0-only

//! Checks the values of entries and looks up the objects that they name. Reads only the kernel's copy of an entry.

use super::Objects;
use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::faults::FAULTS,
    buffer::Part,
    channel::{Ticket, MAX_OP_BYTES},
    logic::{
        operation::End,
        range,
        wire::{Payload, SEND_BYTES},
    },
    rdma::{Direction, Endpoint, Target, TransferOp, Watched},
    uapi::{self, Sqe},
};
use kernel::prelude::*;

/// The refused member and the error.
pub(super) type Refusal = (u16, Error);

/// The error of a buffer whose memory is being revoked. [`refused`] gives such an entry the terminal state for that.
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

/// The transfer that a WRITE, WRITE_IMM or READ describes.
pub(super) fn transfer(
    objects: &impl Objects,
    endpoint: &Endpoint,
    entry: &Sqe,
) -> Result<TransferOp, Refusal> {
    let buffer = objects
        .buffer(entry.buffer)
        .map_err(at(uapi::FIELD_BUFFER))?;
    let grant = objects
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
    // Every transfer passes the point, also one that is inside: whoever fires all points finds it.
    let forged = FAULTS.range_forged.fires();
    if !range::within(entry.remote_offset, length, grant.length()) && !forged {
        return Err((uapi::FIELD_REMOTE_OFFSET, EINVAL));
    }
    let usable = buffer.memory().check_usable(entry.op == uapi::OP_READ);
    usable.map_err(at(uapi::FIELD_BUFFER))?;
    let (guard, region, start) =
        buffer
            .enter_region(endpoint)
            .map_err(|(part, error)| match part {
                Part::Buffer => (uapi::FIELD_BUFFER, error),
                Part::Region => (uapi::FIELD_NONE, error),
            })?;
    Ok(TransferOp {
        region,
        guard,
        grant,
        offset: start + entry.offset,
        remote_offset: entry.remote_offset,
        length: entry.length,
        direction,
    })
}

/// Carries out a COPY and returns the number of bytes copied.
pub(super) fn copy(objects: &impl Objects, entry: &Sqe) -> Result<u32, Refusal> {
    let from = objects
        .buffer(entry.buffer)
        .map_err(at(uapi::FIELD_BUFFER))?;
    let to = objects.buffer(entry.grant).map_err(at(uapi::FIELD_GRANT))?;
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
    // Declared before the guards, so that it ends after them.
    let _reading = from.access(false).map_err(at(uapi::FIELD_BUFFER))?;
    let _writing = to.access(true).map_err(at(uapi::FIELD_GRANT))?;
    let from = from.enter().map_err(at(uapi::FIELD_BUFFER))?;
    let to = to.enter().map_err(at(uapi::FIELD_GRANT))?;
    to.copy_from(entry.remote_offset, &from, entry.offset, bytes)
        .map_err(at(uapi::FIELD_NONE))?;
    Ok(entry.length)
}

/// The payload of a SEND, copied from its buffer now.
pub(super) fn payload(objects: &impl Objects, entry: &Sqe) -> Result<KBox<Payload>, Refusal> {
    let mut payload = KBox::new(
        Payload {
            imm: entry.imm,
            length: entry.length,
            bytes: [0; SEND_BYTES],
        },
        GFP_CHARGED,
    )
    .map_err(|_| (uapi::FIELD_NONE, ENOMEM))?;
    if entry.length == 0 && entry.buffer == 0 && entry.offset == 0 {
        // Only the immediate is sent.
        return Ok(payload);
    }
    let buffer = objects
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
    // Declared before the guard, so that it ends after it.
    let _reading = memory.access(false).map_err(at(uapi::FIELD_BUFFER))?;
    let guard = memory.enter().map_err(at(uapi::FIELD_BUFFER))?;
    guard.read(entry.offset, bytes);
    Ok(payload)
}

/// Where a RECV stores the bytes of a SEND; `None` without a buffer.
pub(super) fn target(objects: &impl Objects, entry: &Sqe) -> Result<Option<Target>, Refusal> {
    if entry.buffer == 0 {
        if entry.offset != 0 || entry.length != 0 {
            return Err((uapi::FIELD_RESERVED, EINVAL));
        }
        return Ok(None);
    }
    let buffer = objects
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
