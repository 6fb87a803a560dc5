// SPDX-License-Identifier: GPL-2.0-only

//! Operations and their state.

use crate::{
    channel::Ticket,
    logic::{
        operation::{End, Operation},
        outcome::{errno, Outcome, State as Terminal},
        wire::Payload,
    },
    memory::Guard,
    rdma::{PeerGrant, Region},
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};

/// The outcome of an operation that the peer's revocation preceded.
const REVOKED: Outcome = Outcome {
    state: Terminal::Revoked,
    errno: errno::EACCES,
};

/// A checked operation.
pub(crate) enum Op {
    /// A transfer between a buffer and a grant.
    Transfer(TransferOp),
    /// A SEND of a few bytes, which were copied when it was accepted.
    Send(KBox<Payload>),
    /// Waits for earlier operations.
    Fence,
}

/// Direction of a transfer.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    /// To the peer.
    Write,
    /// To the peer, with an immediate for one of its receives.
    WriteImm(u32),
    /// From the peer.
    Read,
}

/// A transfer between this side's memory and the peer's.
pub(crate) struct TransferOp {
    /// The local memory, registered on the endpoint's domain.
    pub(crate) region: Arc<Region>,
    /// Guard of the memory to transfer, which may be a part of the region's.
    pub(crate) guard: Guard,
    /// The peer's memory.
    pub(crate) grant: Arc<PeerGrant>,
    /// Start in the region.
    pub(crate) offset: u64,
    /// Start in the grant.
    pub(crate) remote_offset: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// Its direction.
    pub(crate) direction: Direction,
}

/// What an operation keeps until its completion. Field order is drop order: first the user gets the completion, then
/// the memory may go.
pub(crate) struct OpState {
    pub(super) ticket: Ticket,
    pub(super) op: Op,
    /// Its state while it is queued; afterwards its [`InFlight`] has it.
    pub(super) life: Operation,
    /// Its number among posted operations.
    pub(super) id: u64,
    /// Since when only other devices' use of its memory has kept it from being posted.
    pub(super) fenced: Option<Instant<Monotonic>>,
    /// Whether its length must be announced to the peer first; see [`State::announce`].
    pub(super) unannounced: bool,
    /// Whether its length was announced.
    pub(super) announced: bool,
}

/// Longest time that other devices may keep an operation from being posted, in milliseconds.
const FENCED_MS: i64 = 1000;

/// Whether other devices keep an operation from being posted.
pub(super) enum Fenced {
    /// They do not.
    No,
    /// They use its memory.
    Yes,
    /// They have used its memory for too long.
    TooLong,
}

impl OpState {
    /// Checks whether other devices use its memory. The caller holds the endpoint's lock.
    pub(super) fn look_at_fences(&mut self) -> Fenced {
        if self.op.is_ready() {
            self.fenced = None;
            return Fenced::No;
        }
        let now = Instant::now();
        let since = *self.fenced.get_or_insert(now);
        match (now - since - Delta::from_millis(FENCED_MS)).is_negative() {
            true => Fenced::Yes,
            false => Fenced::TooLong,
        }
    }

    /// Whether its length still has to be announced to the peer.
    pub(super) fn waits_for_announcement(&self) -> bool {
        self.unannounced
    }
}

impl Op {
    pub(super) fn grant(&self) -> Option<&Arc<PeerGrant>> {
        match self {
            Op::Transfer(op) => Some(&op.grant),
            Op::Send(_) | Op::Fence => None,
        }
    }

    /// Bytes that it moves.
    pub(super) fn length(&self) -> u32 {
        match self {
            Op::Transfer(op) => op.length,
            Op::Send(payload) => payload.length,
            Op::Fence => 0,
        }
    }

    pub(super) fn needs_credit(&self) -> bool {
        match self {
            Op::Transfer(op) => matches!(op.direction, Direction::WriteImm(_)),
            Op::Send(_) => true,
            Op::Fence => false,
        }
    }

    /// Whether the peer has revoked its grant.
    pub(super) fn is_taken_back(&self) -> bool {
        self.grant().is_some_and(|grant| grant.is_revoked())
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Op::Transfer(op) if matches!(op.direction, Direction::Read))
    }

    pub(super) fn is_write_imm(&self) -> bool {
        matches!(self, Op::Transfer(op) if matches!(op.direction, Direction::WriteImm(_)))
    }

    /// Whether its bytes go to the peer by RDMA WRITE, and not in a message.
    pub(super) fn is_write(&self) -> bool {
        matches!(self, Op::Transfer(_)) && !self.is_read()
    }

    /// The key of the local memory that it uses.
    pub(super) fn memory(&self) -> Option<usize> {
        match self {
            Op::Transfer(op) => Some(op.guard.memory().key()),
            Op::Send(_) | Op::Fence => None,
        }
    }

    /// Whether other devices have finished with the local memory. Since the operation was accepted, they may have
    /// announced more.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Op::Transfer(op) => op.guard.memory().is_ready(self.is_read()),
            Op::Send(_) | Op::Fence => true,
        }
    }

    /// Result of the local memory's registration; `None` as long as the provider has it.
    pub(super) fn registration(&self) -> Option<Result> {
        match self {
            Op::Transfer(op) => op.region.registration(),
            Op::Send(_) | Op::Fence => Some(Ok(())),
        }
    }

    /// Whether the local memory is being revoked.
    pub(super) fn is_memory_gone(&self) -> bool {
        matches!(self, Op::Transfer(op) if op.guard.memory().is_revoked())
    }

    /// Its outcome without the provider if the local memory is being revoked, or the peer's grant allows no more.
    pub(super) fn revoked(&self) -> Option<Outcome> {
        let Op::Transfer(TransferOp { grant, .. }) = self else {
            return None;
        };
        if self.is_memory_gone() {
            Some(End::Revoked.outcome())
        } else {
            (grant.is_revoked() || grant.is_used_up()).then_some(REVOKED)
        }
    }
}
