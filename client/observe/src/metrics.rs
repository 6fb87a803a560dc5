// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the driver shows, as OpenMetrics text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::state::{Line, State};
use dmaplane::terminal;

/// A family of metrics under construction.
struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    /// One sample; `suffix` is what the family's kind demands.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
            .collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            some => format!("{{{}}}", some.join(",")),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{}{suffix}{labels} {value}", self.name);
    }
}

/// Begins a family.
fn family<'a>(
    text: &'a mut String,
    name: &'static str,
    kind: &str,
    unit: &str,
    help: &str,
) -> Family<'a> {
    let _ = writeln!(text, "# TYPE {name} {kind}");
    if !unit.is_empty() {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
    let _ = writeln!(text, "# HELP {name} {help}");
    Family { text, name }
}

/// A label's value, escaped by the rules of OpenMetrics and for terminals.
fn escape(value: &str) -> String {
    terminal::escape(value)
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// All metrics: the counts of sysfs, which everybody has, and what debugfs adds for root.
pub fn render(counts: &BTreeMap<String, u64>, state: Option<&State>) -> String {
    let mut text = String::new();
    let mut objects = family(
        &mut text,
        "dmaplane_objects",
        "gauge",
        "",
        "Objects alive, by kind.",
    );
    for (kind, value) in counts.iter().filter(|(kind, _)| *kind != "bytes") {
        objects.sample("", &[("kind", kind)], value);
    }
    let bytes = counts.get("bytes").copied().unwrap_or(0);
    family(
        &mut text,
        "dmaplane_buffer_bytes",
        "gauge",
        "bytes",
        "Bytes of buffers.",
    )
    .sample("", &[], bytes);
    if let Some(state) = state {
        endpoints(&mut text, state);
        operations(&mut text, state);
    }
    text.push_str("# EOF\n");
    text
}

/// Labels of an endpoint's samples.
fn of(line: &Line) -> [(&'static str, &str); 1] {
    [("endpoint", line.text("endpoint"))]
}

fn endpoints(text: &mut String, state: &State) {
    let mut up = family(
        text,
        "dmaplane_endpoint_up",
        "gauge",
        "",
        "Whether the connection is up.",
    );
    for line in &state.endpoints {
        let labels = [
            ("endpoint", line.text("endpoint")),
            ("local", line.text("local")),
            ("peer", line.text("peer")),
            ("device", line.text("device")),
        ];
        up.sample("", &labels, u8::from(line.text("state") == "up"));
    }
    let mut credits = family(
        text,
        "dmaplane_send_credits",
        "gauge",
        "",
        "Receives of the peer that may be used now.",
    );
    for line in &state.credits {
        credits.sample("", &of(line), line.number("send_credits"));
    }
    let mut queued = family(
        text,
        "dmaplane_queued_operations",
        "gauge",
        "",
        "Operations that the provider does not have yet.",
    );
    for line in &state.credits {
        queued.sample("", &of(line), line.number("queued"));
    }
    let mut stalls = family(
        text,
        "dmaplane_credit_stalls",
        "counter",
        "",
        "Times that operations had to wait for credits.",
    );
    for line in &state.credits {
        stalls.sample("_total", &of(line), line.number("stalls"));
    }
    let mut stalled = family(
        text,
        "dmaplane_credit_stalled_seconds",
        "counter",
        "seconds",
        "How long operations waited for credits.",
    );
    for line in &state.credits {
        stalled.sample("_total", &of(line), seconds(line.number("stalled_ns")));
    }
}

/// Labels of an endpoint's samples by kind of operation.
fn of_op(line: &Line) -> [(&'static str, &str); 2] {
    [("endpoint", line.text("endpoint")), ("op", line.text("op"))]
}

fn operations(text: &mut String, state: &State) {
    let mut ended = family(
        text,
        "dmaplane_operations",
        "counter",
        "",
        "Operations that have ended.",
    );
    for line in &state.totals {
        ended.sample("_total", &of_op(line), line.number("ended"));
    }
    let mut failed = family(
        text,
        "dmaplane_failed_operations",
        "counter",
        "",
        "Operations that did not end well.",
    );
    for line in &state.totals {
        failed.sample("_total", &of_op(line), line.number("failed"));
    }
    let mut bytes = family(
        text,
        "dmaplane_operation_bytes",
        "counter",
        "bytes",
        "Bytes of operations that ended well.",
    );
    for line in &state.totals {
        bytes.sample("_total", &of_op(line), line.number("bytes"));
    }
    let mut latency = family(
        text,
        "dmaplane_latency_seconds",
        "summary",
        "seconds",
        "Latencies of operations that ended well, by stage.",
    );
    for line in &state.histograms {
        let [endpoint, op] = of_op(line);
        let stage = ("stage", line.text("stage"));
        for (quantile, member) in [
            ("0.5", "p50_ns"),
            ("0.99", "p99_ns"),
            ("0.999", "p999_ns"),
            ("1.0", "max_ns"),
        ] {
            let labels = [endpoint, op, stage, ("quantile", quantile)];
            latency.sample("", &labels, seconds(line.number(member)));
        }
        latency.sample("_count", &[endpoint, op, stage], line.number("count"));
    }
    let oldest = state
        .stuck(0)
        .first()
        .map_or(0, |line| line.number("age_ns"));
    family(
        text,
        "dmaplane_oldest_operation_seconds",
        "gauge",
        "seconds",
        "Age of the oldest operation that does not wait for its peer to send.",
    )
    .sample("", &[], seconds(oldest));
}
