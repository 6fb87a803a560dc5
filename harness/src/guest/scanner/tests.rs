// SPDX-License-Identifier: MIT OR Apache-2.0
//! The scanner on golden logs, and on rules with mistakes.
//!
//! A log in vm/golden starts with what must be found, one line each:
//! `#expect TEXT | TEST` or `#expect-leak TEXT | TEST`, where TEST is `-` outside of any test.

use super::*;

const DAY: Day = (2027, 1, 31);

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn rules(allow: &str) -> Rules {
    let deny = fs::read_to_string(root().join("vm/splats/deny.toml")).unwrap();
    Rules::parse(&deny, allow, DAY).unwrap()
}

fn allow(pattern: &str, expires: &str) -> String {
    format!(
        "[[allow]]\npattern = '{pattern}'\nreason = \"known\"\n\
         link = \"https://example.org/1\"\nexpires = {expires}\n"
    )
}

#[test]
fn golden_logs() {
    let rules = rules("allow = []");
    let mut logs = 0;
    for entry in fs::read_dir(root().join("vm/golden")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let expected: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let (verb, rest) = line.split_once(' ')?;
                let leak = match verb {
                    "#expect" => false,
                    "#expect-leak" => true,
                    _ => return None,
                };
                let (text, test) = rest.split_once(" | ").unwrap();
                let test = (test != "-").then(|| test.to_owned());
                Some((text.to_owned(), leak, test))
            })
            .collect();
        // The expectations themselves must not be scanned.
        let log: String = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        let found = rules.scan(&log).findings;
        let lines: Vec<_> = found.iter().map(|f| (&f.text, f.leak, &f.test)).collect();
        assert_eq!(
            found.len(),
            expected.len(),
            "{}: {lines:#?}",
            path.display()
        );
        for (found, (text, leak, test)) in found.iter().zip(&expected) {
            assert!(
                found.text.contains(text),
                "{}: {:?}",
                path.display(),
                found.text
            );
            assert_eq!(
                (found.leak, &found.test),
                (*leak, test),
                "{}: {text}",
                path.display()
            );
        }
        logs += 1;
    }
    assert!(logs >= 6, "only {logs} golden logs");
}

#[test]
fn the_rules_of_the_checkout_are_in_force() {
    Rules::load(root()).unwrap();
}

#[test]
fn an_empty_deny_list_is_an_error() {
    let err = Rules::parse("deny = []", "allow = []", DAY)
        .err()
        .unwrap()
        .to_string();
    assert!(err.contains("every console would count as clean"), "{err}");
}

#[test]
fn a_pattern_that_matches_everything_or_nothing_sensible_is_an_error() {
    for pattern in ["", ".*", "("] {
        let deny = format!("[[deny]]\npattern = '{pattern}'\nreason = \"x\"\n");
        assert!(
            Rules::parse(&deny, "allow = []", DAY).is_err(),
            "{pattern:?}"
        );
    }
}

#[test]
fn an_allow_entry_needs_reason_link_and_a_day_to_come() {
    let good = allow("quirk", "2027-01-31");
    assert!(Rules::parse("[[deny]]\npattern='x'\nreason='x'", &good, DAY).is_ok());
    let cases = [
        (allow("quirk", "2027-01-30"), "expired"),
        (allow("quirk", "10:00:00"), "no day"),
        (good.replace("known", " "), "no reason"),
        (
            good.replace("https://example.org/1", "see above"),
            "no link",
        ),
        (good.replace("reason", "raeson"), "raeson"),
    ];
    for (text, want) in cases {
        let err = Rules::parse("[[deny]]\npattern='x'\nreason='x'", &text, DAY)
            .err()
            .unwrap();
        assert!(format!("{err:#}").contains(want), "{want}: {err:#}");
    }
}

