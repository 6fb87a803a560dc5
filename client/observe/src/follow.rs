// SPDX-License-Identifier: MIT OR Apache-2.0

//! Following one trace id through the events of several machines.
//!
//! A WRITE_IMM carries no trace id to its receiver. But whatever consumes a receive is numbered on its connection, and
//! both sides name the connection alike (`link`): so the sender's `op_post` and the receiver's `op_arrive` of one
//! transfer have the same link and number, and so have `message_send` and `message_arrive`. The same pairs show how far
//! the machines' clocks are apart: nothing arrives before it is sent, in either direction.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use super::trace::Event;
use dmaplane::terminal::escape;

/// One machine's events.
#[derive(Clone, Debug)]
pub struct Side {
    /// What it is called.
    pub name: String,
    /// Its events in the order of time.
    pub events: Vec<Event>,
}

/// How far a machine's clock is ahead of the first machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offset {
    /// Nanoseconds.
    pub ns: i64,
    /// It may be off by so much; `None` where pairs of one direction only were seen, and the fastest of them is assumed
    /// to have taken no time.
    pub error_ns: Option<u64>,
    /// Pairs that it was computed from.
    pub pairs: usize,
}

/// One event of a timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// Nanoseconds since the timeline's first event, by the first machine's clock.
    pub at_ns: i64,
    /// The machine.
    pub side: String,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// What became of a trace id.
#[derive(Clone, Debug, Serialize)]
pub struct Timeline {
    /// The trace id.
    pub trace_id: u64,
    /// The machines' clocks, the first one's being 0.
    pub offsets: BTreeMap<String, Option<Offset>>,
    /// Its events, in order.
    pub steps: Vec<Step>,
    /// How it ended, or where it is.
    pub verdict: String,
}

/// What both sides of a pair have in common.
type Key = (u64, bool, u64);

/// What an outgoing or incoming event has in common with its other half; `true` for an outgoing one.
fn half(event: &Event) -> Option<(Key, bool)> {
    let (message, out) = match event.name.as_str() {
        "op_post" => (false, true),
        "op_arrive" => (false, false),
        "message_send" => (true, true),
        "message_arrive" => (true, false),
        _ => return None,
    };
    let seq = event.number("seq").filter(|seq| *seq != 0)?;
    Some(((event.number("link")?, message, seq), out))
}

/// The endpoint of an event.
fn endpoint(event: &Event) -> u64 {
    event.number("endpoint").unwrap_or(0)
}

/// Computes how far `other` is ahead of `first`; `None` when they have no pair.
pub fn offset(first: &[Event], other: &[Event]) -> Option<Offset> {
    let halves = |events: &[Event], wanted: bool| -> BTreeMap<Key, u64> {
        let halves = events
            .iter()
            .filter_map(|event| Some((half(event)?, event.time_ns)));
        let halves = halves.filter(|((_, out), _)| *out == wanted);
        // A number that occurs twice, since the connection was made anew, identifies no pair.
        let mut unique = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for ((key, _), time) in halves {
            if unique.insert(key, time).is_some() {
                twice.insert(key);
            }
        }
        unique.retain(|key, _| !twice.contains(key));
        unique
    };
    let differences = |out: &[Event], came: &[Event]| -> Vec<i64> {
        let came = halves(came, false);
        let pairs = halves(out, true).into_iter();
        let pairs = pairs.filter_map(|(key, sent)| Some((sent, *came.get(&key)?)));
        pairs
            .map(|(sent, came)| came.cast_signed().wrapping_sub(sent.cast_signed()))
            .collect()
    };
    let there = differences(first, other);
    let back = differences(other, first);
    let pairs = there.len() + back.len();
    // there: offset + delay, so the offset is at most the least of them. back: delay - offset.
    let most = there.iter().min().copied();
    let least = back.iter().min().map(|fastest| -fastest);
    Some(match (least, most) {
        (Some(least), Some(most)) => Offset {
            ns: least + (most - least) / 2,
            error_ns: Some((most - least).unsigned_abs().div_ceil(2)),
            pairs,
        },
        (Some(ns), None) | (None, Some(ns)) => Offset {
            ns,
            error_ns: None,
            pairs,
        },
        (None, None) => return None,
    })
}

