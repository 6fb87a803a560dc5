// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main job: a KV cache moved between two guests and checked.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::ctx::Ctx;

#[derive(Args)]
pub(crate) struct DemoArgs {}

pub(crate) fn run(_ctx: &Ctx, _args: DemoArgs) -> Result<ExitCode> {
    bail!("not here yet")
}
