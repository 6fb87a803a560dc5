// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `dmaplane top` shows: a reading of the driver, compared with the one before.

use std::collections::BTreeMap;
use std::time::Instant;

use dmaplane::observe::state::{self, Line, OpenFile, State};
use serde::Serialize;

use crate::output;

/// One reading.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    at: Instant,
    counts: BTreeMap<String, u64>,
    state: Result<State, String>,
    files: Vec<OpenFile>,
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
            files: state::open_files(),
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
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) credits: u64,
    pub(crate) queued: u64,
    pub(crate) posted: u64,
    pub(crate) stalls: u64,
    pub(crate) silent_beats: u64,
}

/// An operation that does not get on.
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
    pub(crate) endpoints: Vec<Row>,
    pub(crate) stuck: Vec<Stuck>,
    /// Bytes of buffers by the node that their policy named; `any` for none.
    pub(crate) bytes_by_node: BTreeMap<String, u64>,
    pub(crate) files: Vec<OpenFile>,
    /// What this user may not see, and why.
    pub(crate) hidden: Option<String>,
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

impl View {
    /// Compares two readings; rates need both. What is older than `stuck_ms` and waits is stuck.
    pub(crate) fn of(now: &Reading, before: Option<&Reading>, stuck_ms: u64) -> Self {
        let mut view = Self {
            counts: now.counts.clone(),
            endpoints: Vec::new(),
            stuck: Vec::new(),
            bytes_by_node: BTreeMap::new(),
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
        let earlier = before.and_then(|before| Some((before, before.state.as_ref().ok()?)));
        view.endpoints = state
            .endpoints
            .iter()
            .map(|line| {
                let mut row = row(state, line);
                if let Some((reading, earlier)) = earlier {
                    let seconds = now.at.duration_since(reading.at).as_secs_f64().max(1e-6);
                    let (ended, bytes) = sums(state, line);
                    let (ended_before, bytes_before) = sums(earlier, line);
                    row.operations_per_second = ended.saturating_sub(ended_before) as f64 / seconds;
                    row.bytes_per_second = bytes.saturating_sub(bytes_before) as f64 / seconds;
                }
                row
            })
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
        view
    }

    /// The whole as text, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.summary()];
        if let Some(hidden) = &self.hidden {
            lines.push(format!("not shown: {hidden}"));
        }
        if !self.bytes_by_node.is_empty() {
            let nodes = self.bytes_by_node.iter();
            let nodes: Vec<_> = nodes
                .map(|(node, bytes)| format!("{node}: {}", output::bytes(*bytes)))
                .collect();
            lines.push(format!("buffers by node   {}", nodes.join("   ")));
        }
        lines.push(String::new());
        lines.push(format!(
            "{:>8} {:24} {:5} {:>10} {:>12} {:>9} {:>9} {:>7} {:>6} {:>6} {:>7}",
            "ENDPOINT",
            "PEER",
            "STATE",
            "OPS/S",
            "BYTES/S",
            "P50 us",
            "P99 us",
            "CREDITS",
            "QUEUED",
            "POSTED",
            "STALLS"
        ));
        for row in &self.endpoints {
            lines.push(format!(
                "{:>8} {:24} {:5} {:>10.0} {:>12} {:>9.1} {:>9.1} {:>7} {:>6} {:>6} {:>7}",
                row.endpoint,
                row.peer,
                row.state,
                row.operations_per_second,
                output::bytes(row.bytes_per_second as u64),
                row.p50_us,
                row.p99_us,
                row.credits,
                row.queued,
                row.posted,
                row.stalls
            ));
        }
        lines.push(String::new());
        for stuck in &self.stuck {
            lines.push(format!(
                "STUCK {:.1} s: trace {} {} on endpoint {} to {}: {}",
                stuck.age_ms as f64 / 1000.0,
                stuck.trace_id,
                stuck.op,
                stuck.endpoint,
                stuck.peer,
                stuck.meaning
            ));
        }
        for file in &self.files {
            let holds: Vec<_> = file
                .holds
                .iter()
                .filter(|(name, value)| *name != "context" && **value > 0)
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            lines.push(format!(
                "{:>8} {:15} {}",
                file.pid,
                file.command,
                holds.join(", ")
            ));
        }
        lines
    }

    fn summary(&self) -> String {
        let count = |name: &str| self.counts.get(name).copied().unwrap_or(0);
        format!(
            "dmaplane: {} files, {} buffers ({}), {} regions, {} grants, {} endpoints, {} operations under way",
            count("contexts"),
            count("buffers"),
            output::bytes(count("bytes")),
            count("regions"),
            count("grants"),
            count("endpoints"),
            count("operations")
        )
    }
}

fn row(state: &State, line: &Line) -> Row {
    let nothing = Line::default();
    let credits = State::of_endpoint(&state.credits, line).unwrap_or(&nothing);
    // Of several kinds, the busiest speaks for the endpoint.
    let totals = state.histograms.iter();
    let own = totals.filter(|other| {
        other.text("endpoint") == line.text("endpoint")
            && other.text("stage") == "total"
            && other.text("op") != "recv"
    });
    let busiest = own
        .max_by_key(|other| other.number("count"))
        .unwrap_or(&nothing);
    Row {
        endpoint: line.text("endpoint").to_owned(),
        peer: line.text("peer").to_owned(),
        state: line.text("state").to_owned(),
        p50_us: busiest.number("p50_ns") as f64 / 1000.0,
        p99_us: busiest.number("p99_ns") as f64 / 1000.0,
        credits: credits.number("send_credits"),
        queued: credits.number("queued"),
        posted: line.number("posted"),
        stalls: credits.number("stalls"),
        silent_beats: line.number("silent_beats"),
        ..Row::default()
    }
}
