// SPDX-License-Identifier: GPL-2.0-only

//! What is recorded of one endpoint: totals and latencies by kind of operation, and its events.

use super::{
    histograms::{Histograms, Kind, Stage, ENABLED},
    Mark,
};
use crate::kx::charged::{Payer, GFP_CHARGED};
use crate::{
    kx::trace,
    logic::{
        histogram::{Summary, BUCKETS},
        outcome::{Down, Outcome, State},
    },
    uapi,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// How many operations of one kind have ended, and how.
struct Totals {
    ended: Atomic<u64>,
    failed: Atomic<u64>,
    bytes: Atomic<u64>,
}

impl Totals {
    const fn new() -> Self {
        Self {
            ended: Atomic::new(0),
            failed: Atomic::new(0),
            bytes: Atomic::new(0),
        }
    }
}

/// Nanoseconds of an operation by stage. An operation that was never posted has only the total.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) queued: u64,
    pub(super) provider: Option<u64>,
    pub(super) total: u64,
}

/// An endpoint's record. Kept by the endpoint and by the tickets of its operations. No lock: all of it is atomic.
pub(crate) struct EndpointRecord {
    /// The endpoint's serial on this machine.
    serial: u64,
    /// Number of the connection, the same on both sides; 0 before the addresses are known.
    link: Atomic<u64>,
    totals: [Totals; Kind::ALL.len()],
    histograms: Histograms,
    /// Control messages so far.
    sent: Atomic<u32>,
    came: Atomic<u32>,
    torn_down: Atomic<bool>,
}

impl EndpointRecord {
    /// The record of an endpoint that is being made.
    pub(crate) fn new(serial: u64, payer: Payer) -> Result<Arc<Self>> {
        let record = Self {
            serial,
            link: Atomic::new(0),
            totals: [const { Totals::new() }; Kind::ALL.len()],
            histograms: Histograms::new(payer)?,
            sent: Atomic::new(0),
            came: Atomic::new(0),
            torn_down: Atomic::new(false),
        };
        Ok(Arc::new(record, GFP_CHARGED)?)
    }

    /// Its serial.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// The connection's number.
    pub(crate) fn link(&self) -> u64 {
        self.link.load(Relaxed)
    }

    /// Notes its addresses, from which the connection's number follows.
    pub(crate) fn between(&self, local: &uapi::SockAddr, peer: &uapi::SockAddr) {
        self.link.store(link(local, peer), Relaxed);
    }

    /// True for the first teardown only.
    pub(crate) fn tears_down(&self) -> bool {
        !self.torn_down.xchg(true, kernel::sync::atomic::Full)
    }

    /// Whether its teardown has begun.
    pub(crate) fn is_torn_down(&self) -> bool {
        self.torn_down.load(Relaxed)
    }

    /// Counts an operation that has ended.
    pub(super) fn ended(&self, op: u8, outcome: Outcome, bytes: u64, times: Times) {
        let Some(kind) = Kind::of(op) else { return };
        let Some(totals) = self.totals.get(kind.index()) else {
            return;
        };
        totals.ended.add(1, Relaxed);
        if outcome.state != State::Ok {
            // Its time would say nothing about operations that succeed.
            totals.failed.add(1, Relaxed);
            return;
        }
        totals.bytes.add(bytes, Relaxed);
        if ENABLED.load(Relaxed) == 0 {
            return;
        }
        if let Some(provider) = times.provider {
            self.histograms.record(kind, Stage::Queued, times.queued);
            self.histograms.record(kind, Stage::Provider, provider);
        }
        self.histograms.record(kind, Stage::Total, times.total);
    }

    /// The number of operations that have ended, the number that failed, and the bytes of the others.
    pub(crate) fn totals(&self, kind: Kind) -> (u64, u64, u64) {
        let totals = self.totals.get(kind.index());
        totals.map_or((0, 0, 0), |totals| {
            let read = |counter: &Atomic<u64>| counter.load(Relaxed);
            (
                read(&totals.ended),
                read(&totals.failed),
                read(&totals.bytes),
            )
        })
    }

    /// The latencies of one kind and stage, summed up. `counts` receives the buckets.
    pub(crate) fn latencies(
        &self,
        kind: Kind,
        stage: Stage,
        empty: bool,
        counts: &mut [u64; BUCKETS],
    ) -> Summary {
        self.histograms.gather(kind, stage, empty, counts)
    }

    /// Whether there are any.
    pub(crate) fn has_latencies(&self, kind: Kind, stage: Stage) -> bool {
        self.histograms.is_there(kind, stage)
    }

    /// Values that were not counted for want of memory.
    pub(crate) fn lost(&self) -> u64 {
        self.histograms.lost()
    }