/// Follows a trace id through what the machines recorded.
pub fn follow(trace_id: u64, sides: &[Side]) -> Timeline {
    let mut offsets = BTreeMap::new();
    let mut chosen: Vec<(i64, usize, &Event)> = Vec::new();
    let shift: Vec<i64> = sides
        .iter()
        .enumerate()
        .map(|(at, side)| {
            let found = match sides.first() {
                Some(first) if at > 0 => offset(&first.events, &side.events),
                _ => Some(Offset {
                    ns: 0,
                    error_ns: Some(0),
                    pairs: 0,
                }),
            };
            offsets.insert(side.name.clone(), found);
            found.map_or(0, |offset| offset.ns)
        })
        .collect();

    // Its own events, and the keys of the outgoing ones.
    let mut sent = BTreeSet::new();
    let mut senders = BTreeSet::new();
    for (at, side) in sides.iter().enumerate() {
        for event in &side.events {
            if event.number("trace_id") != Some(trace_id) {
                continue;
            }
            if let Some((key, true)) = half(event) {
                sent.insert(key);
            }
            if endpoint(event) != 0 {
                senders.insert((at, endpoint(event)));
            }
            chosen.push((event.time_ns.cast_signed() - shift[at], at, event));
        }
    }
    // Their other halves, and the completions of the receives that these consumed.
    for (at, side) in sides.iter().enumerate() {
        let mut met = BTreeSet::new();
        for event in &side.events {
            let own = event.number("trace_id") == Some(trace_id);
            let arrives = half(event).is_some_and(|(key, out)| !out && sent.contains(&key));
            if arrives && !own {
                met.insert((
                    endpoint(event),
                    event.number("trace_id").filter(|id| *id != 0),
                ));
                chosen.push((event.time_ns.cast_signed() - shift[at], at, event));
            }
            let completes = event.name == "op_complete" && event.text("op") == "RECV" && !own;
            let of = (
                endpoint(event),
                event.number("trace_id").filter(|id| *id != 0),
            );
            if completes && of.1.is_some() && met.contains(&of) {
                chosen.push((event.time_ns.cast_signed() - shift[at], at, event));
            }
        }
    }
    // The events of its endpoints meanwhile.
    let from = chosen.iter().map(|(time, ..)| *time).min().unwrap_or(0);
    let ended = chosen.iter().any(|(.., event)| is_end(event, trace_id));
    let until = if ended {
        chosen.iter().map(|(time, ..)| *time).max().unwrap_or(0)
    } else {
        i64::MAX
    };
    for (at, side) in sides.iter().enumerate() {
        for event in &side.events {
            let time = event.time_ns.cast_signed() - shift[at];
            let of_endpoint = matches!(
                event.name.as_str(),
                "credit_stall"
                    | "credit_resume"
                    | "endpoint_down"
                    | "endpoint_last_will"
                    | "endpoint_violation"
            );
            let meanwhile = (from..=until).contains(&time);
            // Before it has an endpoint, all stalls may be its own.
            let concerned = senders.is_empty() || senders.contains(&(at, endpoint(event)));
            if of_endpoint && meanwhile && concerned && !chosen.is_empty() {
                chosen.push((time, at, event));
            }
        }
    }
    chosen.sort_by_key(|(time, at, event)| (*time, *at, event.time_ns));
    let steps: Vec<_> = chosen
        .iter()
        .map(|(time, at, event)| Step {
            at_ns: time - from,
            side: sides[*at].name.clone(),
            event: (*event).clone(),
        })
        .collect();
    Timeline {
        trace_id,
        offsets,
        verdict: verdict(trace_id, &steps),
        steps,
    }
}

/// Whether this event is the completion of the followed operation.
fn is_end(event: &Event, trace_id: u64) -> bool {
    event.name == "op_complete" && event.number("trace_id") == Some(trace_id)
}

/// The last event of this name that an operation of this trace id has.
fn own<'a>(trace_id: u64, steps: &'a [Step], name: &str) -> Option<&'a Step> {
    let mut steps = steps.iter().rev();
    steps.find(|step| step.event.name == name && step.event.number("trace_id") == Some(trace_id))
}

/// How it ended, or where it is.
fn verdict(trace_id: u64, steps: &[Step]) -> String {
    let own = |name: &str| own(trace_id, steps, name);
    if let Some(done) = own("op_complete") {
        let event = &done.event;
        let nanoseconds = event.number("total_ns").unwrap_or(0);
        return format!(
            "{} ended {} after {} us (queued {} us, in the provider {} us)",
            event.text("op"),
            event.text("state"),
            nanoseconds / 1000,
            event.number("queued_ns").unwrap_or(0) / 1000,
            event.number("provider_ns").unwrap_or(0) / 1000,
        );
    }
    let last = |name: &str| steps.iter().rposition(|step| step.event.name == name);
    let stalled = last("credit_stall") > last("credit_resume");
    if let Some(post) = own("op_post") {
        let arrived = steps.iter().any(|step| step.event.name == "op_arrive");
        let to = if arrived {
            "it has arrived, but its acknowledgement is missing"
        } else {
            "the provider has it, and no event shows that it has arrived"
        };
        return format!("STUCK: {} was posted; {to}", post.event.text("op"));
    }
    match own("op_submit") {
        Some(submit) if stalled => format!(
            "STUCK: {} waits for credits: the peer has posted no receive",
            submit.event.text("op")
        ),
        Some(submit) => format!(
            "STUCK: {} was accepted and not posted: see what waits before it",
            submit.event.text("op")
        ),
        None => {
            "no event has this trace id: was it recorded, and does an entry carry it?".to_owned()
        }
    }
}

impl Timeline {
    /// Whether it holds the end of an operation.
    pub fn has_ended(&self) -> bool {
        own(self.trace_id, &self.steps, "op_complete").is_some()
    }

