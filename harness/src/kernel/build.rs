// SPDX-License-Identifier: MIT OR Apache-2.0
//! Configuring and building, in a folder of the cache that one xtask at a time may touch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Builder, Kernel, Profile, config};
use crate::ctx::Ctx;
use crate::exec::{self, Lock};
use crate::setup::Tools;
use crate::ui;

/// What to build.
pub struct Plan {
    /// Which configuration.
    pub profile: Profile,
    /// The name of the result.
    pub key: String,
    /// The source tree.
    pub source: PathBuf,
    /// The configuration fragment.
    pub fragment: String,
    /// How many lines a full build prints.
    pub lines: u64,
}

/// The stamp of a complete build, written last.
#[derive(Serialize, Deserialize)]
struct Complete {
    release: String,
    lines: u64,
    seconds: u64,
}

/// The kernel of this plan from the cache, else built.
///
/// # Errors
/// Options that Kconfig refused, or the last lines of a failed build.
pub fn ensure(ctx: &Ctx, tools: &Tools, plan: &Plan) -> Result<Kernel> {
    let parent = ctx.cache_sub("kernel")?;
    let name = format!("{}-{}", plan.profile.name(), plan.key);
    let dir = parent.join(&name);
    if let Some(kernel) = finished(&dir, plan) {
        return Ok(kernel);
    }
    let _lock = Lock::take(
        ctx,
        &parent.join(format!("{name}.lock")),
        &format!("kernel {name}"),
    )?;
    if let Some(kernel) = finished(&dir, plan) {
        return Ok(kernel);
    }
    let started = Instant::now();
    let build = dir.join("build");
    fs::create_dir_all(&build).with_context(|| format!("cannot create {}", build.display()))?;
    configure(ctx, tools, plan, &dir)?;
    let lines = compile(ctx, tools, plan, &dir)?;
    let release = fs::read_to_string(build.join("include/config/kernel.release"))
        .context("the build left no include/config/kernel.release")?
        .trim()
        .to_owned();
    let complete = Complete {
        release,
        lines,
        seconds: started.elapsed().as_secs(),
    };
    let temporary = dir.join("complete.new");
    fs::write(&temporary, serde_json::to_string_pretty(&complete)?)?;
    fs::rename(&temporary, dir.join("complete"))?;
    ctx.ui.step(format!(
        "Linux {} ({}) built in {}",
        complete.release,
        plan.profile.name(),
        ui::duration(started.elapsed())
    ));
    finished(&dir, plan).context("the build succeeded but left no bzImage")
}

fn finished(dir: &Path, plan: &Plan) -> Option<Kernel> {
    let complete = fs::read_to_string(dir.join("complete")).ok()?;
    let complete: Complete = serde_json::from_str(&complete).ok()?;
    let build_dir = dir.join("build");
    let bz_image = build_dir.join("arch/x86/boot/bzImage");
    bz_image.is_file().then(|| Kernel {
        bz_image,
        initrd: None,
        modules: build_dir.clone(),
        unpacked: None,
        autoload: None,
        builder: Builder::Machine,
        source: plan.source.clone(),
        release: complete.release,
        key: plan.key.clone(),
        config: build_dir.join(".config"),
        build_dir,
    })
}

fn configure(ctx: &Ctx, tools: &Tools, plan: &Plan, dir: &Path) -> Result<()> {
    let build = dir.join("build");
    let fragment = dir.join("fragment.config");
    // Configuring again would touch the configuration's date and so start an interrupted build from
    // its beginning. The key names the fragment, so one that passed once passes again.
    if let Ok(config) = fs::read_to_string(build.join(".config"))
        && config::refused(&plan.fragment, &config).is_empty()
    {
        return Ok(());
    }
    fs::write(&fragment, &plan.fragment)?;
    let log = ctx
        .log_dir()?
        .join(format!("configure-{}.log", plan.profile.name()));
    let mut available = make(tools, &plan.source, &build);
    available.arg("rustavailable");
    exec::logged(
        ctx,
        available,
        "the kernel's check of the Rust toolchain",
        &log,
        |_| {},
    )?;
    let mut command = make(tools, &plan.source, &build);
    command
        .arg("allnoconfig")
        .env("KCONFIG_ALLCONFIG", &fragment);
    exec::logged(ctx, command, "configuring the kernel", &log, |_| {})?;
    let config = fs::read_to_string(build.join(".config"))?;
    let checked = config::check(&plan.fragment, &config);
    if checked.is_err() {
        fs::remove_file(build.join(".config"))?;
    }
    checked
}

