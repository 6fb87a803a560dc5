// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `dmaplane top` makes of two readings.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dmaplane_observe::files::OpenFile;
use dmaplane_observe::state::{Line, State};

use super::view::{Reading, Row, View};

/// Bucket of 256 to 264 ns, and of 16.4 to 16.9 us.
pub(super) const SHORT: u64 = 32;
pub(super) const LONG: u64 = 224;

pub(super) fn lines(texts: &[&str]) -> Vec<Line> {
    texts.iter().map(|text| Line::parse(text)).collect()
}

/// Endpoint 3 on a connection of this number, with the buckets of its kinds of operation.
pub(super) fn endpoint(link: u64, kinds: &[(&str, &[(u64, u64)])]) -> State {
    let mut state = State {
        endpoints: lines(&[&format!(
            "endpoint=3 link={link} state=up peer=10.77.0.2:41000 posted=2"
        )]),
        credits: lines(&["endpoint=3 send_credits=16 queued=1 stalls=4"]),
        ..State::default()
    };
    for (op, buckets) in kinds {
        let count: u64 = buckets.iter().map(|(_, count)| count).sum();
        let pairs: Vec<_> = buckets
            .iter()
            .map(|(place, count)| format!("{place}:{count}"))
            .collect();
        state.totals.push(Line::parse(&format!(
            "endpoint=3 op={op} ended={count} bytes={}",
            count * 4096
        )));
        state.histograms.push(Line::parse(&format!(
            "endpoint=3 op={op} stage=total count={count} p50_ns=260 p99_ns=700 p999_ns=900 max_ns=50000 buckets={}",
            pairs.join(",")
        )));
    }
    state
}

/// What is shown two seconds after `before`.
pub(super) fn view(before: Option<State>, now: State) -> View {
    let begin = Instant::now();
    let reading = |at, state| Reading {
        at,
        counts: BTreeMap::from([("endpoints".to_owned(), 1)]),
        state: Ok(state),
        files: Vec::new(),
    };
    let before = before.map(|state| reading(begin, state));
    let now = reading(begin + Duration::from_secs(2), now);
    View::of(&now, before.as_ref(), 1000)
}

fn live(row: &Row) -> Vec<(&str, u64, f64)> {
    let kinds = row.latencies_live.as_deref().expect("live latencies");
    kinds
        .iter()
        .map(|kind| (kind.op.as_str(), kind.count, kind.p50_us))
        .collect()
}

#[test]
fn latencies_are_of_the_interval() {
    let before = endpoint(7, &[("write", &[(SHORT, 1000)])]);
    let now = endpoint(7, &[("write", &[(SHORT, 1000), (LONG, 10)])]);
    let view = view(Some(before), now);
    let row = &view.endpoints[0];
    assert_eq!(live(row), [("write", 10, 16.64)]);
    assert_eq!(row.operations_per_second, 5.0);
    // The figures of its whole life are shown besides.
    assert_eq!((row.latencies[0].count, row.p50_us), (1010, 0.26));
    let text = view.lines().join("\n");
    assert!(
        text.contains("rates, latencies  of the last 2.0 s"),
        "{text}"
    );
    let shown = text.lines().find(|line| line.contains("10.77.0.2"));
    let shown = shown.expect("the endpoint's line");
    assert!(
        shown.contains("write          16.6      16.6      16.6      16"),
        "{shown}"
    );
}

#[test]
fn each_kind_of_operation_is_named_the_busiest_first() {
    let before = endpoint(7, &[("recv", &[]), ("write", &[]), ("read", &[(SHORT, 9)])]);
    let kinds: [(&str, &[(u64, u64)]); 4] = [
        ("recv", &[(LONG, 50)]),
        ("write", &[(SHORT, 2)]),
        ("read", &[(SHORT, 9)]),
        ("send", &[(LONG, 5)]),
    ];
    let view = view(Some(before), endpoint(7, &kinds));
    let row = &view.endpoints[0];
    let wanted = [("send", 5, 16.64), ("write", 2, 0.26), ("recv", 50, 16.64)];
    assert_eq!(live(row), wanted);
    // Receives wait for the peer, so the figures of the endpoint's whole life are those of another kind, as ever.
    assert_eq!(row.latencies.last().expect("kinds").op, "recv");
    assert_eq!(row.p99_us, 0.7);
    let text = view.lines().join("\n");
    assert!(text.contains(" send           16.6"), "{text}");
    assert!(text.contains(" recv           16.6"), "{text}");
}

#[test]
fn an_idle_endpoint_has_no_live_latencies() {
    let same = || endpoint(7, &[("write", &[(SHORT, 1000)])]);
    let view = view(Some(same()), same());
    assert!(live(&view.endpoints[0]).is_empty());
    let text = view.lines().join("\n");
    assert!(
        text.contains("up             0          0 B -                 -"),
        "{text}"
    );
}

#[test]
fn the_first_reading_says_that_it_has_no_rates() {
    let view = view(None, endpoint(7, &[("write", &[(SHORT, 1000)])]));
    assert_eq!(view.interval_seconds, None);
    assert_eq!(view.endpoints[0].latencies_live, None);
    let text = view.lines().join("\n");
    assert!(text.contains("this is the first"), "{text}");
    assert!(
        text.contains("up             -            - -                 -"),
        "{text}"
    );
    let whole = text.find("since the endpoints began").expect("the label");
    assert!(
        text[whole..].contains("write           0.3       0.7       0.9         1000"),
        "{text}"
    );
}

