// SPDX-License-Identifier: MIT OR Apache-2.0

//! Trace events as text: what tracefs, `trace-cmd report` and `perf script` print.

use std::collections::BTreeMap;

use serde::Serialize;

/// The driver's events.
pub const EVENTS: [&str; 23] = [
    "buffer_alloc",
    "buffer_free",
    "buffer_misplaced",
    "credit_resume",
    "credit_stall",
    "endpoint_down",
    "endpoint_last_will",
    "endpoint_up",
    "endpoint_violation",
    "grant_create",
    "grant_ended",
    "grant_revoke",
    "message_arrive",
    "message_send",
    "op_arrive",
    "op_complete",
    "op_post",
    "op_submit",
    "region_free",
    "region_register",
    "region_revoke",
    "teardown_begin",
    "teardown_end",
];

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Nanoseconds on the machine's own trace clock.
    pub time_ns: u64,
    /// One of [`EVENTS`].
    pub name: String,
    /// Its members as they were printed.
    pub fields: BTreeMap<String, String>,
}

impl Event {
    /// A member that is a number.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field)?.parse().ok()
    }

    /// A member as text, empty for one that is not there.
    pub fn text(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }

    /// Its members in one line.
    pub fn members(&self) -> String {
        let members = self.fields.iter();
        let texts: Vec<_> = members
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        texts.join(" ")
    }
}

/// The driver's events among the lines of a trace, in the order of time.
pub fn parse(text: &str) -> Vec<Event> {
    let mut events: Vec<_> = text.lines().filter_map(line).collect();
    events.sort_by_key(|event| event.time_ns);
    events
}

/// How many events were overwritten by later ones before anybody read them, from the head of tracefs's own text. `None`
/// where there is no such head.
pub fn lost(text: &str) -> Option<u64> {
    let mut head = text.lines().take_while(|line| line.starts_with('#'));
    let counts = head.find_map(|line| line.strip_prefix("# entries-in-buffer/entries-written:"))?;
    let (kept, written) = counts.split_whitespace().next()?.split_once('/')?;
    let written: u64 = written.parse().ok()?;
    written.checked_sub(kept.parse().ok()?)
}

/// One line: `TASK-PID [CPU] FLAGS SECONDS.FRACTION: EVENT: MEMBER=VALUE ...`, where FLAGS may be missing and EVENT may
/// begin with `dmaplane:`.
fn line(text: &str) -> Option<Event> {
    // A task's name comes first and may contain anything, even another event, so the last time that an event follows
    // counts. The members are the driver's, and contain no such thing.
    let pieces: Vec<&str> = text.split(": ").collect();
    let (time_ns, name, members) = pieces.windows(2).enumerate().rev().find_map(|(at, pair)| {
        let time = pair[0].split_whitespace().last().and_then(nanoseconds)?;
        let name = pair[1].trim().trim_end_matches(':');
        let name = name.strip_prefix("dmaplane:").unwrap_or(name);
        let members = pieces.get(at + 2).copied().unwrap_or("");
        EVENTS.contains(&name).then_some((time, name, members))
    })?;
    let members = members
        .split_whitespace()
        .filter_map(|member| member.split_once('='));
    Some(Event {
        time_ns,
        name: name.to_owned(),
        fields: members
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
    })
}

/// `12.345678` as nanoseconds.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    let digits = fraction.len();
    if digits == 0 || digits > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let scale = 10u64.pow(9 - u32::try_from(digits).ok()?);
    let seconds: u64 = seconds.parse().ok()?;
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(fraction.parse::<u64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEFS: &str = "# tracer: nop\n#\n\
        \x20 kworker/u8:1-42      [001] d..2.    12.345678: op_post: trace_id=7 endpoint=3 link=9 op=WRITE_IMM seq=1 bytes=4096 queued_ns=1200\n\
        \x20 odd: name] [0-43     [000] .....    12.000001: credit_stall: endpoint=3 link=9 queued=1\n\
        \x20 other-44             [000] .....    13.000001: sched_switch: prev_comm=x\n";

    #[test]
    fn the_drivers_events_are_read_in_the_order_of_time() {
        let events = parse(TRACEFS);
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["credit_stall", "op_post"]);
        assert_eq!(events[1].time_ns, 12_345_678_000);
        assert_eq!(events[1].number("bytes"), Some(4096));
        assert_eq!(events[1].text("op"), "WRITE_IMM");
        assert_eq!(events[1].number("op"), None);
    }

    #[test]
    fn other_tools_print_the_same_events() {
        let report = "  dmaplane-peer-9     [002]   1.5: op_arrive: trace_id=0 endpoint=1 link=2 seq=3 imm=4 bytes=5\n\
                      dmaplane 77 [001]  2.000000123: dmaplane:op_submit: trace_id=1 op=NOP\n";
        let events = parse(report);
        assert_eq!(events.len(), 2);
        assert_eq!(
            (events[0].time_ns, events[1].time_ns),
            (1_500_000_000, 2_000_000_123)
        );
    }

    #[test]
    fn no_name_of_a_task_hides_or_makes_up_an_event() {
        let event = "12.345678: op_post: trace_id=7 endpoint=3";
        for name in [
            "a 1.5: b",
            "1.5: op_submit:",
            ": 1.5: op_free: ",
            "x\n1.5: op_submit",
            "\u{1b}[2J",
            "#",
            "",
        ] {
            for dots in ["d..2.", ""] {
                let text = format!("  {name}-42      [001] {dots}    {event}\n");
                let events = parse(&text);
                assert_eq!(events.len(), 1, "{text:?}: {events:?}");
                assert_eq!(events[0].name, "op_post", "{text:?}");
                assert_eq!(events[0].time_ns, 12_345_678_000, "{text:?}");
            }
        }
    }

    #[test]
    fn what_was_overwritten_is_counted() {
        let head = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 205/1205   #P:2\n#\n";
        assert_eq!(lost(head), Some(1000));
        assert_eq!(lost(&head.replace("1205", "205")), Some(0));
        // Other tools write no such head, and a task's name may say anything.
        assert_eq!(lost(TRACEFS), None);
        assert_eq!(lost(&format!("a-1 [000] 1.0: x: y\n{head}")), None);
        for nonsense in ["205", "x/y", "9/1", ""] {
            assert_eq!(
                lost(&head.replace("205/1205", nonsense)),
                None,
                "{nonsense}"
            );
        }
    }

    #[test]
    fn the_list_is_sorted() {
        assert!(EVENTS.is_sorted());
    }
}