    /// The timeline for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "trace {}: {}", self.trace_id, escape(&self.verdict));
        for (side, offset) in self.offsets.iter().filter(|_| self.offsets.len() > 1) {
            let side = escape(side);
            let _ = match offset {
                None => writeln!(
                    text,
                    "clock of {side}: unknown, it shares no pair with the first"
                ),
                Some(Offset { pairs: 0, .. }) => writeln!(text, "clock of {side}: the reference"),
                Some(offset) => {
                    let error = offset
                        .error_ns
                        .map_or("one direction only".to_owned(), |error| {
                            format!("+-{:.1} us", error as f64 / 1000.0)
                        });
                    let ahead = offset.ns as f64 / 1000.0;
                    let pairs = offset.pairs;
                    writeln!(
                        text,
                        "clock of {side}: {ahead:+.1} us ({error}, {pairs} pairs)"
                    )
                }
            };
        }
        for step in &self.steps {
            let _ = writeln!(
                text,
                "{:+12.3} us  {:10} {:18} {}",
                step.at_ns as f64 / 1000.0,
                escape(&step.side),
                step.event.name,
                escape(&step.event.members())
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::parse;

    fn side(name: &str, text: &str) -> Side {
        Side {
            name: name.to_owned(),
            events: parse(text),
        }
    }

    /// A transfer that takes 5 us there and a credit that takes 5 us back; far's clock is 1 s ahead.
    fn both() -> [Side; 2] {
        [
            side(
                "near",
                "t-1 [000] 10.000001: op_submit: trace_id=7 op=WRITE_IMM\n\
                 t-1 [000] 10.000002: credit_stall: endpoint=3 link=9 queued=1\n\
                 t-1 [000] 10.000010: message_arrive: endpoint=3 link=9 kind=CREDIT seq=1 number=0\n\
                 t-1 [000] 10.000011: credit_resume: endpoint=3 link=9 credits=1 stalled_ns=9000\n\
                 t-1 [000] 10.000012: op_post: trace_id=7 endpoint=3 link=9 op=WRITE_IMM seq=1 bytes=64 queued_ns=11000\n\
                 t-1 [000] 10.000020: op_complete: trace_id=7 endpoint=3 link=9 op=WRITE_IMM state=OK total_ns=19000 queued_ns=11000 provider_ns=8000\n\
                 t-1 [000] 10.000021: op_post: trace_id=8 endpoint=3 link=9 op=WRITE seq=0 bytes=64 queued_ns=1\n",
            ),
            side(
                "far",
                "t-1 [000] 11.000005: message_send: endpoint=1 link=9 kind=CREDIT seq=1 number=0\n\
                 t-1 [000] 11.000017: op_arrive: trace_id=70 endpoint=1 link=9 seq=1 imm=4 bytes=64\n\
                 t-1 [000] 11.000018: op_complete: trace_id=70 endpoint=1 link=9 op=RECV state=OK total_ns=1\n\
                 t-1 [000] 11.000019: op_complete: trace_id=71 endpoint=1 link=9 op=RECV state=OK total_ns=1\n",
            ),
        ]
    }

    #[test]
    fn clocks_are_compared_by_what_goes_both_ways() {
        let [near, far] = both();
        let found = offset(&near.events, &far.events).expect("pairs");
        assert_eq!(found.ns, 1_000_000_000);
        assert_eq!((found.error_ns, found.pairs), (Some(5000), 2));
        assert_eq!(offset(&near.events, &[]), None);
    }

    #[test]
    fn one_id_is_followed_to_the_other_machine() {
        let timeline = follow(7, &both());
        let steps: Vec<_> = timeline
            .steps
            .iter()
            .map(|step| format!("{} {}", step.side, step.event.name))
            .collect();
        assert_eq!(
            steps,
            [
                "near op_submit",
                "near credit_stall",
                "near credit_resume",
                "near op_post",
                "far op_arrive",
                "far op_complete",
                "near op_complete"
            ]
        );
        assert_eq!(timeline.steps[4].at_ns, 16_000);
        assert!(
            timeline
                .verdict
                .starts_with("WRITE_IMM ended OK after 19 us"),
            "{}",
            timeline.verdict
        );
        assert!(
            timeline
                .text()
                .contains("clock of far: +1000000.0 us (+-5.0 us, 2 pairs)"),
            "{}",
            timeline.text()
        );
    }

    #[test]
    fn an_unfinished_operation_is_located() {
        let [mut near, far] = both();
        near.events.truncate(2);
        let waits = follow(7, &[near.clone(), far.clone()]);
        assert!(waits.verdict.contains("no receive"), "{}", waits.verdict);
        near = both()[0].clone();
        near.events.truncate(5);
        let posted = follow(7, &[near, far]);
        assert!(posted.verdict.contains("has arrived"), "{}", posted.verdict);
        let unknown = follow(99, &both());
        assert!(
            unknown.verdict.starts_with("no event"),
            "{}",
            unknown.verdict
        );
        assert!(unknown.steps.is_empty());
    }
}
