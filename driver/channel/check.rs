// SPDX-License-Identifier: GPL-2.0-only

//! Which members an entry may use: the first check of what came from user space. Uses nothing of the kernel, so that
//! the host can fuzz this very file (`logic/fuzz`).

use crate::uapi::{self, Sqe};

/// Longest time limit of an operation, in nanoseconds: a day.
pub(crate) const MAX_TIMEOUT_NS: u64 = 86_400_000_000_000;

/// Which members an operation uses beyond `op`, `user_data` and `trace_id`.
struct Uses {
    endpoint: bool,
    buffer: bool,
    grant: bool,
    offset: bool,
    remote: bool,
    length: bool,
    imm: bool,
    timeout: bool,
    flags: u8,
}

impl Uses {
    const NONE: Self = Self {
        endpoint: false,
        buffer: false,
        grant: false,
        offset: false,
        remote: false,
        length: false,
        imm: false,
        timeout: false,
        flags: 0,
    };
    const TRANSFER: Self = Self {
        endpoint: true,
        buffer: true,
        grant: true,
        offset: true,
        remote: true,
        length: true,
        timeout: true,
        ..Self::NONE
    };

    /// `None` for an unknown operation.
    fn of(op: u8) -> Option<Self> {
        Some(match op {
            uapi::OP_NOP => Self::NONE,
            uapi::OP_RECV => Self {
                grant: false,
                remote: false,
                ..Self::TRANSFER
            },
            uapi::OP_WRITE | uapi::OP_READ => Self::TRANSFER,
            uapi::OP_WRITE_IMM => Self {
                imm: true,
                ..Self::TRANSFER
            },
            uapi::OP_SEND => Self {
                grant: false,
                remote: false,
                imm: true,
                ..Self::TRANSFER
            },
            uapi::OP_COPY => Self {
                endpoint: false,
                timeout: false,
                ..Self::TRANSFER
            },
            uapi::OP_FENCE => Self {
                endpoint: true,
                timeout: true,
                ..Self::NONE
            },
            uapi::OP_CANCEL => Self {
                endpoint: true,
                buffer: true,
                offset: true,
                flags: uapi::SQE_CANCEL_ENDPOINT | uapi::SQE_CANCEL_ALL | uapi::SQE_CANCEL_QUEUED,
                ..Self::NONE
            },
            uapi::OP_WATCH => Self {
                endpoint: true,
                buffer: true,
                grant: true,
                offset: true,
                length: true,
                imm: true,
                timeout: true,
                ..Self::NONE
            },
            _ => return None,
        })
    }
}

/// Refuses members that the operation does not use and flags that it does not have. The error is the refused member,
/// one of `FIELD_*`; the entry fails with `EINVAL`.
pub(crate) fn check(entry: &Sqe) -> Result<(), u16> {
    let Some(uses) = Uses::of(entry.op) else {
        return Err(uapi::FIELD_OP);
    };
    if entry.flags & !uses.flags != 0 {
        return Err(uapi::FIELD_FLAGS);
    }
    let members = [
        (uses.endpoint, u64::from(entry.endpoint)),
        (uses.buffer, entry.buffer.into()),
        (uses.grant, entry.grant.into()),
        (uses.offset, entry.offset),
        (uses.remote, entry.remote_offset),
        (uses.length, entry.length.into()),
        (uses.imm, entry.imm.into()),
        (false, entry.reserved.into()),
    ];
    if members.iter().any(|(used, value)| !used && *value != 0) {
        return Err(uapi::FIELD_RESERVED);
    }
    if entry.timeout_ns > MAX_TIMEOUT_NS || (!uses.timeout && entry.timeout_ns != 0) {
        return Err(uapi::FIELD_TIMEOUT);
    }
    if entry.op == uapi::OP_CANCEL {
        check_cancel(entry)?;
    }
    let of_buffer = entry.op == uapi::OP_WATCH && entry.buffer != 0;
    if of_buffer && (entry.endpoint != 0 || entry.grant != 0) {
        return Err(uapi::FIELD_BUFFER);
    }
    if of_buffer && entry.timeout_ns != 0 {
        return Err(uapi::FIELD_TIMEOUT);
    }
    let of_grant = entry.op == uapi::OP_WATCH && (entry.grant != 0 || of_buffer);
    if of_grant && (entry.offset != 0 || entry.length != 0 || entry.imm != 0) {
        return Err(uapi::FIELD_RESERVED);
    }
    Ok(())
}

fn check_cancel(entry: &Sqe) -> Result<(), u16> {
    let all = entry.flags & uapi::SQE_CANCEL_ALL != 0;
    let endpoint = entry.flags & uapi::SQE_CANCEL_ENDPOINT != 0;
    if all && endpoint {
        return Err(uapi::FIELD_FLAGS);
    }
    if (all || endpoint) && entry.offset != 0 {
        return Err(uapi::FIELD_OFFSET);
    }
    if all && entry.endpoint != 0 {
        return Err(uapi::FIELD_ENDPOINT);
    }
    if entry.buffer != 0 && (all || endpoint || entry.endpoint != 0) {
        return Err(uapi::FIELD_BUFFER);
    }
    Ok(())
}
