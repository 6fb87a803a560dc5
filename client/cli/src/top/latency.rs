// SPDX-License-Identifier: MIT OR Apache-2.0

//! Latencies of an endpoint by kind of operation: of all its life, and between two readings.

use std::cmp::Reverse;

use dmaplane_observe::histogram::Histogram;
use dmaplane_observe::state::{Line, State};
use serde::Serialize;

/// Latencies of operations of one kind that ended well, from acceptance to completion.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) op: String,
    /// How many.
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

impl Latency {
    /// `ns` returns the nanoseconds that so many of a thousand latencies do not exceed.
    fn new(op: &str, count: u64, ns: impl Fn(u64) -> u64) -> Self {
        let us = |per_mille| ns(per_mille) as f64 / 1000.0;
        Self {
            op: op.to_owned(),
            count,
            p50_us: us(500),
            p99_us: us(990),
            p999_us: us(999),
        }
    }

    /// Whether most of the time passes until the peer sends.
    fn waits_for_peer(&self) -> bool {
        matches!(self.op.as_str(), "recv" | "watch")
    }
}

/// All latencies since the endpoint began, or since its owner emptied the histograms.
pub(super) fn all(state: &State, endpoint: &Line) -> Vec<Latency> {
    let kinds = totals(state, endpoint).map(|line| {
        Latency::new(line.text("op"), line.number("count"), |per_mille| {
            line.number(match per_mille {
                500 => "p50_ns",
                990 => "p99_ns",
                _ => "p999_ns",
            })
        })
    });
    sorted(kinds.collect())
}

/// Latencies of the operations that ended between two readings; `before` is `None` for a new endpoint. Both states must
/// be [comparable](are_comparable).
pub(super) fn between(now: &State, before: Option<&State>, endpoint: &Line) -> Vec<Latency> {
    let kinds = totals(now, endpoint).map(|line| {
        let earlier = before.and_then(|before| {
            let op = line.text("op");
            let mut kinds = totals(before, endpoint);
            kinds.find(|other| other.text("op") == op)
        });
        let earlier = earlier.and_then(Histogram::of).unwrap_or_default();
        let ended = Histogram::of(line).unwrap_or_default().since(&earlier);
        Latency::new(line.text("op"), ended.count(), |per_mille| {
            ended.quantile(per_mille)
        })
    });
    sorted(kinds.collect())
}

/// Whether a state has the buckets of each of its histograms, so that it can be compared with another one.
pub(super) fn are_comparable(state: &State) -> bool {
    let mut lines = state.histograms.iter();
    lines.all(|line| Histogram::of(line).is_some())
}

fn totals<'a>(state: &'a State, endpoint: &'a Line) -> impl Iterator<Item = &'a Line> {
    let serial = endpoint.text("endpoint");
    let own = state.histograms.iter();
    own.filter(move |line| line.text("endpoint") == serial && line.text("stage") == "total")
}

/// Sorts the busiest kind first, and last the kinds whose time is the peer's.
fn sorted(mut kinds: Vec<Latency>) -> Vec<Latency> {
    kinds.retain(|kind| kind.count > 0);
    kinds.sort_by_key(|kind| (kind.waits_for_peer(), Reverse(kind.count)));
    kinds
}