    /// Traces an operation that was handed to the provider.
    pub(crate) fn posted(&self, mark: &Mark, seq: u32) {
        trace::op_post(|| trace::OpPost {
            trace_id: mark.trace_id,
            endpoint: self.serial,
            link: self.link(),
            op: mark.op.into(),
            seq,
            bytes: mark.bytes,
            queued_ns: super::nanoseconds(mark.posted - mark.accepted),
        });
    }

    /// Traces an arrival from the peer; `trace_id` is that of its receive.
    pub(crate) fn arrived(&self, trace_id: u64, seq: u32, imm: u32, bytes: u32) {
        trace::op_arrive(|| trace::OpArrive {
            trace_id,
            endpoint: self.serial,
            link: self.link(),
            seq,
            imm,
            bytes,
        });
    }

    /// Traces a control message to the peer.
    pub(crate) fn message_sent(&self, kind: u8, number: u32) {
        let seq = self.sent.fetch_add(1, Relaxed).wrapping_add(1);
        trace::message_send(|| trace::MessageSend {
            endpoint: self.serial,
            link: self.link(),
            kind: kind.into(),
            seq,
            number,
        });
    }

    /// Traces a control message from the peer.
    pub(crate) fn message_came(&self, kind: u8, number: u32) {
        let seq = self.came.fetch_add(1, Relaxed).wrapping_add(1);
        trace::message_arrive(|| trace::MessageArrive {
            endpoint: self.serial,
            link: self.link(),
            kind: kind.into(),
            seq,
            number,
        });
    }

    /// Traces that operations begin to wait for credits.
    pub(crate) fn stalled(&self, queued: u32) {
        trace::credit_stall(|| trace::CreditStall {
            endpoint: self.serial,
            link: self.link(),
            queued,
        });
    }

    /// Traces that they wait no longer.
    pub(crate) fn resumed(&self, credits: u32, stalled_ns: u64) {
        trace::credit_resume(|| trace::CreditResume {
            endpoint: self.serial,
            link: self.link(),
            credits,
            stalled_ns,
        });
    }

    /// Traces that the connection is up.
    pub(crate) fn up(&self, local: &uapi::SockAddr, peer: &uapi::SockAddr) {
        trace::endpoint_up(|| trace::EndpointUp {
            endpoint: self.serial,
            link: self.link(),
            local_port: local.port.into(),
            peer_port: peer.port.into(),
        });
    }

    /// Traces that the connection is over.
    pub(crate) fn down(&self, cause: Down) {
        trace::endpoint_down(|| trace::EndpointDown {
            endpoint: self.serial,
            link: self.link(),
            why: cause.errno().unsigned_abs(),
        });
    }

    /// Traces the peer's last will.
    pub(crate) fn last_will(&self, why: u32) {
        trace::endpoint_last_will(|| trace::EndpointLastWill {
            endpoint: self.serial,
            link: self.link(),
            why,
        });
    }

    /// Traces that the peer broke the protocol.
    pub(crate) fn violation(&self) {
        trace::endpoint_violation(|| trace::EndpointViolation {
            endpoint: self.serial,
            link: self.link(),
            why: 0,
        });
    }

    /// Traces that a grant was made.
    pub(crate) fn granted(&self, grant: u32, bytes: u64, rights: u32) {
        trace::grant_create(|| trace::GrantCreate {
            endpoint: self.serial,
            link: self.link(),
            grant,
            bytes,
            rights,
        });
    }

    /// Traces that a grant is being revoked.
    pub(crate) fn revoking(&self, grant: u32, why: u32) {
        trace::grant_revoke(|| trace::GrantRevoke {
            endpoint: self.serial,
            link: self.link(),
            grant,
            why,
        });
    }

    /// Traces that a grant's access has ended.
    pub(crate) fn grant_ended(&self, grant: u32, why: u32) {
        trace::grant_ended(|| trace::GrantEnded {
            endpoint: self.serial,
            link: self.link(),
            grant,
            why,
        });
    }
}

/// A number that both sides of a connection compute alike: FNV-1a over both ends, the smaller one first.
fn link(local: &uapi::SockAddr, peer: &uapi::SockAddr) -> u64 {
    let end = |end: &uapi::SockAddr| (end.addr, end.port);
    let (one, other) = (end(local), end(peer));
    let ordered = if one <= other {
        [one, other]
    } else {
        [other, one]
    };
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (address, port) in ordered {
        let mut add = |byte: &u8| {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        };
        address.iter().for_each(&mut add);
        port.to_be_bytes().iter().for_each(add);
    }
    // 0 stands for "not known yet".
    hash.max(1)
}