/// Returns the number of lines that make printed over all tries.
fn compile(ctx: &Ctx, tools: &Tools, plan: &Plan, dir: &Path) -> Result<u64> {
    let jobs = std::thread::available_parallelism().map_or(2, |n| n.get() + 1);
    let log = ctx
        .log_dir()?
        .join(format!("kernel-{}-{}.log", plan.profile.name(), plan.key));
    let mut command = make(tools, &plan.source, &dir.join("build"));
    command
        .arg(format!("-j{jobs}"))
        .args(["bzImage", "modules"]);

    // A resumed build prints fewer lines: their number is kept from try to try.
    let count_file = dir.join("lines");
    let mut lines: u64 = fs::read_to_string(&count_file)
        .ok()
        .and_then(|n| n.trim().parse().ok())
        .unwrap_or(0);
    let title = format!("building the kernel ({}, -j{jobs})", plan.profile.name());
    let mut progress = ctx.ui.bar(title, plan.lines);
    let result = exec::logged(ctx, command, "building the kernel", &log, |line| {
        if counts(line) {
            lines += 1;
            progress.set(lines);
            if lines.is_multiple_of(50) {
                // Only the estimate of a later try depends on it.
                let _ = fs::write(&count_file, lines.to_string());
            }
        }
    });
    result?;
    progress.done();
    Ok(lines)
}

/// Whether a line of make's output is one step: `  CC      kernel/fork.o`.
fn counts(line: &str) -> bool {
    line.strip_prefix("  ")
        .is_some_and(|l| l.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// The kernel's make for a source and a build tree, with the toolchain that the key names.
pub fn make(tools: &Tools, source: &Path, build: &Path) -> Command {
    let mut command = plain_make(tools);
    command
        .arg("-C")
        .arg(source)
        .arg(format!("O={}", build.display()));
    command
}

/// Like [`make`], without source and build tree.
pub fn plain_make(tools: &Tools) -> Command {
    let mut command = Command::new("make");
    command
        .arg(format!("LLVM={}", tools.llvm_suffix))
        .arg(format!("RUST_LIB_SRC={}", tools.rust_lib_src.display()));
    // cargo's own variables and those of a make that started us would reach the compilers.
    for name in [
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
        "RUSTFLAGS",
        "LD_LIBRARY_PATH",
        "CLIPPY_ARGS",
    ] {
        command.env_remove(name);
    }
    let bindgen_dir = tools.bindgen.parent().map(Path::to_path_buf);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = bindgen_dir.into_iter().chain(std::env::split_paths(&path));
    if let Ok(path) = std::env::join_paths(dirs) {
        command.env("PATH", path);
    }
    let libclang = PathBuf::from(format!("/usr/lib/llvm{}/lib", tools.llvm_suffix));
    if libclang.is_dir() {
        command.env("LIBCLANG_PATH", libclang);
    }
    // The kernel writes these into its version string; a build must not depend on who made it.
    command
        .env("KBUILD_BUILD_USER", "dmaplane")
        .env("KBUILD_BUILD_HOST", "xtask")
        .env("KBUILD_BUILD_VERSION", "1")
        .env("LC_ALL", "C");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_steps_count_as_progress() {
        assert!(counts("  CC      kernel/fork.o"));
        assert!(counts("  RUSTC L rust/core.o"));
        assert!(!counts("make[1]: Entering directory 'x'"));
        assert!(!counts("warning: something"));
        assert!(!counts("    note: indented"));
    }

    #[test]
    fn a_folder_without_its_last_stamp_is_not_finished() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            profile: Profile::Base,
            key: "k".to_owned(),
            source: PathBuf::new(),
            fragment: String::new(),
            lines: 1,
        };
        let image = dir.path().join("build/arch/x86/boot/bzImage");
        fs::create_dir_all(image.parent().unwrap()).unwrap();
        fs::write(&image, "").unwrap();
        assert!(finished(dir.path(), &plan).is_none());
        let stamp = r#"{"release":"7.3.4","lines":3,"seconds":1}"#;
        fs::write(dir.path().join("complete"), stamp).unwrap();
        assert_eq!(finished(dir.path(), &plan).unwrap().release, "7.3.4");
        fs::remove_file(image).unwrap();
        assert!(finished(dir.path(), &plan).is_none());
    }
}
