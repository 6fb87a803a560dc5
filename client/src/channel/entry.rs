// SPDX-License-Identifier: MIT OR Apache-2.0

//! Operations to submit.

use dmaplane_uapi as abi;

use crate::buffer::Source;
use crate::endpoint::Endpoint;
use crate::grant::Target;

/// One operation for a [`Channel`](crate::Channel).
///
/// It borrows nothing: the driver looks its handles up when it takes the entry, and an object that
/// is gone by then gives a completion with [`Field`](crate::Field) and `ENOENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an entry does nothing until it is pushed to a channel"]
pub struct Entry(abi::Sqe);

impl Entry {
    /// Does nothing and completes.
    pub fn nop() -> Self {
        Self(abi::Sqe {
            op: abi::OP_NOP,
            ..Default::default()
        })
    }

    /// Takes the peer's next WRITE_IMM; the completion has its immediate and length.
    ///
    /// Each receive is a credit for the peer. Receives complete in the order of posting.
    pub fn recv(endpoint: &Endpoint) -> Self {
        Self(abi::Sqe {
            op: abi::OP_RECV,
            endpoint: endpoint.raw_handle(),
            ..Default::default()
        })
    }

    /// Writes the range into the peer's memory. The peer is not told.
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

    /// An entry as the interface has it, unchecked: the driver validates it.
    pub fn from_raw(sqe: abi::Sqe) -> Self {
        Self(sqe)
    }

    /// The entry as the interface has it.
    pub fn raw(&self) -> &abi::Sqe {
        &self.0
    }

    /// A number that the completion returns.
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
