// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots a topology, runs commands in its guests, and brings back what they left.
//!
//! ```ignore
//! let lab = Lab::prepare(ctx, "pair", Profile::Base, AccelChoice::Auto, Driver::Loaded)?;
//! let mut request = Request::empty();
//! // Guest b serves; a's jobs start once b's output holds `ready_when`.
//! request.job("b", Job { ready_when: Some("listening".into()), ..session::job("recv", ["dmaplane", "kv", "recv"]) });
//! request.job("a", session::job("send", ["dmaplane", "kv", "send", "--file", "/any/path/of/the/host"]));
//! let outcome = lab.run(ctx, &request, &mut |event| { /* console lines, output lines */ })?;
//! let verdict = lab.judge(&outcome)?;                // splats, leaks, hangs, failed jobs
//! let made = outcome.share(outcome.guest("b")?).join("kv.bin"); // it wrote /run/dmaplane/kv.bin
//! ```
//!
//! Guests see the host's file system read-only under the same paths (except /run, /proc, /sys,
//! /dev), with a tmpfs over it that takes writes. What is to come back goes to `/run/dmaplane`,
//! `DMAPLANE_SHARE` in the environment; it does not support writable shared mappings.
//! In `pair`, the second guest's first job is started before the first guest's jobs; its remaining
//! jobs and the first guest's run at the same time.

mod lab;
mod running;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::guest::plan::{Job, Report};
use crate::guest::rundir::RunDir;

pub(crate) use lab::{Driver, Lab};

/// The shared folder in a guest's part of a run's folder.
const SHARE_FOLDER: &str = "share";

/// What to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Jobs, each with the name of its guest.
    jobs: Vec<(String, Job)>,
    /// In addition to the usual environment, for all jobs.
    pub(crate) env: BTreeMap<String, String>,
    /// Files to put into every guest's share: name and content.
    pub(crate) files: Vec<(String, String)>,
    /// Modules of the kernel to load besides rxe.
    pub(crate) modules: Vec<&'static str>,
    /// How long all jobs together may take, unscaled, instead of the usual.
    pub(crate) limit: Option<Duration>,
    /// Without the network: a bare boot.
    bare: bool,
}

/// Something that a guest said.
pub(crate) enum Event<'a> {
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
pub(crate) struct Outcome {
    /// The run's folder: removed with this value unless kept.
    pub(crate) dir: RunDir,
    /// One for each guest, in the topology's order.
    pub(crate) guests: Vec<GuestOutcome>,
    /// How it ended.
    pub(crate) end: End,
    /// How many boots failed before this one.
    pub(crate) failed_boots: u32,
    /// From the first boot to the last power-off.
    pub(crate) time: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All guests powered off by themselves.
    Off,
    /// The named guest never came to its runner.
    NotBooted(String),
    /// The named guest had to be killed: its time was over.
    TimedOut(String),
}

/// What a guest left.
#[derive(Debug)]
pub(crate) struct GuestOutcome {
    /// Its name.
    pub(crate) name: String,
    /// The folder that it shared, relative to the run's.
    share: PathBuf,
    /// Its console.
    pub(crate) console: String,
    /// What its runner reported, if it came to that.
    pub(crate) report: Option<Report>,
    /// How QEMU ended.
    pub(crate) qemu: String,
    /// What QEMU itself said: errors and warnings.
    pub(crate) qemu_said: String,
    /// QEMU's command line.
    pub(crate) command_line: String,
}

/// A job that inherits the usual environment.
pub(crate) fn job<S: Into<String>>(name: &str, argv: impl IntoIterator<Item = S>) -> Job {
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
    pub(crate) fn empty() -> Self {
        Self {
            bare: true,
            ..Self::default()
        }
    }

    /// Adds a job for a guest.
    pub(crate) fn job(&mut self, guest: &str, job: Job) -> &mut Self {
        self.bare = false;
        self.jobs.push((guest.to_owned(), job));
        self
    }
}

impl Outcome {
    /// The guest of this name.
    pub(crate) fn guest(&self, name: &str) -> Result<&GuestOutcome> {
        self.guests
            .iter()
            .find(|guest| guest.name == name)
            .with_context(|| format!("there is no guest {name}"))
    }

    /// Where the files that a guest left are, until this outcome is dropped.
    pub(crate) fn share(&self, guest: &GuestOutcome) -> PathBuf {
        self.dir.path().join(&guest.share)
    }
}

#[cfg(test)]
impl GuestOutcome {
    /// One that never ran.
    pub(crate) fn fake(name: &str, console: &str, report: Option<Report>) -> Self {
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
