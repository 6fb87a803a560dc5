// SPDX-License-Identifier: GPL-2.0-only

//! What an operation is, and what it keeps.

use crate::{
    channel::Ticket,
    logic::{
        operation::{End, Operation},
        outcome::{errno, Outcome, State as Terminal},
        wire::Payload,
    },
    memory::{Guard, Region},
    rdma::PeerGrant,
};
use kernel::{prelude::*, sync::Arc};

/// The outcome of what the peer's revocation came before.
const REVOKED: Outcome = Outcome {
    state: Terminal::Revoked,
    errno: errno::EACCES,
};

/// A checked operation.
pub(crate) enum Op {
    /// Between a buffer and a grant.
    Transfer(Between),
    /// A few bytes, copied when it was accepted.
    Send(KBox<Payload>),
    /// Waits for what came before.
    Fence,
}

/// Which way the bytes go.
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
pub(crate) struct Between {
    /// The local memory on the endpoint's domain.
    pub(crate) region: Arc<Region>,
    /// Of the memory that is meant, which may be a part of the region's.
    pub(crate) guard: Guard,
    /// The peer's memory.
    pub(crate) grant: Arc<PeerGrant>,
    /// Start in the region.
    pub(crate) offset: u64,
    /// Start in the grant.
    pub(crate) remote_offset: u64,
    /// Bytes.
    pub(crate) length: u32,
    /// Which way.
    pub(crate) direction: Direction,
}

/// What an operation keeps until its completion. Field order is drop order: the user hears of it first, then the
/// memory may go.
pub(crate) struct Posted {
    pub(super) ticket: Ticket,
    pub(super) op: Op,
    /// As long as it is queued; afterwards its [`Flying`] has it.
    pub(super) life: Operation,
    /// Its number among those that were posted.
    pub(super) id: u64,
    /// Whether the peer has to be told the length first; see [`State::announce`].
    pub(super) unannounced: bool,
}

impl Posted {
    /// Whether the peer has yet to be told its length.
    pub(super) fn waits_for_announcement(&self) -> bool {
        self.unannounced
    }
}

impl Op {
    pub(super) fn grant(&self) -> Option<&Arc<PeerGrant>> {
        match self {
            Op::Transfer(between) => Some(&between.grant),
            Op::Send(_) | Op::Fence => None,
        }
    }

    /// Bytes that it moves.
    pub(super) fn length(&self) -> u32 {
        match self {
            Op::Transfer(between) => between.length,
            Op::Send(payload) => payload.length,
            Op::Fence => 0,
        }
    }

    pub(super) fn needs_credit(&self) -> bool {
        match self {
            Op::Transfer(between) => matches!(between.direction, Direction::WriteImm(_)),
            Op::Send(_) => true,
            Op::Fence => false,
        }
    }

    /// Whether the peer has taken its grant back.
    pub(super) fn is_taken_back(&self) -> bool {
        self.grant().is_some_and(|grant| grant.is_revoked())
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self, Op::Transfer(between) if matches!(between.direction, Direction::Read))
    }

    /// The key of the local memory that it uses.
    pub(super) fn memory(&self) -> Option<usize> {
        match self {
            Op::Transfer(between) => Some(between.guard.memory().key()),
            Op::Send(_) | Op::Fence => None,
        }
    }

    /// Whether the local memory is being taken away.
    pub(super) fn is_memory_gone(&self) -> bool {
        matches!(self, Op::Transfer(between) if between.guard.memory().is_revoked())
    }

    /// How it ends without the provider when the local memory is being taken away, or the peer's grant allows no more.
    pub(super) fn revoked(&self) -> Option<Outcome> {
        let Op::Transfer(Between { grant, .. }) = self else {
            return None;
        };
        if self.is_memory_gone() {
            Some(End::Revoked.outcome())
        } else {
            (grant.is_revoked() || grant.is_used_up()).then_some(REVOKED)
        }
    }
}
