// SPDX-License-Identifier: GPL-2.0-only

//! What is recorded of one operation until it completes.

use super::{
    endpoint::{EndpointRecord, Times},
    nanoseconds, Kind,
};
use crate::{
    kx::trace,
    logic::outcome::Outcome,
    uapi::{Cqe, Sqe},
};
use kernel::{
    fmt,
    sync::Arc,
    time::{Instant, Monotonic},
};

/// What is known of an operation while the provider has its ticket.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    /// Its owner's trace id.
    pub(crate) trace_id: u64,
    /// One of `OP_*`.
    pub(crate) op: u8,
    /// Its length.
    pub(crate) bytes: u32,
    /// When it was taken from the ring.
    pub(crate) accepted: Instant<Monotonic>,
    /// When it was handed to the provider.
    pub(crate) posted: Instant<Monotonic>,
}

impl Mark {
    /// Writes the rest of a line about it.
    pub(crate) fn show(
        &self,
        f: &mut fmt::Formatter<'_>,
        stage: &str,
        waits_on: &str,
    ) -> fmt::Result {
        let op = Kind::of(self.op).map_or("?", Kind::name);
        let age = nanoseconds(self.accepted.elapsed());
        write!(
            f,
            "op={op} trace_id={} bytes={} age_ns={age}",
            self.trace_id, self.bytes
        )?;
        writeln!(f, " stage={stage} waits_on={waits_on}")
    }
}

/// Most operations that are shown for one place where they wait, because lines are written under a spinlock.
pub(crate) const MAX_SHOWN: u32 = 64;

/// Writes how many of the `count` operations of one place were not shown.
pub(crate) fn show_rest(
    f: &mut fmt::Formatter<'_>,
    of: fmt::Arguments<'_>,
    waits_on: &str,
    count: u32,
) -> fmt::Result {
    match count.checked_sub(MAX_SHOWN) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(f, "{of} more={more} waits_on={waits_on}"),
    }
}

/// A ticket's part of the record.
pub(crate) struct Probe {
    record: Option<Arc<EndpointRecord>>,
    posted: Option<Instant<Monotonic>>,
    bytes: u32,
}

impl Probe {
    /// The probe of an entry that was taken from a submission ring.
    pub(crate) fn new(entry: &Sqe) -> Self {
        submitted(entry);
        Self {
            record: None,
            posted: None,
            bytes: entry.length,
        }
    }

    /// Notes that it is an operation of this endpoint.
    pub(crate) fn on(&mut self, record: &Arc<EndpointRecord>) {
        self.record = Some(record.clone());
    }

    /// Bytes that it is to transfer.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Notes when it is handed to the provider; `None` when it was not after all.
    pub(crate) fn set_posted(&mut self, moment: Option<Instant<Monotonic>>) {
        self.posted = moment;
    }

    /// Counts and traces its end. Called before its completion can be seen, so that whoever sees the completion finds
    /// it counted.
    pub(crate) fn complete(
        &self,
        completion: &Cqe,
        outcome: Outcome,
        accepted: Instant<Monotonic>,
        now: Instant<Monotonic>,
    ) {
        let times = Times {
            queued: self
                .posted
                .map_or(0, |posted| nanoseconds(posted - accepted)),
            provider: self.posted.map(|posted| nanoseconds(now - posted)),
            total: nanoseconds(now - accepted),
        };
        if let Some(record) = &self.record {
            record.ended(completion.op, outcome, completion.length, times);
        }
        trace::op_complete(|| trace::OpComplete {
            trace_id: completion.trace_id,
            endpoint: self.record.as_ref().map_or(0, |record| record.serial()),
            link: self.record.as_ref().map_or(0, |record| record.link()),
            op: completion.op.into(),
            state: completion.state.into(),
            error: completion.error,
            provider_status: completion.provider_status,
            bytes: completion.length as u32,
            queued_ns: times.queued,
            provider_ns: times.provider.unwrap_or(0),
            total_ns: times.total,
        });
    }
}

/// Traces an entry that was taken from a submission ring.
fn submitted(entry: &Sqe) {
    trace::op_submit(|| trace::OpSubmit {
        trace_id: entry.trace_id,
        user_data: entry.user_data,
        op: entry.op.into(),
        endpoint_handle: entry.endpoint,
        buffer_handle: entry.buffer,
        bytes: entry.length,
    });
}

/// Whether the trace events of entries are on.
#[inline(always)]
pub(crate) fn traces_entries() -> bool {
    trace::op_submit_is_on() || trace::op_complete_is_on()
}
