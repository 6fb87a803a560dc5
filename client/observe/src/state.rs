// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the driver shows in debugfs and sysfs: everything alive, by lines of `name=value` pairs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lockdown;

/// The module's folder in sysfs, which everybody may read.
pub const SYSFS: &str = "/sys/module/dmaplane";
/// The driver's folder in debugfs, which only root may read.
pub const DEBUGFS: &str = "/sys/kernel/debug/dmaplane/state";

/// One line: an object by its members. A name that others chose is written with `\x20` for a blank and so on, so that it
/// cannot forge a member or a line; parsing it gives the name itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Line(BTreeMap<String, String>);

impl Line {
    /// Reads a line; what is not a pair is left out.
    pub fn parse(text: &str) -> Self {
        let members = text
            .split_whitespace()
            .filter_map(|member| member.split_once('='));
        let members = members.map(|(name, value)| (name.to_owned(), unescape(value)));
        Self(members.collect())
    }

    /// A member that is a number; 0 for one that is not there.
    pub fn number(&self, name: &str) -> u64 {
        self.0
            .get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }

    /// A member as text, empty for one that is not there.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// A member that counts by number, as `0:12,1:4` does; `None` for one that is not there or is something else.
    pub fn counts(&self, name: &str) -> Option<BTreeMap<u64, u64>> {
        let pairs = self.0.get(name)?.split(',').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (number, count) = pair.split_once(':')?;
                Some((number.parse().ok()?, count.parse().ok()?))
            })
            .collect()
    }
}

/// Everything alive, as debugfs shows it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct State {
    /// Open files.
    pub contexts: Vec<Line>,
    /// Buffers.
    pub buffers: Vec<Line>,
    /// Registrations.
    pub regions: Vec<Line>,
    /// Connections.
    pub endpoints: Vec<Line>,
    /// Their credits.
    pub credits: Vec<Line>,
    /// Grants, given and taken.
    pub grants: Vec<Line>,
    /// Operations under way, and what each waits for.
    pub operations: Vec<Line>,
    /// Operations that have ended, by kind.
    pub totals: Vec<Line>,
    /// Latencies, by kind and stage.
    pub histograms: Vec<Line>,
}

impl State {
    /// Reads all of it.
    ///
    /// # Errors
    /// `PermissionDenied` without root or by kernel lockdown, which the error's text then names; `NotFound` without the
    /// module or debugfs.
    pub fn read() -> io::Result<Self> {
        Self::read_at(Path::new(DEBUGFS))
    }

    fn read_at(folder: &Path) -> io::Result<Self> {
        let lines = |name: &str| -> io::Result<Vec<Line>> {
            let path = folder.join(name);
            let text = fs::read_to_string(&path).map_err(|error| explained(&path, error))?;
            Ok(text.lines().map(Line::parse).collect())
        };
        Ok(Self {
            contexts: lines("contexts")?,
            buffers: lines("buffers")?,
            regions: lines("regions")?,
            endpoints: lines("endpoints")?,
            credits: lines("credits")?,
            grants: lines("grants")?,
            operations: lines("operations")?,
            totals: lines("totals")?,
            histograms: lines("histograms")?,
        })
    }

    /// The first of the lines about an endpoint.
    pub fn of_endpoint<'a>(lines: &'a [Line], endpoint: &Line) -> Option<&'a Line> {
        let serial = endpoint.text("endpoint");
        lines.iter().find(|line| line.text("endpoint") == serial)
    }

    /// The operations that are stuck, the oldest first: those that began `oldest_ns` or more ago and wait for something
    /// other than their peer to send.
    pub fn stuck(&self, oldest_ns: u64) -> Vec<&Line> {
        let waiting = |line: &&Line| {
            !matches!(
                line.text("waits_on"),
                "arrival" | "arrivals" | "end-of-grant" | "revocation"
            )
        };
        // A line that counts the operations that are not shown is not an operation.
        let shown = |line: &&Line| line.number("more") == 0;
        let old = self.operations.iter().filter(shown).filter(waiting);
        let mut old: Vec<_> = old
            .filter(|line| line.number("age_ns") >= oldest_ns)
            .collect();
        old.sort_by_key(|line| std::cmp::Reverse(line.number("age_ns")));
        old
    }

    /// What an operation waits for, in words. If the peer's kernel is silent, the text adds that, since the process
    /// there does not know it.
    pub fn blame(&self, operation: &Line) -> String {
        let meaning = explain(operation.text("waits_on"));
        let endpoint = Self::of_endpoint(&self.endpoints, operation);
        match endpoint.map_or(0, |line| line.number("silent_heartbeats")) {
            0 => meaning.to_owned(),
            1 => format!("{meaning}; nothing has come from its kernel for 1 heartbeat"),
            count => format!("{meaning}; nothing has come from its kernel for {count} heartbeats"),
        }
    }

    /// Where the operation with this trace id is, if it is under way now. `None` when there is none.
    pub fn whereabouts(&self, trace_id: u64) -> Option<String> {
        let mut operations = self.operations.iter();
        let line = operations.find(|line| line.number("trace_id") == trace_id)?;
        let (op, endpoint) = (line.text("op"), line.text("endpoint"));
        Some(format!(
            "STUCK for {:.1} s: {op} on endpoint {endpoint}: {}",
            line.number("age_ns") as f64 / 1e9,
            self.blame(line)
        ))
    }
}

