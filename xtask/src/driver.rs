// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module, built by the kernel's own build system outside of its tree.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::ctx::Ctx;
use crate::kernel::{Kernel, Profile};

/// A module that is built.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// `dmaplane.ko`.
    pub(crate) ko: PathBuf,
    /// The kernel that it belongs to.
    pub(crate) kernel: Kernel,
}

#[derive(Args)]
pub(crate) struct DriverArgs {}

pub(crate) fn run(_ctx: &Ctx, _args: DriverArgs) -> Result<ExitCode> {
    bail!("not here yet")
}

/// The module for this profile; only what changed is built again.
pub(crate) fn ensure(_ctx: &Ctx, _profile: Profile) -> Result<Module> {
    bail!("not here yet")
}
