// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host tools: which are needed, whether they are there, and how to get them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::ctx::Ctx;

/// What a command is about to do, and so which tools must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Build the kernel or the module.
    Kernel,
    /// Boot guests and run tests in them; includes [`Need::Kernel`].
    Guest,
    /// Run every lint; includes [`Need::Kernel`].
    Lint,
    /// All of it.
    Everything,
}

/// Where the tools are. Every path is absolute; a path outside the need asked for may not exist.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// `qemu-system-x86_64`.
    pub(crate) qemu: PathBuf,
    /// The folder with virtme-ng's `vng` and its own `python3`.
    pub(crate) vng_bin: PathBuf,
    /// bindgen's command-line tool.
    pub(crate) bindgen: PathBuf,
    /// What follows `clang` and its companions' names: the kernel's `LLVM=-19`.
    pub(crate) llvm_suffix: String,
    /// `library/` of the running rustc's sources.
    pub(crate) rust_lib_src: PathBuf,
    /// `cargo-nextest`.
    pub(crate) nextest: PathBuf,
    /// `cargo-deny`.
    pub(crate) deny: PathBuf,
}

#[derive(Args)]
pub(crate) struct SetupArgs {}

pub(crate) fn run(_ctx: &Ctx, _args: SetupArgs) -> Result<ExitCode> {
    bail!("not here yet")
}

/// Provides what `need` asks for, or says what is missing and how to get it.
pub(crate) fn ensure(_ctx: &Ctx, _need: Need) -> Result<Tools> {
    bail!("not here yet")
}
