// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `lint`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::ctx::Ctx;

#[derive(Args)]
pub(crate) struct LintArgs {}

pub(crate) fn run(_ctx: &Ctx, _args: LintArgs) -> Result<ExitCode> {
    bail!("not here yet")
}
