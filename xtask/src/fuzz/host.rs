// SPDX-License-Identifier: MIT OR Apache-2.0
//! libFuzzer on the host. cargo-fuzz would do the same with a nightly compiler; the stable one has the flags that its
//! coverage needs, and code without `unsafe` needs no address sanitizer.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Found;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::interrupt;

/// Flags that make the compiler count executed edges and trace comparisons.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions";
/// Named, so that the flags apply to the targets only and not to build scripts.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Longest input.
const LONGEST: u32 = 8192;

/// Builds a target and runs it for `seconds`.
pub(super) fn run(ctx: &Ctx, target: &str, seconds: u64, seed: u64, save: bool) -> Result<Found> {
    let crate_dir = ctx.root.join("logic/fuzz");
    // Not cargo's own folder: other flags would rebuild everything each time.
    let built = ctx.root.join("target/fuzz");
    let mut build = Command::new("cargo");
    build
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            TRIPLE,
            "--bin",
            target,
        ])
        .current_dir(&crate_dir)
        .env("CARGO_TARGET_DIR", &built)
        .env("RUSTFLAGS", COVERAGE);
    let log = ctx.log_dir()?.join(format!("fuzz-{target}.log"));
    let mut progress = ctx.ui.spinner(format!("building the fuzz target {target}"));
    dmaplane_vmtest::exec::logged(ctx, build, "building the fuzz target", &log, |line| {
        progress.message(line.trim());
    })?;
    drop(progress);

    let known = crate_dir.join("corpus").join(target);
    let work = ctx.cache_sub(format!("fuzz/{target}"))?;
    fs::create_dir_all(&known)?;
    ctx.ui
        .step(format!("fuzzing {target} for {seconds} s, seed {seed}"));
    let program = built.join(TRIPLE).join("release").join(target);
    let crash = ctx.cache_sub("fuzz/crashes")?;
    let mut fuzz = Command::new(&program);
    fuzz.arg(&work)
        .arg(&known)
        // 0 would mean without a limit.
        .arg(format!("-max_total_time={}", seconds.max(1)))
        // 0 would let libFuzzer choose the seed.
        .arg(format!("-seed={}", (seed % u64::from(u32::MAX)).max(1)))
        .arg(format!("-max_len={LONGEST}"))
        .arg(format!("-artifact_prefix={}/{target}-", crash.display()))
        .args(["-print_final_stats=1", "-timeout=10"]);
    let status = fuzz
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    // Ctrl-C ends the fuzzer as well, and is not a finding.
    interrupt::check()?;
    if !status.success() {
        eprintln!(
            "fuzz {target}: FAILED ({status}); the input is in {}; seed {seed}",
            crash.display()
        );
        return Ok(Found::Crash(crash));
    }
    if save {
        merge(&program, &work, &known)?;
    }
    println!("fuzz {target}: ok, {seconds} s, seed {seed}");
    Ok(Found::Nothing)
}

/// Adds the inputs that reach code which the corpus in the checkout does not reach.
fn merge(program: &Path, work: &Path, known: &Path) -> Result<()> {
    let status = Command::new(program)
        .args(["-merge=1".as_ref(), known.as_os_str(), work.as_os_str()])
        .status()
        .context("merging the corpus")?;
    anyhow::ensure!(status.success(), "merging the corpus: {status}");
    Ok(())
}
