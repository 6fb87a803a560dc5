// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module, built by the kernel's own build system outside of its tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::ctx::Ctx;
use crate::exec::{self, Lock};
use crate::kernel::{self, Builder, Kernel, Profile};
use crate::{exit, hash};

/// How many lines of the compilers' messages an error shows.
const SAID: usize = 200;
/// The module's file.
const KO: &str = "dmaplane.ko";

/// A module that is built.
#[derive(Clone, Debug)]
pub struct Module {
    /// `dmaplane.ko`.
    pub ko: PathBuf,
    /// The kernel that it belongs to.
    pub kernel: Kernel,
}

/// Builds the module for the guests' kernel, and prepares that kernel first if it is not in the
/// cache.
///
/// `stock` uses the compilers with which Debian built its kernel (rustc 1.85, gcc), the others this machine's
/// (rustup's, clang).
///
/// Warnings are errors. Only what changed is built again.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub struct DriverArgs {
    /// Which kernel.
    #[arg(long, value_enum, default_value = "stock")]
    profile: Profile,
    /// Runs clippy with the kernel's lints instead of building.
    #[arg(long, conflicts_with = "rust_analyzer")]
    clippy: bool,
    /// Writes driver/rust-project.json, which describes the kernel's crates to rust-analyzer.
    #[arg(long)]
    rust_analyzer: bool,
}

/// Builds the module, or what else the arguments name.
#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub fn run(ctx: &Ctx, args: DriverArgs) -> Result<ExitCode> {
    if args.clippy {
        clippy(ctx, args.profile)?;
        ctx.ui.step("clippy: the driver has no warnings");
    } else if args.rust_analyzer {
        println!("{}", rust_analyzer(ctx, args.profile)?.display());
    } else {
        println!("{}", ensure(ctx, args.profile)?.ko.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The module for this profile; only what changed is built again.
///
/// # Errors
/// The compiler's last lines, or whatever kept the kernel from being built.
pub fn ensure(ctx: &Ctx, profile: Profile) -> Result<Module> {
    let kernel = kernel::ensure(ctx, profile)?;
    let out = make(ctx, &kernel, profile, Task::Build)?;
    let ko = loadable(&kernel, &out)?;
    if !ko.is_file() {
        return Err(exit::coded(
            exit::FAILED,
            format!(
                "the build succeeded but left no {}; see driver/Kbuild",
                ko.display()
            ),
        ));
    }
    Ok(Module { ko, kernel })
}

/// The module without trace events, for the measurement of what they cost.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_plain(ctx: &Ctx, profile: Profile) -> Result<PathBuf> {
    let kernel = kernel::ensure(ctx, profile)?;
    let out = make(ctx, &kernel, profile, Task::Plain)?;
    loadable(&kernel, &out)
}

/// The module without overflow checks; it is inspected only, never loaded.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_unchecked(ctx: &Ctx, profile: Profile) -> Result<PathBuf> {
    let kernel = kernel::ensure(ctx, profile)?;
    Ok(make(ctx, &kernel, profile, Task::Unchecked)?.join(KO))
}

/// The module as guests load it: without the debugging information that Debian's configuration asks for, which makes it
/// twenty times as large. Guests read it through a file share, some tests a hundred times.
fn loadable(kernel: &Kernel, out: &Path) -> Result<PathBuf> {
    let built = out.join(KO);
    let Builder::Debian(debian) = &kernel.builder else {
        return Ok(built);
    };
    let dir = out.join("loadable");
    let stripped = dir.join(KO);
    let time = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    if let (Ok(of_built), Ok(of_stripped)) = (time(&built), time(&stripped))
        && of_stripped > of_built
    {
        return Ok(stripped);
    }
    fs::create_dir_all(&dir)?;
    let mut strip = debian.command("x86_64-linux-gnu-strip");
    strip
        .args(["--strip-debug", "-o"])
        .arg(&stripped)
        .arg(&built);
    exec::output(&mut strip)?;
    Ok(stripped)
}

/// Builds the module for a kernel that was never tried; the inner error says why there is no module.
///
/// # Errors
/// When make cannot be run at all.
pub fn attempt(ctx: &Ctx, kernel: &Kernel) -> Result<Result<(), Refused>> {
    let made = make_reporting(ctx, kernel, &kernel.release, Task::Build)?;
    Ok(made.map(drop))
}

/// Why a build failed.
pub struct Refused {
    /// The compilers' messages, without make's own.
    pub said: Vec<String>,
    /// The build's error, with its last lines.
    err: anyhow::Error,
    /// The log of the whole build.
    pub log: PathBuf,
}

/// Runs clippy over the driver.
///
/// # Errors
/// Its warnings.
pub fn clippy(ctx: &Ctx, profile: Profile) -> Result<()> {
    let kernel = kernel::ensure(ctx, profile)?;
    make(ctx, &kernel, profile, Task::Clippy).map(drop)
}

