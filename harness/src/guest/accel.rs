// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which accelerator guests run on, found by booting once.
//!
//! /dev/kvm may open, create a machine and still be unable to run an ordinary guest (nested
//! virtualisation, restricted hosts). Only a boot shows it. The answer is kept for each machine,
//! QEMU and kernel.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::exec;
use crate::guest::session::{Request, TestEnv};
use crate::hash;
use crate::kernel::Kernel;

/// How long a boot may take under KVM before the host counts as unable; seconds are plenty.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// What executes the guests' instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor, through /dev/kvm.
    Kvm,
    /// QEMU's emulation: works everywhere, several times slower.
    Tcg,
}

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// KVM if a guest really boots with it, else TCG.
    Auto,
    /// KVM, untested.
    Kvm,
    /// Emulation.
    Tcg,
}

impl Accel {
    /// Its name in results and on QEMU's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The CPU model with all that the accelerator can do.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            // Without five-level page tables: the kernel checks for them in each interrupt, also while it rereads the
            // processor's features, and once misjudged addresses because of that (KASAN, 2026-11-25).
            Self::Tcg => "max,la57=off",
        }
    }
}

/// A probe's answer, as it is kept.
#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    accel: Accel,
    reason: String,
}

/// Chooses the accelerator of a test environment; that of `test_env` is still KVM, for the probe.
pub fn settle(ctx: &Ctx, test_env: &TestEnv, choice: AccelChoice) -> Result<Accel> {
    match choice {
        AccelChoice::Kvm => return Ok(Accel::Kvm),
        AccelChoice::Tcg => return Ok(Accel::Tcg),
        AccelChoice::Auto => {}
    }
    if let Err(err) = File::options().read(true).write(true).open("/dev/kvm") {
        ctx.ui.detail(format!(
            "guests are emulated: /dev/kvm does not open ({err})"
        ));
        return Ok(Accel::Tcg);
    }
    let file = answer_file(ctx, test_env.qemu(), test_env.kernel())?;
    if let Some(answer) = read(&file) {
        ctx.ui.detail(format!(
            "guests run on {}: {}",
            answer.accel.name(),
            answer.reason
        ));
        return Ok(answer.accel);
    }
    let answer = probe(ctx, test_env)?;
    ctx.ui.step(format!(
        "guests run on {}: {}",
        answer.accel.name(),
        answer.reason
    ));
    fs::write(&file, serde_json::to_vec_pretty(&answer)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(answer.accel)
}

fn probe(ctx: &Ctx, test_env: &TestEnv) -> Result<Answer> {
    let _progress = ctx.ui.spinner("trying whether a guest boots with /dev/kvm");
    let outcome = test_env.boot_once(ctx, &Request::empty(), PROBE_LIMIT)?;
    let booted = outcome.guests.iter().all(|guest| guest.report.is_some());
    let (accel, reason) = if booted {
        (Accel::Kvm, "a guest booted with /dev/kvm")
    } else {
        (
            Accel::Tcg,
            "/dev/kvm opens, but a guest does not boot with it",
        )
    };
    Ok(Answer {
        accel,
        reason: reason.to_owned(),
    })
}

fn read(file: &Path) -> Option<Answer> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn answer_file(ctx: &Ctx, qemu: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default();
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = exec::output(std::process::Command::new(qemu).arg("--version"))?;
    let key = hash::texts([cpu, &machine, &host, &version, &kernel.key]);
    Ok(ctx.cache_sub("accel")?.join(format!("{}.json", &key[..16])))
}
