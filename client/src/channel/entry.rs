// SPDX-License-Identifier: MIT OR Apache-2.0

//! Operations to submit.

use std::time::Duration;

use dmaplane_uapi as abi;

use crate::buffer::{Buffer, Source};
use crate::context::nanoseconds;
use crate::endpoint::Endpoint;
use crate::grant::{LocalGrant, Target};

/// One operation for a [`Channel`](crate::Channel).
///
/// It borrows nothing: the driver looks its handles up when it takes the entry, and an object that
/// is gone by then gives a completion with [`Field`](crate::Field) and `ENOENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an entry does nothing until it is pushed to a channel"]
pub struct Entry(abi::Sqe);

impl Entry {
    /// Does nothing and completes.
    #[inline]
    pub fn nop() -> Self {
        Self(abi::Sqe {
            op: abi::OP_NOP,
            ..Default::default()
        })
    }

    /// Takes the peer's next WRITE_IMM or SEND; the completion has its immediate and length.
    /// Without room for a SEND's bytes, see [`Entry::recv_into`], it fails and they are lost.
    ///
    /// Each receive is a credit for the peer. Receives complete in the order of posting.
    pub fn recv(endpoint: &Endpoint) -> Self {
        Self(abi::Sqe {
            op: abi::OP_RECV,
            endpoint: endpoint.raw_handle(),
            ..Default::default()
        })
    }

    /// Writes the range into the peer's memory. The peer is not notified.
    pub fn write(source: Source<'_>, target: Target<'_>) -> Self {
        Self(transfer(abi::OP_WRITE, source, target))
    }

    /// Writes the range into the peer's memory, then completes one of its receives with `imm`.
    ///
    /// Without a credit of the peer the operation waits in the driver.
    pub fn write_imm(source: Source<'_>, target: Target<'_>, imm: u32) -> Self {
        Self(abi::Sqe {
            imm,
            ..transfer(abi::OP_WRITE_IMM, source, target)
        })
    }

    /// As [`Entry::recv`], with room for a SEND's bytes.
    pub fn recv_into(endpoint: &Endpoint, target: Source<'_>) -> Self {
        Self(abi::Sqe {
            buffer: target.handle.raw(),
            offset: target.offset,
            length: target.length,
            ..Self::recv(endpoint).0
        })
    }

    /// Reads the peer's memory into the range; the grant must have [`Rights::READ`](crate::Rights::READ).
    pub fn read(target: Source<'_>, source: Target<'_>) -> Self {
        Self(transfer(abi::OP_READ, target, source))
    }

    /// Sends a few bytes and an immediate to one of the peer's receives.
    pub fn send(endpoint: &Endpoint, source: Source<'_>, imm: u32) -> Self {
        Self(abi::Sqe {
            op: abi::OP_SEND,
            endpoint: endpoint.raw_handle(),
            buffer: source.handle.raw(),
            offset: source.offset,
            length: source.length,
            imm,
            ..Default::default()
        })
    }

    /// Copies the range to `target`, from `target_offset` on, in the kernel.
    pub fn copy(source: Source<'_>, target: &Buffer, target_offset: u64) -> Self {
        Self(abi::Sqe {
            op: abi::OP_COPY,
            buffer: source.handle.raw(),
            grant: target.raw_handle(),
            offset: source.offset,
            remote_offset: target_offset,
            length: source.length,
            ..Default::default()
        })
    }

    /// Completes when everything that the endpoint accepted before, except receives, has completed.
    pub fn fence(endpoint: &Endpoint) -> Self {
        Self(abi::Sqe {
            op: abi::OP_FENCE,
            endpoint: endpoint.raw_handle(),
            ..Default::default()
        })
    }

    /// Cancels the first operation of the endpoint, pushed to the same channel, that carries `user_data`.
    pub fn cancel(endpoint: &Endpoint, user_data: u64) -> Self {
        Self(abi::Sqe {
            op: abi::OP_CANCEL,
            endpoint: endpoint.raw_handle(),
            offset: user_data,
            ..Default::default()
        })
    }

    /// Cancels all operations of the endpoint.
    pub fn cancel_endpoint(endpoint: &Endpoint) -> Self {
        Self(abi::Sqe {
            op: abi::OP_CANCEL,
            flags: abi::SQE_CANCEL_ENDPOINT,
            endpoint: endpoint.raw_handle(),
            ..Default::default()
        })
    }

    /// Cancels all operations of the context.
    pub fn cancel_all() -> Self {
        Self(abi::Sqe {
            op: abi::OP_CANCEL,
            flags: abi::SQE_CANCEL_ALL,
            ..Default::default()
        })
    }

    /// Limits a cancel to operations that are still queued. Those that the provider has go on, and so does the
    /// endpoint.
    pub fn queued_only(mut self) -> Self {
        self.0.flags |= abi::SQE_CANCEL_QUEUED;
        self
    }

    /// Completes after `count` arrivals whose masked immediate is `imm`.
    pub fn watch(endpoint: &Endpoint, imm: u32, mask: u32, count: u32) -> Self {
        Self(abi::Sqe {
            op: abi::OP_WATCH,
            endpoint: endpoint.raw_handle(),
            offset: mask.into(),
            length: count,
            imm,
            ..Default::default()
        })
    }

    /// Completes when nothing arrives in the grant's range any more; the completion's immediate says why.
    pub fn watch_grant(endpoint: &Endpoint, grant: &LocalGrant) -> Self {
        Self(abi::Sqe {
            op: abi::OP_WATCH,
            endpoint: endpoint.raw_handle(),
            grant: grant.raw_handle(),
            ..Default::default()
        })
    }

    /// Completes when the buffer's memory was revoked; the completion's immediate says why, see
    /// [`RevokeCause::from_raw`](crate::RevokeCause::from_raw).
    pub fn watch_buffer(buffer: &Buffer) -> Self {
        Self(abi::Sqe {
            op: abi::OP_WATCH,
            buffer: buffer.raw_handle(),
            ..Default::default()
        })
    }

    /// Cancels the first watch of the buffer, pushed to the same channel, that carries `user_data`.
    pub fn cancel_watch(buffer: &Buffer, user_data: u64) -> Self {
        Self(abi::Sqe {
            op: abi::OP_CANCEL,
            buffer: buffer.raw_handle(),
            offset: user_data,
            ..Default::default()
        })
    }

    /// Ends the operation after `limit`, rounded up to the resolution of the kernel's timer.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.0.timeout_ns = nanoseconds(limit).max(1);
        self
    }

    /// An entry as the interface has it, unchecked: the driver validates it.
    pub fn from_raw(sqe: abi::Sqe) -> Self {
        Self(sqe)
    }

    /// The entry as the interface has it.
    #[inline]
    pub fn raw(&self) -> &abi::Sqe {
        &self.0
    }

    /// A number that the completion returns.
    #[inline]
    pub fn user_data(mut self, user_data: u64) -> Self {
        self.0.user_data = user_data;
        self
    }

    /// A trace id that the completion returns and trace events show.
    pub fn trace_id(mut self, trace_id: u64) -> Self {
        self.0.trace_id = trace_id;
        self
    }
}

fn transfer(op: u8, source: Source<'_>, target: Target<'_>) -> abi::Sqe {
    abi::Sqe {
        op,
        endpoint: target.endpoint(),
        buffer: source.handle.raw(),
        grant: target.grant(),
        offset: source.offset,
        remote_offset: target.offset(),
        length: source.length,
        ..Default::default()
    }
}