#[test]
fn latencies_that_were_emptied_count_from_there() {
    let before = endpoint(7, &[("write", &[(SHORT, 1000)])]);
    let now = endpoint(7, &[("write", &[(SHORT, 1), (LONG, 2)])]);
    let view = view(Some(before), now);
    assert_eq!(live(&view.endpoints[0]), [("write", 3, 16.64)]);
    // So do operation counts that decreased: their rate is neither negative nor missing.
    assert_eq!(view.endpoints[0].operations_per_second, 1.5);
}

#[test]
fn another_endpoint_of_the_same_serial_is_not_compared() {
    let before = endpoint(7, &[("write", &[(SHORT, 1000)])]);
    let now = endpoint(8, &[("write", &[(SHORT, 1001)])]);
    let view = view(Some(before), now);
    assert_eq!(live(&view.endpoints[0]), [("write", 1001, 0.26)]);
    assert_eq!(view.endpoints[0].operations_per_second, 500.5);
}

#[test]
fn an_endpoint_that_gets_its_connection_stays_the_same() {
    let before = endpoint(0, &[("write", &[(SHORT, 1000)])]);
    let now = endpoint(8, &[("write", &[(SHORT, 1001)])]);
    let view = view(Some(before), now);
    assert_eq!(live(&view.endpoints[0]), [("write", 1, 0.26)]);
}

#[test]
fn a_driver_without_buckets_has_latencies_of_whole_lives_alone() {
    let mut now = endpoint(7, &[]);
    let line = "endpoint=3 op=write stage=total count=9 p50_ns=260 p99_ns=700 p999_ns=900";
    now.histograms = lines(&[line]);
    let view = view(Some(endpoint(7, &[])), now);
    assert_eq!(view.endpoints[0].latencies_live, None);
    let text = view.lines().join("\n");
    assert!(
        text.contains("of the last 2.0 s; latencies only since"),
        "{text}"
    );
    assert!(text.contains("write           0.3"), "{text}");
}

#[test]
fn pages_are_shown_where_they_are() {
    let page = rustix::param::page_size();
    let state = State {
        buffers: lines(&[
            &format!(
                "buffer=1 bytes={} policy=any node=-1 nodes=0:12,1:4",
                16 * page
            ),
            &format!("buffer=2 bytes={page} policy=strict node=1 nodes=1:1"),
            &format!("buffer=3 bytes={page} policy=any node=-1"),
        ]),
        ..State::default()
    };
    let view = view(None, state);
    let resident = view.resident_bytes_by_node.as_ref().expect("pages");
    let wanted = [("0", 12), ("1", 5), ("unknown", 1)];
    let wanted = wanted.map(|(node, pages)| (node.to_owned(), pages * page as u64));
    assert_eq!(*resident, BTreeMap::from(wanted));
    let text = view.lines().join("\n");
    let (asked, found) = ("\nbuffers by policy 1: ", "\npages by node     0: ");
    assert!(text.contains(asked) && text.contains(found), "{text}");
}

#[test]
fn a_driver_that_does_not_show_pages_is_not_guessed_at() {
    let state = State {
        buffers: lines(&["buffer=1 bytes=4096 policy=any node=-1"]),
        ..State::default()
    };
    let view = view(None, state);
    assert_eq!(view.resident_bytes_by_node, None);
    let text = view.lines().join("\n");
    assert!(
        text.contains("\npages by node     this driver does not"),
        "{text}"
    );
}

#[test]
fn without_root_it_says_what_is_not_shown() {
    let now = Reading {
        at: Instant::now(),
        counts: BTreeMap::from([("endpoints".to_owned(), 2)]),
        state: Err("debugfs: permission denied".to_owned()),
        files: Vec::new(),
    };
    let lines = View::of(&now, Some(&now), 1000).lines();
    assert!(lines[0].contains(" 2 endpoints, "), "{lines:#?}");
    assert_eq!(lines[1], "not shown: debugfs: permission denied");
    assert!(
        !lines.iter().any(|line| line.starts_with("rates")),
        "{lines:#?}"
    );
}

#[test]
fn the_json_keeps_its_names() {
    let before = endpoint(7, &[("write", &[(SHORT, 1000)])]);
    let view = view(Some(before.clone()), before);
    let json = serde_json::to_value(&view).expect("JSON");
    for name in [
        "counts",
        "endpoints",
        "stuck",
        "bytes_by_node",
        "files",
        "hidden",
    ] {
        assert!(json.get(name).is_some(), "no {name} in {json}");
    }
    let row = &json["endpoints"][0];
    let texts = ["endpoint", "peer", "state"];
    assert!(texts.iter().all(|name| row[name].is_string()), "{row}");
    let rates = [
        "operations_per_second",
        "bytes_per_second",
        "p50_us",
        "p99_us",
    ];
    assert!(rates.iter().all(|name| row[name].is_f64()), "{row}");
    let numbers = ["credits", "queued", "posted", "stalls", "silent_heartbeats"];
    assert!(numbers.iter().all(|name| row[name].is_u64()), "{row}");
}

#[test]
fn names_that_others_chose_move_no_cursor_and_begin_no_line() {
    let mut view = view(None, endpoint(7, &[]));
    view.files = ["\x1b[2J\x1b[31mROOT\x07", "a\nSTUCK 9 s: x"]
        .map(|command| OpenFile {
            pid: 42,
            command: command.to_owned(),
            holds: BTreeMap::from([("bytes".to_owned(), 1)]),
        })
        .to_vec();
    let lines = view.lines();
    for line in &lines {
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(!line.starts_with("STUCK"), "{line:?}");
    }
    assert!(
        lines.iter().any(|line| line.contains("\\u{1b}[2J")),
        "{lines:#?}"
    );
}
