// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `test`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::ctx::Ctx;

#[derive(Args)]
pub(crate) struct TestArgs {}

pub(crate) fn run(_ctx: &Ctx, _args: TestArgs) -> Result<ExitCode> {
    bail!("not here yet")
}
