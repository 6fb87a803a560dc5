// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host tools: which are needed, whether they are there, and how to get them.

pub mod apt;
mod host;
pub mod package;
mod rust_src;
mod sources;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::ctx::Ctx;
use crate::exec::Lock;
use crate::exit;
use rust_src::Places;

/// What a command is about to do, and so which tools must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Build the kernel or the module.
    Kernel,
    /// Make the stock kernel ready, and build the module for it.
    Stock,
    /// Boot guests that run our own programs; includes [`Need::Stock`].
    Boot,
    /// Run tests and others' tools in guests; includes [`Need::Boot`].
    Guest,
    /// Run every lint and the host's tests; includes [`Need::Kernel`].
    Lint,
    /// All packages, and what runs tests. The tools that one step alone needs are built when it is its turn.
    Tests,
    /// All of it.
    Everything,
}

impl Need {
    /// Whether the machine's own compilers build a kernel.
    fn kernel(self) -> bool {
        matches!(
            self,
            Self::Kernel | Self::Lint | Self::Tests | Self::Everything
        )
    }

    fn boot(self) -> bool {
        self == Self::Boot || self.guest()
    }

    fn guest(self) -> bool {
        matches!(self, Self::Guest | Self::Tests | Self::Everything)
    }

    fn lint(self) -> bool {
        matches!(self, Self::Lint | Self::Tests | Self::Everything)
    }
}

/// Where the tools are. Every path is absolute; a path outside the need asked for may not exist.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// The folder with virtme-ng's `vng` and its own `python3`.
    pub vng_bin: PathBuf,
    /// bindgen's command-line tool.
    pub bindgen: PathBuf,
    /// What follows `clang` and its companions' names: the kernel's `LLVM=-19`.
    pub llvm_suffix: String,
    /// `library/` of the running rustc's sources.
    pub rust_lib_src: PathBuf,
    /// `cargo-nextest`.
    pub nextest: PathBuf,
    /// `cargo-deny`.
    pub deny: PathBuf,
}

/// Checks and provides every host tool.
///
/// As root on Debian or Ubuntu it installs missing packages by apt-get and says so; otherwise it
/// prints the exact commands and fails. Everything else goes into the cache folder. Running it again
/// when nothing is missing takes no time.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub struct SetupArgs {
    /// Only says what is there and what is missing; installs nothing.
    #[arg(long)]
    check: bool,
    /// Prints the list as JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// One thing that is needed.
#[derive(Serialize)]
struct Item {
    name: String,
    /// `package`, `tool` or `source`.
    kind: &'static str,
    present: bool,
    /// Where it is, or would be.
    path: Option<PathBuf>,
}

/// Provides the tools of the host, or reports what is missing.
#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub fn run(ctx: &Ctx, args: SetupArgs) -> Result<ExitCode> {
    if !args.check {
        ensure(ctx, Need::Everything)?;
    }
    let items = survey(ctx, Need::Everything)?;
    let complete = items.iter().all(|item| item.present);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&items)?);
    } else {
        for item in &items {
            let state = if item.present { "ok     " } else { "MISSING" };
            let path = item.path.as_deref().filter(|_| item.present);
            let path = path.map(|p| p.display().to_string()).unwrap_or_default();
            println!("{state} {:20} {path}", item.name);
        }
    }
    if complete {
        return Ok(ExitCode::SUCCESS);
    }
    let remedy = "something is missing; `cargo xtask setup` provides it or says how";
    Err(exit::environment(remedy))
}

/// Provides what `need` asks for, or says what is missing and how to get it.
///
/// # Errors
/// What is missing and the commands that provide it, or what went wrong in providing it.
pub fn ensure(ctx: &Ctx, need: Need) -> Result<Tools> {
    if survey(ctx, need)?.iter().any(|item| !item.present) {
        let _lock = Lock::take(ctx, &ctx.cache.join("setup.lock"), "the host tools")?;
        provide(ctx, need)?;
    }
    let places = Places::probe(&ctx.cache)?;
    Ok(Tools {
        qemu: crate::exec::which(host::QEMU).unwrap_or_else(|| PathBuf::from(host::QEMU)),
        vng_bin: tools::find_virtme(&ctx.cache).0,
        bindgen: tools::BINDGEN.find(&ctx.cache).0,
        llvm_suffix: host::LLVM_SUFFIX.to_owned(),
        rust_lib_src: places.find().map(PathBuf::from).unwrap_or_default(),
        nextest: tools::NEXTEST.find(&ctx.cache).0,
        deny: tools::DENY.find(&ctx.cache).0,
    })
}

fn crates(need: Need) -> Vec<tools::Crate> {
    let mut crates = Vec::new();
    let later = need == Need::Tests;
    if need.kernel() && !later {
        crates.push(tools::BINDGEN);
    }
    if need.guest() || need.lint() {
        crates.push(tools::NEXTEST);
    }
    if need.lint() && !later {
        crates.push(tools::DENY);
    }
    crates
}

/// Everything that `need` asks for, present or not.
fn survey(ctx: &Ctx, need: Need) -> Result<Vec<Item>> {
    let mut items: Vec<Item> = host::survey(need)
        .into_iter()
        .map(|found| Item {
            name: found.name.to_owned(),
            kind: "package",
            present: found.path.is_some(),
            path: found.path,
        })
        .collect();
    for tool in crates(need) {
        let (path, present) = tool.find(&ctx.cache);
        items.push(Item {
            name: tool.name.to_owned(),
            kind: "tool",
            present,
            path: Some(path),
        });
    }
    if need.boot() {
        let (path, present) = tools::find_virtme(&ctx.cache);
        items.push(Item {
            name: "virtme-ng".to_owned(),
            kind: "tool",
            present,
            path: Some(path),
        });
    }
    if !need.kernel() {
        return Ok(items);
    }
    let places = Places::probe(&ctx.cache)?;
    let library = places.find().map(PathBuf::from);
    items.push(Item {
        name: "rust-src".to_owned(),
        kind: "source",
        present: library.is_some(),
        path: library,
    });
    Ok(items)
}

/// Packages first: everything else is built or unpacked with them.
fn provide(ctx: &Ctx, need: Need) -> Result<()> {
    let missing: Vec<&str> = host::survey(need)
        .into_iter()
        .filter(|found| found.path.is_none())
        .map(|found| found.name)
        .collect();
    if !missing.is_empty() {
        host::provide(ctx, &missing)?;
    }
    if need.kernel() {
        let places = Places::probe(&ctx.cache)?;
        if places.find().is_none() {
            places.provide(ctx)?;
        }
    }
    if need.boot() && !tools::find_virtme(&ctx.cache).1 {
        tools::install_virtme(ctx)?;
    }
    for tool in crates(need) {
        if !tool.find(&ctx.cache).1 {
            tool.install(ctx)?;
        }
    }
    let absent: Vec<String> = survey(ctx, need)?
        .into_iter()
        .filter(|item| !item.present)
        .map(|item| item.name)
        .collect();
    if absent.is_empty() {
        return Ok(());
    }
    Err(exit::environment(format!(
        "still missing after installing: {}. The logs are in {}",
        absent.join(", "),
        ctx.log_dir()?.display()
    )))
}