/// The error, with the reason in its text if lockdown is the cause.
fn explained(path: &Path, error: io::Error) -> io::Error {
    match lockdown::explain(path, &error) {
        Some(why) => io::Error::new(error.kind(), format!("{error}; {why}")),
        None => error,
    }
}

/// What an operation's `waits_on` means.
pub fn explain(waits_on: &str) -> &'static str {
    match waits_on {
        "peer-receives" => "the peer has posted no receive (no credits)",
        "window" => "the send window is full until the provider gives requests back",
        "pace" => "the link is slow: what is posted has to complete first",
        "other-devices" => "other devices are using the imported memory",
        "send-queue" => "the send queue is full until the provider gives requests back",
        "control-credits" => "the peer has not taken earlier control messages",
        "provider" => "the provider has it: the peer's acknowledgement is missing",
        "silent-peer" => {
            "the peer's kernel is silent: it acknowledges nothing, and announces no receive"
        }
        "earlier-operations" => "a fence: what was posted before has not completed",
        "order" => "the operation before it",
        "connection" => "the connection is not up",
        "turn" => "nothing: it is sent at once",
        "arrival" | "arrivals" => "the peer has not sent",
        "end-of-grant" => "the grant has not ended",
        "revocation" => "the memory has not been revoked",
        _ => "something that this version does not know",
    }
}

/// The numbers in a folder of sysfs, by their names.
///
/// # Errors
/// When the module is not loaded.
pub fn numbers(folder: &str) -> io::Result<BTreeMap<String, u64>> {
    let mut numbers = BTreeMap::new();
    for entry in fs::read_dir(PathBuf::from(SYSFS).join(folder))? {
        let entry = entry?;
        let text = fs::read_to_string(entry.path())?;
        if let Ok(value) = text.trim().parse() {
            numbers.insert(entry.file_name().to_string_lossy().into_owned(), value);
        }
    }
    Ok(numbers)
}

/// A value as it was before the driver wrote `\x20` for a byte that a line cannot hold.
fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'\\', b'x', digits @ ..] => digits
                .first_chunk::<2>()
                .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
                .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[4..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_by_name() {
        let line = Line::parse("endpoint=3 state=up local=[fe80::1]:7471 age_ns=12");
        assert_eq!(line.number("age_ns"), 12);
        assert_eq!(line.text("local"), "[fe80::1]:7471");
        assert_eq!((line.number("state"), line.text("nothing")), (0, ""));
    }

    #[test]
    fn counts_are_read_by_number() {
        let line = Line::parse("nodes=0:12,1:4 none= odd=0:12,x:4 half=0");
        let counts = BTreeMap::from([(0, 12), (1, 4)]);
        assert_eq!(line.counts("nodes"), Some(counts));
        assert_eq!(line.counts("none"), Some(BTreeMap::new()));
        for nonsense in ["odd", "half", "nothing"] {
            assert_eq!(line.counts(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn what_waits_for_the_peer_to_send_is_not_stuck() {
        let lines = [
            "endpoint=1 op=recv age_ns=900 waits_on=arrival",
            "endpoint=1 op=write_imm age_ns=100 waits_on=order",
            "endpoint=1 op=write_imm age_ns=500 waits_on=peer-receives",
            "endpoint=1 more=36 waits_on=order",
            "buffer=3 op=watch age_ns=900 waits_on=revocation",
        ];
        let state = State {
            operations: lines.map(Line::parse).to_vec(),
            ..State::default()
        };
        let stuck = state.stuck(100);
        assert_eq!(stuck.len(), 2);
        assert_eq!(stuck[0].text("waits_on"), "peer-receives");
        assert_eq!(state.stuck(0).len(), 2);
        assert!(state.stuck(501).is_empty());
    }

    #[test]
    fn a_silent_kernel_is_blamed_too() {
        let mut state = State {
            operations: vec![Line::parse(
                "endpoint=4 op=write_imm trace_id=7 age_ns=1500000000 waits_on=peer-receives",
            )],
            endpoints: vec![Line::parse("endpoint=4 silent_heartbeats=0")],
            ..State::default()
        };
        let text = state.whereabouts(7).expect("it is under way");
        assert!(text.starts_with("STUCK for 1.5 s: write_imm on endpoint 4"));
        assert!(!text.contains("heartbeats"), "{text}");
        state.endpoints = vec![Line::parse("endpoint=4 silent_heartbeats=3")];
        let text = state.whereabouts(7).expect("it is under way");
        assert!(text.ends_with("for 3 heartbeats"), "{text}");
        state.endpoints = vec![Line::parse("endpoint=4 silent_heartbeats=1")];
        let text = state.whereabouts(7).expect("it is in flight");
        assert!(text.ends_with("for 1 heartbeat"), "{text}");
        assert_eq!(state.whereabouts(8), None);
    }

    #[test]
    fn a_name_makes_up_no_member() {
        let line = Line::parse(r"device=a\x20state\x3ddown\x5c\x0a state=up odd=\x4 \xg0=1");
        assert_eq!(line.text("device"), "a state=down\\\n");
        assert_eq!(line.text("state"), "up");
        assert_eq!(line.text("odd"), "\\x4");
    }
}
