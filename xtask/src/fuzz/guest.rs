// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzzer of system calls in a guest, guided by the kernel's coverage of the driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::corpus::Changes;
use crate::faults;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::guest::accel::AccelChoice;
use dmaplane_vmtest::guest::plan::SHARE;
use dmaplane_vmtest::guest::session::{Driver, Request, TestEnv, job};
use dmaplane_vmtest::guest::topology::Network;
use dmaplane_vmtest::guest::verdict::Kind;
use dmaplane_vmtest::kernel::Profile;

/// Known inputs, in the checkout.
const CORPUS: &str = "tests/corpus/ioctl";
/// The figures that the guest leaves; tests/framework/src/hostile/guided.rs has the other side.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Seen {
    played: u64,
    calls: u64,
    places: usize,
    known: usize,
    fresh: usize,
    milliseconds: u64,
}

/// The result of a run.
pub(super) struct Fuzzed {
    /// The verdict.
    pub(super) kind: Kind,
    /// The guest's figures, if it left them.
    pub(super) seen: Option<Seen>,
    /// The folder with what a failed guest left.
    pub(super) artefacts: Option<PathBuf>,
    /// What changed in the corpus.
    pub(super) changes: Changes,
}

/// Fuzzes for `seconds` and judges the guest.
pub(super) fn run(
    ctx: &Ctx,
    accel: AccelChoice,
    seconds: u64,
    seed: u64,
    save: bool,
) -> Result<Fuzzed> {
    let test_env = TestEnv::prepare(ctx, "numa2", Profile::Debug, accel, Driver::Loaded)?;
    faults::require(ctx, &test_env, &["CONFIG_KCOV"])?;
    let guest = test_env.topology.guests[0].name.clone();
    let program = test_env
        .binaries
        .dir
        .join("dmaplane-fuzz")
        .display()
        .to_string();
    let corpus = ctx.root.join(CORPUS);
    fs::create_dir_all(&corpus)?;
    let mut argv = vec![
        program,
        "--seconds".to_owned(),
        seconds.to_string(),
        "--seed".to_owned(),
        seed.to_string(),
        "--corpus".to_owned(),
        corpus.display().to_string(),
        "--out".to_owned(),
        SHARE.to_owned(),
        "--address".to_owned(),
        test_env.topology.local_ip().to_owned(),
    ];
    if save {
        argv.push("--places".to_owned());
    }
    let mut work = job("fuzz", argv);
    work.netns =
        matches!(test_env.topology.network, Network::Veth { .. }).then(|| "dp0".to_owned());
    let mut request = Request::empty();
    request.job(&guest, work);
    // Playing the known inputs comes on top; limits are scaled for slow guests.
    let slack = 120;
    let limit = (seconds + slack).div_ceil(u64::from(test_env.limits.scale.max(1))) + slack;
    request.limit = Some(Duration::from_secs(limit));
    ctx.ui.step(format!(
        "fuzzing system calls on {} for {seconds} s, seed {seed}",
        test_env.title()
    ));
    let mut outcome = test_env.run(ctx, &request, &mut |_| {})?;
    let verdict = test_env.judge(&outcome)?;
    let share = outcome.share(outcome.guest(&guest)?);
    let seen = seen(&share);
    let mut changes = Changes::default();
    if save && verdict.kind == Kind::Ok {
        changes = super::corpus::save(&share, &corpus)?;
        println!(
            "{CORPUS}: added {} inputs that reach something new, removed {} that others stand in for",
            changes.added.len(),
            changes.removed.len()
        );
    }
    for (kind, reason) in &verdict.reasons {
        println!("  {}: {reason}", kind.words());
    }
    let mut artefacts = None;
    if verdict.kind != Kind::Ok {
        let kept = outcome.dir.keep(ctx)?;
        println!(
            "  the last input that was played, and all else: {}",
            kept.display()
        );
        artefacts = Some(kept);
    }
    let report = match &seen {
        Ok(seen) => format!(
            "{} inputs, {} system calls, {} places of the driver's code reached ({} by known inputs), {} new inputs in {} s",
            seen.played,
            seen.calls,
            seen.places,
            seen.known,
            seen.fresh,
            seen.milliseconds / 1000
        ),
        Err(_) => "the guest left no figures".to_owned(),
    };
    println!(
        "fuzz ioctl {}: {}, {report}; seed {seed}",
        test_env.title(),
        verdict.kind.words()
    );
    Ok(Fuzzed {
        kind: verdict.kind,
        seen: seen.ok(),
        artefacts,
        changes,
    })
}

fn seen(share: &Path) -> Result<Seen> {
    let text = fs::read_to_string(share.join("seen.json")).context("no figures")?;
    Ok(serde_json::from_str(&text)?)
}
