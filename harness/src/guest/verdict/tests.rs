// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each missing proof, alone, must change the verdict.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::ctx::Ctx;
use crate::guest::plan::{Failure, JobEnd};
use crate::guest::rundir::RunDir;
use crate::ui::Ui;

const CLEAN: &str = "[1.0] dmaplane-runner: started\n[2.0] dmaplane-runner: reported\n";

fn rules() -> Rules {
    Rules::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))).unwrap()
}

fn job(code: Option<i32>, signal: Option<i32>, service: bool) -> JobEnd {
    JobEnd {
        name: "tests".to_owned(),
        service,
        code,
        signal,
        ms: 1,
    }
}

fn result(result: Ended) -> TestResult {
    TestResult {
        binary: "b".to_owned(),
        name: "t".to_owned(),
        result,
        seconds: 0.0,
        message: None,
    }
}

/// The verdict on a good run that `spoil` has changed.
fn verdict(spoil: impl FnOnce(&mut Outcome, &mut Tests)) -> Verdict {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_owned();
    let ctx = Ctx {
        root: cache.clone(),
        cache,
        verbose: 0,
        ui: Ui::new(0),
    };
    let report = Report {
        jobs: vec![job(Some(0), None, false)],
        ..Report::default()
    };
    let guest = GuestOutcome::fake("a", CLEAN, Some(report));
    let mut outcome = Outcome {
        dir: RunDir::create(&ctx, "x").unwrap(),
        guests: vec![guest],
        end: End::Off,
        failed_boots: 0,
        time: Duration::from_secs(1),
    };
    let mut tests = Tests {
        results: vec![result(Ended::Passed)],
        ..Tests::default()
    };
    spoil(&mut outcome, &mut tests);
    judge(&outcome, &rules(), Some(&tests))
}

fn report(outcome: &mut Outcome) -> &mut Report {
    outcome.guests[0].report.as_mut().unwrap()
}

fn kind(spoil: impl FnOnce(&mut Outcome, &mut Tests)) -> Kind {
    verdict(spoil).kind
}

#[test]
fn a_good_run_is_ok() {
    let verdict = verdict(|_, _| {});
    assert_eq!((verdict.kind, verdict.reasons.len()), (Kind::Ok, 0));
}

#[test]
fn the_tests_report_must_be_there_complete_and_good() {
    assert_eq!(
        kind(|_, tests| tests.results.push(result(Ended::Failed))),
        Kind::Tests
    );
    assert_eq!(
        kind(|_, tests| tests.missing.push("b t2".to_owned())),
        Kind::Tests
    );
    assert_eq!(
        kind(|_, tests| tests.unreadable = Some("gone".to_owned())),
        Kind::Tests
    );
    assert_eq!(
        kind(|_, tests| tests.results.push(result(Ended::Skipped))),
        Kind::Ok
    );
}

#[test]
fn a_guest_without_a_report_died() {
    assert_eq!(
        kind(|outcome, _| outcome.guests[0].report = None),
        Kind::Splat
    );
    let killed = kind(|outcome, _| {
        outcome.guests[0].report = None;
        outcome.guests[0].qemu = "signal: 9 (SIGKILL)".to_owned();
    });
    assert_eq!(killed, Kind::Infrastructure);
}

#[test]
fn a_job_must_end_well_and_a_service_may_be_ended() {
    assert_eq!(
        kind(|o, _| report(o).jobs.push(job(Some(1), None, false))),
        Kind::Tests
    );
    assert_eq!(
        kind(|o, _| report(o).jobs.push(job(None, Some(15), false))),
        Kind::Tests
    );
    assert_eq!(
        kind(|o, _| report(o).jobs.push(job(None, Some(15), true))),
        Kind::Ok
    );
    assert_eq!(
        kind(|o, _| report(o).jobs.push(job(None, Some(11), true))),
        Kind::Tests
    );
}

#[test]
fn the_console_must_be_clean() {
    let splat = "[1.5] BUG: KASAN: slab-use-after-free in f+0x1/0x2\n";
    assert_eq!(
        kind(|o, _| o.guests[0].console.push_str(splat)),
        Kind::Splat
    );
    assert_eq!(
        kind(|o, _| o.guests[0].console.clear()),
        Kind::Infrastructure
    );
    let leak = "[1.5] unregister_netdevice: waiting for veth0 to become free. Usage count = 2\n";
    assert_eq!(kind(|o, _| o.guests[0].console.push_str(leak)), Kind::Leak);
}

#[test]
fn a_taint_that_the_console_does_not_explain_is_a_splat() {
    assert_eq!(kind(|o, _| report(o).taint_after = 1 << 9), Kind::Splat);
    // Out-of-tree modules taint too, and that is no bug.
    assert_eq!(kind(|o, _| report(o).taint_after = 1 << 12), Kind::Ok);
}

#[test]
fn what_is_left_behind_is_a_leak() {
    assert_eq!(
        kind(|o, _| report(o).leaks.push("gauge buffers is 1".to_owned())),
        Kind::Leak
    );
    let lost = "unreferenced object 0xffff888001234567 (size 64):\n  comm \"t\"\n";
    assert_eq!(
        kind(|o, _| report(o).kmemleak = Some(lost.to_owned())),
        Kind::Leak
    );
}

#[test]
fn time_that_ran_out_is_a_hang() {
    assert_eq!(
        kind(|o, _| o.end = End::TimedOut("a".to_owned())),
        Kind::Hang
    );
    let failure = Failure {
        cause: Cause::Limit,
        message: "late".to_owned(),
    };
    assert_eq!(kind(|o, _| report(o).failure = Some(failure)), Kind::Hang);
}

#[test]
fn a_boot_that_failed_says_nothing_about_the_code() {
    let infrastructure = kind(|outcome, _| {
        outcome.end = End::NotBooted("a".to_owned());
        outcome.guests[0].console.push_str("Oops: int3\n");
    });
    assert_eq!(infrastructure, Kind::Infrastructure);
}

#[test]
fn the_worst_reason_gives_the_kind() {
    let both = verdict(|outcome, tests| {
        tests.results.push(result(Ended::Failed));
        report(outcome).leaks.push("gauge".to_owned());
        outcome.guests[0]
            .console
            .push_str("[1.5] WARNING: x.c:1 f+0x1\n");
    });
    assert_eq!((both.kind, both.reasons.len()), (Kind::Splat, 3));
}

#[test]
fn each_kind_has_its_own_exit_code() {
    let kinds = [
        Kind::Ok,
        Kind::Tests,
        Kind::Leak,
        Kind::Hang,
        Kind::Splat,
        Kind::Infrastructure,
    ];
    let codes: std::collections::BTreeSet<_> = kinds.iter().map(|kind| kind.code()).collect();
    assert_eq!(codes.len(), kinds.len());
}
