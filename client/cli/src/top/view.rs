// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `dmaplane top` shows: a reading of the driver, compared with the one before.

use std::collections::BTreeMap;
use std::time::Instant;

use dmaplane_observe::files::{self, OpenFile};
use dmaplane_observe::state::{self, Line, State};
use serde::Serialize;

use super::latency::{self, Latency};

/// One reading.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(super) at: Instant,
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) state: Result<State, String>,
    pub(super) files: Vec<OpenFile>,
}

impl Reading {
    /// Reads what this user may see.
    pub(crate) fn take() -> std::io::Result<Self> {
        let state = State::read().map_err(|error| {
            format!("{}: {error}; endpoints, latencies and what is stuck need root and a mounted debugfs", state::DEBUGFS)
        });
        Ok(Self {
            at: Instant::now(),
            counts: state::numbers("counts")?,
            state,
            files: files::open_files(),
        })
    }
}

/// One endpoint's row.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) endpoint: String,
    pub(crate) peer: String,
    pub(crate) state: String,
    pub(crate) operations_per_second: f64,
    pub(crate) bytes_per_second: f64,
    /// Since the endpoint began, of its busiest kind of operation other than receives.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Since the endpoint began, by kind.
    pub(crate) latencies: Vec<Latency>,
    /// Of the operations that ended between the two readings, by kind; none when that is unknown.
    pub(crate) latencies_live: Option<Vec<Latency>>,
    pub(crate) credits: u64,
    pub(crate) queued: u64,
    pub(crate) posted: u64,
    pub(crate) stalls: u64,
    pub(crate) silent_heartbeats: u64,
}

/// An operation that makes no progress.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stuck {
    pub(crate) trace_id: String,
    pub(crate) op: String,
    pub(crate) endpoint: String,
    pub(crate) peer: String,
    pub(crate) age_ms: u64,
    pub(crate) waits_on: String,
    pub(crate) meaning: String,
}

/// What is shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct View {
    pub(crate) counts: BTreeMap<String, u64>,
    /// Between the two readings; none for the first one, which has no rates.
    pub(crate) interval_seconds: Option<f64>,
    pub(crate) endpoints: Vec<Row>,
    pub(crate) stuck: Vec<Stuck>,
    /// Bytes of buffers by the node that their policy named; `any` for none.
    pub(crate) bytes_by_node: BTreeMap<String, u64>,
    /// Bytes of buffers by the node that their pages are on; `unknown` for buffers whose pages the driver does
    /// not show. None when it shows the pages of no buffer.
    pub(crate) resident_bytes_by_node: Option<BTreeMap<String, u64>>,
    pub(crate) files: Vec<OpenFile>,
    /// What this user may not see, and why.
    pub(crate) hidden: Option<String>,
}

impl View {
    /// Compares two readings; rates need both. An operation that is older than `stuck_ms` and waits is stuck.
    pub(crate) fn of(now: &Reading, before: Option<&Reading>, stuck_ms: u64) -> Self {
        let mut view = Self {
            counts: now.counts.clone(),
            interval_seconds: None,
            endpoints: Vec::new(),
            stuck: Vec::new(),
            bytes_by_node: BTreeMap::new(),
            resident_bytes_by_node: None,
            files: now.files.clone(),
            hidden: None,
        };
        let state = match &now.state {
            Ok(state) => state,
            Err(why) => {
                view.hidden = Some(why.clone());
                return view;
            }
        };
        let interval = before.and_then(|before| Interval::between(now.at, state, before));
        view.interval_seconds = interval.as_ref().map(|interval| interval.seconds);
        let rows = state.endpoints.iter();
        view.endpoints = rows
            .map(|line| row(state, line, interval.as_ref()))
            .collect();
        view.stuck = state
            .stuck(stuck_ms.saturating_mul(1_000_000))
            .into_iter()
            .map(|line| Stuck {
                trace_id: line.text("trace_id").to_owned(),
                op: line.text("op").to_owned(),
                endpoint: line.text("endpoint").to_owned(),
                peer: State::of_endpoint(&state.endpoints, line)
                    .map_or(String::new(), |endpoint| endpoint.text("peer").to_owned()),
                age_ms: line.number("age_ns") / 1_000_000,
                waits_on: line.text("waits_on").to_owned(),
                meaning: state.blame(line),
            })
            .collect();
        for buffer in &state.buffers {
            let node = match buffer.text("policy") {
                "any" => "any",
                _ => buffer.text("node"),
            };
            *view.bytes_by_node.entry(node.to_owned()).or_default() += buffer.number("bytes");
        }
        view.resident_bytes_by_node = residence(&state.buffers);
        view
    }
}

