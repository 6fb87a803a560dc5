// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fuzzer of system calls in a guest, guided by the kernel's coverage of the driver.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

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
/// Most tapes that are kept there, and most bytes of one.
const KEPT: usize = 256;
const BYTES: u64 = 2048;

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
    let argv = [
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
    if save && verdict.kind == Kind::Ok {
        println!("{} tapes added to {CORPUS}", keep(&share, &corpus)?);
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
    })
}

fn seen(share: &Path) -> Result<Seen> {
    let text = fs::read_to_string(share.join("seen.json")).context("no figures")?;
    Ok(serde_json::from_str(&text)?)
}

/// Copies short new tapes into the corpus as long as there is room; how many.
fn keep(share: &Path, corpus: &Path) -> Result<usize> {
    let tapes = |folder: &Path| -> Result<Vec<_>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let is_tape = path
                .extension()
                .is_some_and(|extension| extension == "tape");
            if is_tape && path.file_stem().is_some_and(|stem| stem != "last") {
                found.push((fs::metadata(&path)?.len(), path));
            }
        }
        found.sort();
        Ok(found)
    };
    let room = KEPT.saturating_sub(tapes(corpus)?.len());
    let fresh = tapes(share)?;
    let mut kept = 0;
    for (bytes, path) in fresh.into_iter().take(room) {
        if bytes <= BYTES {
            let name = path.file_name().context("a tape without a name")?;
            fs::copy(&path, corpus.join(name))?;
            kept += 1;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tapes_are_kept_and_the_last_one_is_none() {
        let share = tempfile::tempdir().unwrap();
        let corpus = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("a.tape", 8),
            ("b.tape", 4096),
            ("last.tape", 8),
            ("x.json", 8),
        ] {
            fs::write(share.path().join(name), vec![0; bytes]).unwrap();
        }
        assert_eq!(keep(share.path(), corpus.path()).unwrap(), 1);
        assert!(corpus.path().join("a.tape").exists());
    }
}
