// SPDX-License-Identifier: MIT OR Apache-2.0

//! Timelines as Chrome's trace JSON, which chrome://tracing and Perfetto show.

use serde_json::{Value, json};

use super::follow::{Step, Timeline};

/// A timeline in Chrome's format: a process for each machine, a thread for each endpoint, a bar for each stage of an
/// operation, a mark for every event, and an arrow from each sending to its arrival.
pub fn render(timeline: &Timeline) -> Value {
    let sides: Vec<_> = timeline.offsets.keys().cloned().collect();
    let process = |step: &Step| {
        sides
            .iter()
            .position(|side| *side == step.side)
            .unwrap_or(0)
    };
    let mut events: Vec<Value> = sides
        .iter()
        .enumerate()
        .map(|(pid, name)| json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}))
        .collect();
    for step in &timeline.steps {
        let event = &step.event;
        let at = |ns: i64| ns as f64 / 1000.0;
        let (pid, tid) = (process(step), event.number("endpoint").unwrap_or(0));
        events.push(json!({
            "ph": "i", "s": "t", "name": event.name, "cat": "event", "pid": pid, "tid": tid,
            "ts": at(step.at_ns), "args": event.fields,
        }));
        let nanoseconds = |name| event.number(name).unwrap_or(0).cast_signed();
        if event.name == "op_complete" {
            let (total, provider) = (nanoseconds("total_ns"), nanoseconds("provider_ns"));
            let bars = [
                ("queued", total, total - provider),
                ("provider", provider, provider),
            ];
            for (stage, before, length) in bars.into_iter().filter(|bar| bar.2 > 0) {
                events.push(json!({
                    "ph": "X", "name": format!("{} {stage}", event.text("op")), "cat": "stage",
                    "pid": pid, "tid": tid, "ts": at(step.at_ns - before), "dur": at(length),
                    "args": {"trace_id": event.text("trace_id"), "state": event.text("state")},
                }));
            }
        }
        let arrow = match event.name.as_str() {
            "op_post" if event.number("seq") > Some(0) => "s",
            "op_arrive" => "f",
            _ => continue,
        };
        events.push(json!({
            "ph": arrow, "bp": "e", "name": "transfer", "cat": "transfer", "pid": pid, "tid": tid,
            "ts": at(step.at_ns), "id": format!("{}-{}", event.text("link"), event.text("seq")),
        }));
    }
    json!({"displayTimeUnit": "ns", "traceEvents": events, "otherData": {"verdict": timeline.verdict}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::{Side, follow};
    use crate::trace::parse;

    #[test]
    fn stages_are_bars_and_transfers_are_arrows() {
        let text = "t [0] 1.000010: op_post: trace_id=1 endpoint=2 link=3 op=SEND seq=1\n\
                    t [0] 1.000015: op_arrive: trace_id=0 endpoint=4 link=3 seq=1\n\
                    t [0] 1.000020: op_complete: trace_id=1 endpoint=2 op=SEND state=OK queued_ns=2000 provider_ns=10000 total_ns=12000\n";
        let side = Side {
            name: "here".to_owned(),
            events: parse(text),
        };
        let chrome = render(&follow(1, &[side]));
        let events = chrome["traceEvents"].as_array().expect("an array");
        let of =
            |ph: &str| -> Vec<&Value> { events.iter().filter(|event| event["ph"] == ph).collect() };
        assert_eq!(of("i").len(), 3);
        let bars = of("X");
        assert_eq!(bars[0]["name"], "SEND queued");
        assert_eq!(
            (&bars[0]["ts"], &bars[0]["dur"]),
            (&json!(-2.0), &json!(2.0))
        );
        assert_eq!(
            (&bars[1]["ts"], &bars[1]["dur"]),
            (&json!(0.0), &json!(10.0))
        );
        assert_eq!(of("s")[0]["id"], of("f")[0]["id"]);
    }
}
