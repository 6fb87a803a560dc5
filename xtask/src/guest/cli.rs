// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands `vm` and `vm-test`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::ctx::Ctx;

#[derive(Args)]
pub(crate) struct VmArgs {}

#[derive(Args)]
pub(crate) struct VmTestArgs {}

pub(crate) fn run_vm(_ctx: &Ctx, _args: VmArgs) -> Result<ExitCode> {
    bail!("not here yet")
}

pub(crate) fn run_vm_test(_ctx: &Ctx, _args: VmTestArgs) -> Result<ExitCode> {
    bail!("not here yet")
}
