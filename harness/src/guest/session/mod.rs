// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots a topology, runs commands in its guests, and brings back what they left.
//!
//! ```no_run
//! use dmaplane_vmtest::ctx::Ctx;
//! use dmaplane_vmtest::guest::accel::AccelChoice;
//! use dmaplane_vmtest::guest::plan::Job;
//! use dmaplane_vmtest::guest::session::{Driver, Request, TestEnv, job};
//! use dmaplane_vmtest::kernel::Profile;
//!
//! # fn main() -> anyhow::Result<()> {
//! let ctx = Ctx::new(0)?;
//! let test_env = TestEnv::prepare(&ctx, "pair", Profile::Stock, AccelChoice::Auto, Driver::Loaded)?;
//! let mut request = Request::empty();
//! // Guest b serves; a's jobs start once b's output holds `ready_when`.
//! let recv = job("recv", ["dmaplane", "kv", "recv", "--listen", "10.77.0.2:7472", "--out", "/run/dmaplane/kv.bin"]);
//! request.job("b", Job { ready_when: Some("listening".into()), ..recv });
//! let send = ["dmaplane", "kv", "send", "--to", "10.77.0.2:7472", "--kv", "/any/path/of/the/host"];
//! request.job("a", job("send", send));
//! let outcome = test_env.run(&ctx, &request, &mut |_event| { /* console lines, output lines */ })?;
//! let verdict = test_env.judge(&outcome)?; // splats, leaks, hangs, failed jobs
//! let made = outcome.share(outcome.guest("b")?).join("kv.bin"); // it wrote /run/dmaplane/kv.bin
//! # Ok(())
//! # }
//! ```
//!
//! Guests see the host's file system read-only under the same paths (except /run, /proc, /sys,
//! /dev), with a tmpfs over it that takes writes. What is to come back goes to `/run/dmaplane`,
//! `DMAPLANE_SHARE` in the environment; it does not support writable shared mappings.
//! In `pair`, the second guest's first job is started before the first guest's jobs; its remaining
//! jobs and the first guest's run at the same time.

mod running;
mod test_env;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::guest::plan::{Job, Report};
use crate::guest::rundir::RunDir;

pub use test_env::{Driver, TestEnv};

/// The shared folder in a guest's part of a run's folder.
const SHARE_FOLDER: &str = "share";

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Jobs, each with the name of its guest.
    jobs: Vec<(String, Job)>,
    /// In addition to the usual environment, for all jobs.
    pub env: BTreeMap<String, String>,
    /// Files to put into every guest's share: name and content.
    pub files: Vec<(String, String)>,
    /// Modules of the kernel to load besides rxe.
    pub modules: Vec<&'static str>,
    /// Modules of the kernel that jobs may load themselves: the variable `DMAPLANE_LOADABLE` has their files, in order.
    pub loadable: Vec<&'static str>,
    /// How long all jobs together may take, unscaled, instead of the usual.
    pub limit: Option<Duration>,
    /// Without the network: a bare boot.
    bare: bool,
}

/// Something that a guest said.
pub enum Event<'a> {
    /// A line of the kernel's console.
    Console {
        /// The guest's name.
        guest: &'a str,
        /// Without its end.
        line: &'a str,
    },
    /// A line of a job's output.
    Output {
        /// The guest's name.
        guest: &'a str,
        /// The job's name.
        job: &'a str,
        /// Without its end.
        line: &'a str,
    },
}

/// What a run left.
#[derive(Debug)]
pub struct Outcome {
    /// The run's folder: removed with this value unless kept.
    pub dir: RunDir,
    /// One for each guest, in the topology's order.
    pub guests: Vec<GuestOutcome>,
    /// How it ended.
    pub end: End,
    /// How many boots failed before this one.
    pub failed_boots: u32,
    /// From the first boot to the last power-off.
    pub time: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All guests powered off by themselves.
    Off,
    /// The named guest never reached its runner.
    NotBooted(String),
    /// The named guest had to be killed: its time was over.
    TimedOut(String),
}

/// What a guest left.
#[derive(Debug)]
pub struct GuestOutcome {
    /// Its name.
    pub name: String,
    /// The folder that it shared, relative to the run's.
    share: PathBuf,
    /// Its console.
    pub console: String,
    /// What its runner reported, if it did.
    pub report: Option<Report>,
    /// How QEMU ended.
    pub qemu: String,
    /// What QEMU itself said: errors and warnings.
    pub qemu_said: String,
    /// QEMU's command line.
    pub command_line: String,
}

/// A job that inherits the usual environment.
pub fn job<S: Into<String>>(name: &str, argv: impl IntoIterator<Item = S>) -> Job {
    Job {
        name: name.to_owned(),
        argv: argv.into_iter().map(Into::into).collect(),
        env: BTreeMap::new(),
        netns: None,
        service: false,
        ready_when: None,
        interactive: false,
        collect: Vec::new(),
    }
}

impl Request {
    /// Boots, says hello, powers off.
    pub fn empty() -> Self {
        Self {
            bare: true,
            ..Self::default()
        }
    }

    /// Adds a job for a guest.
    pub fn job(&mut self, guest: &str, job: Job) -> &mut Self {
        self.bare = false;
        self.jobs.push((guest.to_owned(), job));
        self
    }
}

impl Outcome {
    /// The guest of this name.
    pub fn guest(&self, name: &str) -> Result<&GuestOutcome> {
        self.guests
            .iter()
            .find(|guest| guest.name == name)
            .with_context(|| format!("there is no guest {name}"))
    }

    /// Where the files that a guest left are, until this outcome is dropped.
    pub fn share(&self, guest: &GuestOutcome) -> PathBuf {
        self.dir.path().join(&guest.share)
    }
}

#[cfg(test)]
impl GuestOutcome {
    /// One that never ran.
    pub fn fake(name: &str, console: &str, report: Option<Report>) -> Self {
        Self {
            name: name.to_owned(),
            share: PathBuf::from(name),
            console: console.to_owned(),
            report,
            qemu: "exit status: 0".to_owned(),
            qemu_said: String::new(),
            command_line: "qemu".to_owned(),
        }
    }
}
