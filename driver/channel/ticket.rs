// SPDX-License-Identifier: GPL-2.0-only

//! The right, and the duty, to post one completion.

use super::{check::MAX_TIMEOUT_NS, Channel};
use crate::{
    base::gauges::{Held, GAUGES},
    logic::outcome::{Down, Outcome, State},
    observe::{EndpointRecord, Mark, Probe},
    uapi,
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};

/// How a cancel names an operation: by its channel and its `user_data`. Only compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TicketKey {
    channel: usize,
    user_data: u64,
}

impl TicketKey {
    /// The key of an operation that came by `channel`. The address identifies the channel as long as the operation
    /// keeps it.
    pub(super) fn new(channel: &Arc<Channel>, user_data: u64) -> Self {
        Self {
            channel: core::ptr::from_ref(&**channel).addr(),
            user_data,
        }
    }
}

/// An accepted entry. It posts exactly one completion: by [`Self::complete`], [`Self::refuse`] or [`Self::fail`], or
/// else by drop, which counts as canceled.
pub(crate) struct Ticket {
    channel: Arc<Channel>,
    accepted: Instant<Monotonic>,
    /// Time limit in nanoseconds, 0 for none.
    limit_ns: u64,
    completion: uapi::Cqe,
    posted: bool,
    probe: Probe,
    _count: Held,
}

impl Ticket {
    /// For an entry whose slot was just reserved.
    pub(super) fn new(channel: &Arc<Channel>, entry: &uapi::Sqe) -> Self {
        Self {
            channel: channel.clone(),
            accepted: Instant::now(),
            limit_ns: entry.timeout_ns.min(MAX_TIMEOUT_NS),
            completion: uapi::Cqe {
                user_data: entry.user_data,
                trace_id: entry.trace_id,
                op: entry.op,
                endpoint: entry.endpoint,
                ..Default::default()
            },
            posted: false,
            probe: Probe::new(entry),
            _count: GAUGES.operations.hold(1),
        }
    }

    /// The key by which a cancel finds it.
    pub(crate) fn key(&self) -> TicketKey {
        TicketKey::new(&self.channel, self.completion.user_data)
    }

    /// The key of an operation of the same channel with this `user_data`.
    pub(crate) fn key_of(&self, user_data: u64) -> TicketKey {
        TicketKey::new(&self.channel, user_data)
    }

    /// Its owner's trace id.
    pub(crate) fn trace_id(&self) -> u64 {
        self.completion.trace_id
    }

    /// When its time limit passes, if it has one.
    pub(crate) fn deadline(&self) -> Option<Instant<Monotonic>> {
        let limit = Delta::from_nanos(self.limit_ns as i64);
        (self.limit_ns != 0).then(|| self.accepted + limit)
    }

    /// Notes that it is an operation of this endpoint.
    pub(crate) fn on(&mut self, record: &Arc<EndpointRecord>) {
        self.probe.on(record);
    }

    /// What is recorded of it while the provider has it, as of now.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            trace_id: self.completion.trace_id,
            op: self.completion.op,
            bytes: self.probe.bytes(),
            accepted: self.accepted,
            posted: Instant::now(),
        }
    }

    /// Notes when it is handed to the provider; `None` when it was not after all.
    pub(crate) fn set_posted(&mut self, moment: Option<Instant<Monotonic>>) {
        self.probe.set_posted(moment);
    }

    /// Notes what arrived with a receive.
    pub(crate) fn set_arrival(&mut self, imm: u32, length: u32) {
        self.completion.imm = imm;
        self.completion.length = length.into();
    }

    /// Notes how many bytes were transferred.
    pub(crate) fn set_length(&mut self, length: u32) {
        self.completion.length = length.into();
    }

    /// Notes the provider's status.
    pub(crate) fn set_provider_status(&mut self, status: u32) {
        self.completion.provider_status = status;
    }

    /// Posts the completion.
    pub(crate) fn complete(mut self, outcome: Outcome) {
        self.post(outcome);
    }

    /// Refuses the entry: `field` is one of `FIELD_*`.
    pub(crate) fn refuse(mut self, field: u16, error: Error) {
        self.completion.field = field;
        self.fail(error);
    }

    /// Posts a failure that has an errno of its own.
    pub(crate) fn fail(mut self, error: Error) {
        self.post(Outcome {
            state: State::Error,
            errno: -error.to_errno(),
        });
    }

    fn post(&mut self, outcome: Outcome) {
        self.posted = true;
        self.completion.state = outcome.state as u8;
        self.completion.error = outcome.errno;
        if outcome.state != State::Ok {
            self.completion.length = 0;
        }
        let now = Instant::now();
        let nanos = (now - self.accepted).as_nanos();
        self.completion.latency_ns = u64::try_from(nanos).unwrap_or(0);
        self.probe
            .complete(&self.completion, outcome, self.accepted, now);
        self.channel.post(&self.completion);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.posted {
            self.post(Down::Local.outcome());
        }
    }
}
