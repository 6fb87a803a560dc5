// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzzer of system calls in a guest, guided by the kernel's coverage of the driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::corpus::Changes;
use crate::ctx::Ctx;
use crate::faults;
use crate::guest::accel::AccelChoice;
use crate::guest::plan::SHARE;
use crate::guest::session::{Driver, Lab, Request, job};
use crate::guest::topology::Network;
use crate::guest::verdict::Kind;
use crate::kernel::Profile;

/// Known tapes, in the checkout.
const CORPUS: &str = "tests/corpus/ioctl";
/// What the guest leaves; tests/framework/src/hostile/guided.rs has the other side.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Seen {
    played: u64,
    calls: u64,
    places: usize,
    known: usize,
    fresh: usize,
    milliseconds: u64,
}

/// What a run came to.
pub(super) struct Fuzzed {
    /// The judgement.
    pub(super) kind: Kind,
    /// What the guest has seen, if it left that.
    pub(super) seen: Option<Seen>,
    /// Where everything is that a guest that broke has left.
    pub(super) artefacts: Option<PathBuf>,
    /// What has changed in the corpus.
    pub(super) changes: Changes,
}

/// Runs it so long and judges the guest.
pub(super) fn run(
    ctx: &Ctx,
    accel: AccelChoice,
    seconds: u64,
    seed: u64,
    save: bool,
) -> Result<Fuzzed> {
    let lab = Lab::prepare(ctx, "numa2", Profile::Debug, accel, Driver::Loaded)?;
    faults::require(ctx, &lab, &["CONFIG_KCOV"])?;
    let guest = lab.topology.guests[0].name.clone();
    let program = lab.binaries.dir.join("dmaplane-fuzz").display().to_string();
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
        lab.topology.local_ip().to_owned(),
    ];
    if save {
        argv.push("--places".to_owned());
    }
    let mut work = job("fuzz", argv);
    work.netns = matches!(lab.topology.network, Network::Veth { .. }).then(|| "dp0".to_owned());
    let mut request = Request::empty();
    request.job(&guest, work);
    // Playing the known tapes comes on top; limits are scaled for slow guests.
    let slack = 120;
    let limit = (seconds + slack).div_ceil(u64::from(lab.limits.scale.max(1))) + slack;
    request.limit = Some(Duration::from_secs(limit));
    ctx.ui.step(format!(
        "fuzzing system calls on {} for {seconds} s, seed {seed}",
        lab.title()
    ));
    let mut outcome = lab.run(ctx, &request, &mut |_| {})?;
    let verdict = lab.judge(&outcome)?;
    let share = outcome.share(outcome.guest(&guest)?);
    let seen = seen(&share);
    let mut changes = Changes::default();
    if save && verdict.kind == Kind::Ok {
        changes = super::corpus::save(&share, &corpus)?;
        println!(
            "{CORPUS}: {} tapes that reach something new added, {} removed for which others stand in",
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
            "  the tape that was played last and all else: {}",
            kept.display()
        );
        artefacts = Some(kept);
    }
    let told = match &seen {
        Ok(seen) => format!(
            "{} tapes, {} system calls, {} places of the driver's code reached ({} by known tapes), {} new tapes in {} s",
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
        "fuzz ioctl {}: {}, {told}; seed {seed}",
        lab.title(),
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
