// SPDX-License-Identifier: MIT OR Apache-2.0
//! The pinned kernel: fetched, verified, configured, built, cached.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::ctx::Ctx;

/// Which configuration of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Profile {
    /// What measures and what most tests run on.
    Base,
    /// KASAN, lockdep, kmemleak, fault injection; slow.
    Debug,
}

impl Profile {
    /// The profile's name as it is in file names and environment variables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Debug => "debug",
        }
    }
}

/// A kernel that is built.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The build tree, `O=` of the kernel's make.
    pub(crate) build_dir: PathBuf,
    /// The bootable image.
    pub(crate) bz_image: PathBuf,
    /// `uname -r` of it.
    pub(crate) release: String,
    /// What names this exact build: 12 hexadecimal digits.
    pub(crate) key: String,
    /// The final `.config`.
    pub(crate) config: PathBuf,
}

#[derive(Args)]
pub(crate) struct KernelArgs {}

pub(crate) fn run(_ctx: &Ctx, _args: KernelArgs) -> Result<ExitCode> {
    bail!("not here yet")
}

/// The kernel of this profile: from the cache, else built.
pub(crate) fn ensure(_ctx: &Ctx, _profile: Profile) -> Result<Kernel> {
    bail!("not here yet")
}
