// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane metrics` is OpenMetrics text, by the rules of its specification that a scraper relies on.

use std::collections::{BTreeMap, BTreeSet};

use dmaplane_observe::metrics::render;
use dmaplane_observe::state::{Line, State};

/// What may follow a family's name in a sample.
fn suffixes(kind: &str) -> &'static [&'static str] {
    match kind {
        "gauge" => &[""],
        "counter" => &["_total", "_created"],
        "summary" => &["", "_count", "_sum", "_created"],
        other => panic!("a family of kind {other}"),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The labels of a sample, unescaped.
fn labels(text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").expect("a label's value");
        assert!(is_name(name), "the label {name}");
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (at, c) in after.char_indices() {
            match (escaped, c) {
                (true, 'n') => value.push('\n'),
                (true, '\\' | '"') => value.push(c),
                (true, _) => panic!("the escape \\{c}"),
                (false, '"') => {
                    end = Some(at);
                    break;
                }
                (false, '\\') => {}
                (false, _) => value.push(c),
            }
            escaped = !escaped && c == '\\';
        }
        let end = end.expect("the end of a value");
        let twice = labels.insert(name.to_owned(), value);
        assert!(twice.is_none(), "the label {name} twice");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

/// Checks an exposition; the samples by family and labels.
fn validate(text: &str) -> BTreeMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("the end");
    let mut families = BTreeSet::new();
    let (mut family, mut kind) = (String::new(), String::new());
    let mut samples = BTreeMap::new();
    let mut begun = false;
    for line in body.lines() {
        if let Some(description) = line.strip_prefix("# ") {
            let mut words = description.splitn(3, ' ');
            let (what, name) = (words.next().expect("a word"), words.next().expect("a name"));
            let rest = words.next().unwrap_or("");
            assert!(is_name(name), "the family {name}");
            match what {
                "TYPE" => {
                    assert!(families.insert(name.to_owned()), "the family {name} twice");
                    (family, kind) = (name.to_owned(), rest.to_owned());
                    begun = false;
                }
                "UNIT" => {
                    assert!(
                        family.ends_with(&format!("_{rest}")),
                        "{family} is no {rest}"
                    );
                }
                "HELP" => assert!(!rest.is_empty(), "{name} without help"),
                other => panic!("{other}"),
            }
            assert_eq!(name, family, "descriptions of a family stand together");
            assert!(!begun, "descriptions stand before samples");
            continue;
        }
        begun = true;
        let (head, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        let (name, labels) = match head.split_once('{') {
            Some((name, rest)) => (name, labels(rest.strip_suffix('}').expect("a brace"))),
            None => (head, BTreeMap::new()),
        };
        let suffix = name.strip_prefix(&family).expect("a sample of its family");
        assert!(suffixes(&kind).contains(&suffix), "{name} in a {kind}");
        if kind == "summary" && suffix.is_empty() {
            let quantile: f64 = labels["quantile"].parse().expect("a quantile");
            assert!((0.0..=1.0).contains(&quantile), "{quantile}");
        } else {
            assert!(!labels.contains_key("quantile"), "{line}");
        }
        if kind != "gauge" {
            assert!(value >= 0.0, "{line}");
        }
        let twice = samples.insert(head.to_owned(), value);
        assert!(twice.is_none(), "{head} twice");
    }
    samples
}

fn state() -> State {
    let json = serde_json::json!({
        "contexts": [], "buffers": [], "regions": [], "grants": [],
        "endpoints": [{"endpoint": "3", "state": "up", "local": "[fe80::1]:1", "peer": "a\"b\\c", "device": "rxe0"}],
        "credits": [{"endpoint": "3", "send_credits": "7", "queued": "1", "stalls": "2", "stalled_ns": "1500000000"}],
        "operations": [{"endpoint": "3", "op": "write", "age_ns": "250000000", "waits_on": "provider"}],
        "totals": [{"endpoint": "3", "op": "write", "ended": "10", "failed": "1", "bytes": "4096"}],
        "histograms": [{"endpoint": "3", "op": "write", "stage": "total", "count": "9", "p50_ns": "1000",
                        "p99_ns": "2000", "p999_ns": "3000", "max_ns": "4000"}],
    });
    serde_json::from_value(json).expect("a state")
}

#[test]
fn the_text_is_openmetrics() {
    let counts = BTreeMap::from([("buffers".to_owned(), 2), ("bytes".to_owned(), 8192)]);
    let samples = validate(&render(&counts, Some(&state())));
    let value = |name: &str| samples.get(name).copied();
    assert_eq!(value("dmaplane_objects{kind=\"buffers\"}"), Some(2.0));
    assert_eq!(value("dmaplane_buffer_bytes"), Some(8192.0));
    assert_eq!(
        value("dmaplane_credit_stalled_seconds_total{endpoint=\"3\"}"),
        Some(1.5)
    );
    let p99 =
        "dmaplane_latency_seconds{endpoint=\"3\",op=\"write\",stage=\"total\",quantile=\"0.99\"}";
    assert_eq!(value(p99), Some(2e-6));
    assert_eq!(value("dmaplane_oldest_operation_seconds"), Some(0.25));
}

#[test]
fn without_root_there_are_counts_alone() {
    let counts = BTreeMap::from([("buffers".to_owned(), 2)]);
    let samples = validate(&render(&counts, None));
    assert_eq!(samples.len(), 2);
}

#[test]
#[should_panic(expected = "twice")]
fn a_sample_that_occurs_twice_is_found() {
    validate("# TYPE a gauge\n# HELP a b\na 1\na 2\n# EOF\n");
}

#[test]
fn a_hostile_device_makes_up_no_sample_and_moves_no_cursor() {
    let state = State {
        endpoints: vec![Line::parse(
            r"endpoint=3 state=up device=a\x22}\x201\x0ab\x1b[2J\x5c peer=10.77.0.2:1",
        )],
        ..State::default()
    };
    let text = render(&BTreeMap::new(), Some(&state));
    let shown = text.chars().all(|c| c == '\n' || !c.is_control());
    assert!(shown, "{text:?}");
    let samples = validate(&text);
    let up: Vec<_> = samples
        .keys()
        .filter(|head| head.starts_with("dmaplane_endpoint_up"))
        .collect();
    assert_eq!(up.len(), 1, "{text}");
    assert!(
        up[0].contains(r#"device="a\"} 1\\u{a}b\\u{1b}[2J\\\\""#),
        "{text}"
    );
}