fn rust_analyzer(ctx: &Ctx, profile: Profile) -> Result<PathBuf> {
    // The project names generated files, so the module must have been built.
    let module = ensure(ctx, profile)?;
    let out = make(ctx, &module.kernel, profile, Task::RustAnalyzer)?;
    let project = ctx.root.join("driver/rust-project.json");
    fs::copy(out.join("rust-project.json"), &project)
        .with_context(|| format!("cannot write {}", project.display()))?;
    Ok(project)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Task {
    Build,
    /// Without trace events.
    Plain,
    /// Without overflow checks.
    Unchecked,
    Clippy,
    RustAnalyzer,
}

impl Task {
    /// Clippy's object files differ from the compiler's, and so do those with other flags: each kind has its own
    /// folder.
    fn folder(self) -> &'static str {
        match self {
            Self::Clippy => "-clippy",
            Self::Plain => "-plain",
            Self::Unchecked => "-unchecked",
            Self::Build | Self::RustAnalyzer => "",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Build => "building the module",
            Self::Plain => "building the module without trace events",
            Self::Unchecked => "building the module without overflow checks",
            Self::Clippy => "running clippy on the driver",
            Self::RustAnalyzer => "writing rust-project.json",
        }
    }
}

/// Runs the kernel's make on `driver/` and returns the folder with the results.
fn make(ctx: &Ctx, kernel: &Kernel, profile: Profile, task: Task) -> Result<PathBuf> {
    make_reporting(ctx, kernel, profile.name(), task)?.map_err(|refused| {
        let Refused { mut said, err, log } = refused;
        // The first errors are the causes, and make's own last lines name none of them.
        if said.is_empty() {
            return err;
        }
        said.truncate(SAID);
        let message = format!(
            "{} failed:\n{}\nlog: {}",
            task.what(),
            said.join("\n"),
            log.display()
        );
        exit::coded(exit::FAILED, message)
    })
}

/// Like [`make`], for a kernel that the user calls `called`; returns the messages of a failed
/// build.
fn make_reporting(
    ctx: &Ctx,
    kernel: &Kernel,
    called: &str,
    task: Task,
) -> Result<Result<PathBuf, Refused>> {
    let driver = ctx.root.join("driver");
    let parent = ctx.cache_sub("driver")?;
    let name = out_name(&ctx.root, kernel, called, task);
    let out = parent.join(&name);
    let _lock = Lock::take(
        ctx,
        &parent.join(format!("{name}.lock")),
        &format!("module {name}"),
    )?;
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;

    let jobs = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut command: Command = kernel.make(ctx)?;
    command
        // cargo sets this for xtask, and it is wrong for the driver: clippy must use the kernel's version of Rust.
        .env_remove("CARGO_PKG_RUST_VERSION")
        .arg(format!("M={}", driver.display()))
        .arg(format!("MO={}", out.display()))
        // Warnings are errors in our code whatever the kernel's configuration says.
        .arg("W=e")
        .arg(format!("-j{jobs}"));
    match task {
        Task::Build => command.arg("modules"),
        Task::Plain => command.args(["DMAPLANE_TRACE=n", "modules"]),
        Task::Unchecked => command.args(["DMAPLANE_OVERFLOW_CHECKS=n", "modules"]),
        Task::Clippy => command.args(["CLIPPY=1", "modules"]),
        Task::RustAnalyzer => command.arg("rust-analyzer"),
    };
    let log = ctx.log_dir()?.join(format!("driver-{name}.log"));
    let title = format!("{} ({})", task.what(), called);
    let mut said = Vec::new();
    let mut progress = ctx.ui.spinner(&title);
    let made = exec::logged(ctx, command, task.what(), &log, |line| {
        if !is_routine(line) {
            said.push(line.to_owned());
        }
        progress.message(line.trim());
    });
    if let Err(err) = made {
        return Ok(Err(Refused { said, err, log }));
    }
    progress.done();
    for line in said {
        eprintln!("{line}");
    }
    Ok(Ok(out))
}

/// Whether a line is about make's own work, and not a compiler's message.
fn is_routine(line: &str) -> bool {
    line.starts_with("make: ")
        || line.starts_with("make[")
        || line
            .strip_prefix("  ")
            .is_some_and(|l| l.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// The results belong to one checkout, one kernel and one task.
fn out_name(root: &Path, kernel: &Kernel, called: &str, task: Task) -> String {
    let checkout = hash::texts([root.to_string_lossy().as_ref()]);
    format!(
        "{called}-{}-{}{}",
        kernel.key,
        &checkout[..6],
        task.folder()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(key: &str) -> Kernel {
        Kernel {
            build_dir: PathBuf::new(),
            source: PathBuf::new(),
            bz_image: PathBuf::new(),
            initrd: None,
            modules: PathBuf::new(),
            unpacked: None,
            autoload: None,
            release: String::new(),
            key: key.to_owned(),
            config: PathBuf::new(),
            builder: Builder::Machine,
        }
    }

    #[test]
    fn checkouts_kernels_and_tasks_do_not_share_a_folder() {
        let name =
            |root: &str, key: &str, task| out_name(Path::new(root), &kernel(key), "base", task);
        let first = name("/a", "k", Task::Build);
        assert_eq!(first, name("/a", "k", Task::RustAnalyzer));
        for other in [
            name("/b", "k", Task::Build),
            name("/a", "l", Task::Build),
            name("/a", "k", Task::Clippy),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn compilers_messages_are_distinguished_from_makes_own() {
        assert!(is_routine("  RUSTC [M] dmaplane_main.o"));
        assert!(is_routine("make[1]: Entering directory '/x'"));
        assert!(!is_routine("warning: unused variable: `x`"));
        assert!(!is_routine("  --> driver/dmaplane_main.rs:3:5"));
    }
}