#[test]
fn an_allow_entry_excuses_only_what_it_is_near() {
    let log = "WARNING: a.c:1 probe\n quirk\nfine\nBUG: sleeping\n";
    let near = rules(&(allow("quirk", "2027-06-30") + "within = 1\n")).scan(log);
    assert_eq!((near.findings.len(), near.excused.len()), (1, 1));
    assert!(near.findings[0].text.starts_with("BUG"));
    let far = rules(&(allow("quirk", "2027-06-30") + "within = 0\n")).scan(log);
    assert_eq!((far.findings.len(), far.excused.len()), (2, 0));
    let both = allow("quirk", "2027-06-30") + "line = 'WARNING: b'\n";
    assert_eq!(rules(&both).scan(log).excused.len(), 0);
    assert_eq!(
        rules(&both.replace("WARNING: b", "WARNING: a"))
            .scan(log)
            .excused
            .len(),
        1
    );
}

#[test]
fn a_finding_names_its_callers() {
    let log = "[    4.0] WARNING: drivers/example/broken.c:1 at broken+0x1/0x2\n[    4.0] RIP: 0010:broken+0x1/0x2\n\
               [    4.0] Call Trace:\n[    4.0]  <IRQ>\n[    4.0]  ? guessed+0x1/0x2\n\
               [    4.0]  inner.isra.0+0x12/0x34 [module]\n[    4.0]  outer+0x1/0x2\n[    4.0]  </IRQ>\n";
    let scan = rules("allow = []").scan(log);
    assert_eq!(scan.findings[0].callers(), ["inner.isra.0", "outer"]);
    let without = rules("allow = []").scan("[    4.0] WARNING: drivers/example/broken.c:1\n");
    assert!(without.findings[0].callers().is_empty());
}

/// rxe's warning is excused where a packet's arrival causes it, and nowhere else.
#[test]
fn the_list_of_known_bugs_excuses_no_more_than_it_says() {
    let known = fs::read_to_string(root().join("vm/splats/allow.toml")).unwrap();
    let rules = Rules::parse(
        &fs::read_to_string(root().join("vm/splats/deny.toml")).unwrap(),
        &known,
        (2026, 11, 29),
    )
    .unwrap();
    let log = |from: &str| {
        let trace = "[   85.6] Call Trace:\n[   85.6]  <TASK>\n";
        format!(
            "[   85.6] WARNING: drivers/infiniband/sw/rxe/rxe_task.c:249 at \
             rxe_sched_task+0x86/0x90 [rdma_rxe], CPU#1: kworker/u10:1/27\n{trace}[   85.6]  {from}\n"
        )
    };
    let count = |text: String| {
        let scan = rules.scan(&text);
        (scan.findings.len(), scan.excused.len())
    };
    assert_eq!(count(log("rxe_rcv+0x3dd/0x490 [rdma_rxe]")), (0, 1));
    let callers = [
        "rxe_udp_encap_recv+0x7e/0x90",
        "rxe_xmit_packet+0x171/0x2a0",
    ];
    for caller in callers {
        assert_eq!(count(log(caller)), (0, 1), "{caller}");
    }
    assert_eq!(count(log("rxe_skb_tx_dtor+0x93/0xb0 [rdma_rxe]")), (1, 0));
    assert_eq!(count(log("rxe_post_send+0x3dd/0x490 [rdma_rxe]")), (1, 0));
    let other = log("rxe_rcv+0x3dd/0x490 [rdma_rxe]").replace("rxe_task.c:249", "rxe_qp.c:1");
    assert_eq!(count(other), (1, 0));
}

#[test]
fn markers_are_parsed_where_the_kernel_puts_them() {
    let line = "[   12.345678] dmaplane-test: begin buffers::fork";
    assert_eq!(Marker::parse(line), Some(Marker::Begin("buffers::fork")));
    let line = "[   12.345678][  T101] dmaplane-test: end buffers::fork ok";
    assert_eq!(
        Marker::parse(line),
        Some(Marker::End {
            name: "buffers::fork",
            result: "ok"
        })
    );
    assert_eq!(Marker::parse("dmaplane-test: hello"), None);
}

#[test]
fn days_are_counted_right() {
    assert_eq!(day_of(0), (1970, 1, 1));
    assert_eq!(day_of(11_016), (2000, 2, 29));
    assert_eq!(day_of(20_818), (2026, 12, 31));
    assert_eq!(day_of(20_819), (2027, 1, 1));
}
