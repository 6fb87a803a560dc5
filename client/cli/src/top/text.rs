// SPDX-License-Identifier: MIT OR Apache-2.0

//! The view of `dmaplane top` as lines of text.

use std::collections::BTreeMap;

use dmaplane::terminal::escape;

use super::latency::Latency;
use super::view::{Row, View};
use crate::output;

/// Stands for an unknown figure.
const UNKNOWN: &str = "-";

impl View {
    /// The whole as text, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.summary()];
        if let Some(hidden) = &self.hidden {
            lines.push(format!("not shown: {}", escape(hidden)));
        }
        if !self.bytes_by_node.is_empty() {
            lines.push(format!("buffers by policy {}", sizes(&self.bytes_by_node)));
            let pages = self.resident_bytes_by_node.as_ref();
            let pages = pages.map_or("this driver does not show them".to_owned(), sizes);
            lines.push(format!("pages by node     {pages}"));
        }
        if self.hidden.is_none() {
            lines.push(self.span());
        }
        lines.push(String::new());
        self.endpoints_into(&mut lines);
        lines.push(String::new());
        for stuck in &self.stuck {
            lines.push(format!(
                "STUCK {:.1} s: trace {} {} on endpoint {} to {}: {}",
                stuck.age_ms as f64 / 1000.0,
                stuck.trace_id,
                stuck.op,
                stuck.endpoint,
                escape(&stuck.peer),
                stuck.meaning
            ));
        }
        if !self.stuck.is_empty() {
            lines.push(String::new());
        }
        self.latencies_into(&mut lines);
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
                escape(&file.command),
                holds.join(", ")
            ));
        }
        lines
    }

    fn summary(&self) -> String {
        let count = |name: &str| self.counts.get(name).copied().unwrap_or(0);
        format!(
            "dmaplane: {} files, {} buffers ({}), {} regions, {} grants, {} endpoints, {} operations in flight",
            count("contexts"),
            count("buffers"),
            output::bytes(count("bytes")),
            count("regions"),
            count("grants"),
            count("endpoints"),
            count("operations")
        )
    }

    /// The time that the endpoints' rates and latencies cover.
    fn span(&self) -> String {
        let Some(seconds) = self.interval_seconds else {
            return "rates, latencies  from the second reading on; this is the first".to_owned();
        };
        let live = |row: &Row| row.latencies_live.is_some();
        if self.endpoints.iter().all(live) {
            return format!("rates, latencies  of the last {seconds:.1} s");
        }
        format!(
            "rates             of the last {seconds:.1} s; latencies only since the endpoints began: the driver shows no buckets"
        )
    }

    /// A line for each endpoint with its busiest kind of operation, and one for each other kind.
    fn endpoints_into(&self, lines: &mut Vec<String>) {
        lines.push(format!(
            "{:>8} {:24} {:5} {:>10} {:>12} {:9} {:>9} {:>9} {:>9} {:>7} {:>6} {:>6} {:>7}",
            "ENDPOINT",
            "PEER",
            "STATE",
            "OPS/S",
            "BYTES/S",
            "OPERATION",
            "P50 us",
            "P99 us",
            "P99.9 us",
            "CREDITS",
            "QUEUED",
            "POSTED",
            "STALLS"
        ));
        for row in &self.endpoints {
            let (mut rate, mut bytes) = (UNKNOWN.to_owned(), UNKNOWN.to_owned());
            if self.interval_seconds.is_some() {
                rate = format!("{:.0}", row.operations_per_second);
                bytes = output::bytes(row.bytes_per_second as u64);
            }
            let live = row.latencies_live.as_deref().unwrap_or_default();
            lines.push(format!(
                "{:>8} {:24} {:5} {rate:>10} {bytes:>12} {} {:>7} {:>6} {:>6} {:>7}",
                row.endpoint,
                escape(&row.peer),
                row.state,
                figures(live.first()),
                row.credits,
                row.queued,
                row.posted,
                row.stalls
            ));
            for kind in live.iter().skip(1) {
                lines.push(format!("{:63} {}", "", figures(Some(kind))));
            }
        }
    }

    /// The latencies of the endpoints' whole lives.
    fn latencies_into(&self, lines: &mut Vec<String>) {
        if self.endpoints.iter().all(|row| row.latencies.is_empty()) {
            return;
        }
        lines.push("since the endpoints began, or their owners emptied the histograms".to_owned());
        lines.push(format!(
            "{:>8} {:9} {:>9} {:>9} {:>9} {:>12}",
            "ENDPOINT", "OPERATION", "P50 us", "P99 us", "P99.9 us", "OK"
        ));
        for row in &self.endpoints {
            for kind in &row.latencies {
                lines.push(format!(
                    "{:>8} {} {:>12}",
                    row.endpoint,
                    figures(Some(kind)),
                    kind.count
                ));
            }
        }
        lines.push(String::new());
    }
}

/// Bytes by node.
fn sizes(by_node: &BTreeMap<String, u64>) -> String {
    let sizes = by_node.iter();
    let sizes: Vec<_> = sizes
        .map(|(node, bytes)| format!("{node}: {}", output::bytes(*bytes)))
        .collect();
    sizes.join("   ")
}

/// A kind of operation and its latencies.
fn figures(kind: Option<&Latency>) -> String {
    let Some(kind) = kind else {
        return format!("{UNKNOWN:9} {UNKNOWN:>9} {UNKNOWN:>9} {UNKNOWN:>9}");
    };
    format!(
        "{:9} {:>9.1} {:>9.1} {:>9.1}",
        kind.op, kind.p50_us, kind.p99_us, kind.p999_us
    )
}