/// Bytes of buffers by the node that their pages are on.
fn residence(buffers: &[Line]) -> Option<BTreeMap<String, u64>> {
    let page = u64::try_from(rustix::param::page_size()).ok()?;
    let (mut bytes, mut known) = (BTreeMap::<String, u64>::new(), buffers.is_empty());
    for buffer in buffers {
        let Some(pages) = buffer.counts("nodes") else {
            *bytes.entry("unknown".to_owned()).or_default() += buffer.number("bytes");
            continue;
        };
        known = true;
        for (node, pages) in pages {
            *bytes.entry(node.to_string()).or_default() += pages.saturating_mul(page);
        }
    }
    known.then_some(bytes)
}

/// What an earlier reading is compared with.
struct Interval<'a> {
    seconds: f64,
    earlier: &'a State,
    /// Whether latencies can be compared as well.
    has_latencies: bool,
}

impl<'a> Interval<'a> {
    fn between(at: Instant, state: &State, before: &'a Reading) -> Option<Self> {
        let earlier = before.state.as_ref().ok()?;
        Some(Self {
            seconds: at.duration_since(before.at).as_secs_f64().max(1e-6),
            earlier,
            has_latencies: latency::are_comparable(state) && latency::are_comparable(earlier),
        })
    }

    /// The earlier state, unless the endpoint is new, or another one had its serial before the driver was reloaded.
    fn earlier_of(&self, endpoint: &Line) -> Option<&'a State> {
        let other = State::of_endpoint(&self.earlier.endpoints, endpoint)?;
        // A connection has no number yet while it is made.
        let (link, then) = (endpoint.number("link"), other.number("link"));
        (then == 0 || then == link).then_some(self.earlier)
    }
}

/// Operations and bytes of an endpoint so far.
fn sums(state: &State, endpoint: &Line) -> (u64, u64) {
    let serial = endpoint.text("endpoint");
    let own = state
        .totals
        .iter()
        .filter(|line| line.text("endpoint") == serial);
    own.fold((0, 0), |(ended, bytes), line| {
        (ended + line.number("ended"), bytes + line.number("bytes"))
    })
}

fn row(state: &State, line: &Line, interval: Option<&Interval<'_>>) -> Row {
    let nothing = Line::default();
    let credits = State::of_endpoint(&state.credits, line).unwrap_or(&nothing);
    let latencies = latency::all(state, line);
    // Of several kinds, the busiest represents the endpoint.
    let candidates = latencies.iter().filter(|kind| kind.op != "recv");
    let busiest = candidates.max_by_key(|kind| kind.count);
    let mut row = Row {
        endpoint: line.text("endpoint").to_owned(),
        peer: line.text("peer").to_owned(),
        state: line.text("state").to_owned(),
        p50_us: busiest.map_or(0.0, |kind| kind.p50_us),
        p99_us: busiest.map_or(0.0, |kind| kind.p99_us),
        p999_us: busiest.map_or(0.0, |kind| kind.p999_us),
        credits: credits.number("send_credits"),
        queued: credits.number("queued"),
        posted: line.number("posted"),
        stalls: credits.number("stalls"),
        silent_heartbeats: line.number("silent_heartbeats"),
        latencies,
        ..Row::default()
    };
    if let Some(interval) = interval {
        let earlier = interval.earlier_of(line);
        let (ended, bytes) = sums(state, line);
        let (ended_then, bytes_then) = earlier.map_or((0, 0), |earlier| sums(earlier, line));
        // A count that decreased is another endpoint's: all of it came since.
        let since = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now) as f64;
        row.operations_per_second = since(ended, ended_then) / interval.seconds;
        row.bytes_per_second = since(bytes, bytes_then) / interval.seconds;
        let live = || latency::between(state, earlier, line);
        row.latencies_live = interval.has_latencies.then(live);
    }
    row
}
