// SPDX-License-Identifier: MIT OR Apache-2.0
//! The messages between host and guest: the plan on the way in, the report on the way out.
//!
//! Both sides use this crate, so that they cannot disagree. Both messages travel as JSON in the folder that host and
//! guest share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a guest sees the folder that it shares with the host.
pub const SHARE: &str = "/run/dmaplane";
/// The mount tag of the shared folder.
pub const SHARE_TAG: &str = "dmaplane-share";
/// The plan, in the shared folder.
pub const PLAN_FILE: &str = "plan.json";
/// The report, in the shared folder: written last, so its presence says that the guest came to an
/// orderly end.
pub const REPORT_FILE: &str = "report.json";
/// What the runner's own lines in the kernel log start with.
pub const RUNNER_MARK: &str = "dmaplane-runner:";
/// The line after [`RUNNER_MARK`] that ends the boot; before it everything is infrastructure.
pub const STARTED: &str = "started";

/// What the host asks of one guest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The guest's name in its topology; also its host name.
    pub guest: String,
    /// The working directory of every job.
    pub directory: PathBuf,
    /// The environment of every job; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Kernel modules, each after those that it depends on.
    pub modules: Vec<PathBuf>,
    /// A folder of `/lib/modules` that belongs to this kernel, from which it loads more on demand.
    pub autoload: Option<PathBuf>,
    /// `dmaplane.ko`: loaded last, unloaded and checked for leaks in the end.
    pub driver: Option<PathBuf>,
    /// What to build before the jobs start.
    pub network: Network,
    /// How this guest and another one wait for each other.
    pub rendezvous: Option<Rendezvous>,
    /// What to run: services first, then the others one after the other.
    pub jobs: Vec<Job>,
    /// Seconds that all jobs together may take.
    pub limit_s: u64,
    /// What the time limits inside the guest are multiplied by.
    pub time_scale: u32,
}

/// The network of one guest. An rxe device sits on each interface.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Network {
    /// No network at all.
    None,
    /// Two namespaces, `dp0` and `dp1`, joined by a veth pair.
    Veth {
        /// Bytes.
        mtu: u32,
        /// Addresses with prefix length in `dp0`.
        local: Vec<String>,
        /// Addresses with prefix length in `dp1`.
        peer: Vec<String>,
    },
    /// The guest's one virtio interface, in the initial namespace.
    Link {
        /// Bytes.
        mtu: u32,
        /// Addresses with prefix length.
        addresses: Vec<String>,
    },
}

/// Two guests that wait for each other over their network.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rendezvous {
    /// `address:port` on which the host guest listens.
    pub address: String,
    /// Whether this guest is the one that listens: it says when its services are ready, and lives
    /// until the other one is done.
    pub host: bool,
}

/// One command in a guest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Names its log, `NAME.log` in the shared folder.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// In addition to the plan's.
    pub env: BTreeMap<String, String>,
    /// The network namespace to run in.
    pub netns: Option<String>,
    /// A service runs until all other jobs, here and in the other guest, are over.
    pub service: bool,
    /// A service, or the first of the jobs of a rendezvous's host, is ready once its output holds
    /// this text; without it, once it runs.
    pub ready_when: Option<String>,
    /// Whether it sits on the shell console instead of a log.
    pub interactive: bool,
    /// Files to copy into the shared folder when it is over; absent ones are skipped.
    pub collect: Vec<PathBuf>,
}

/// The report of a guest at its end.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Why the jobs could not run as planned, if so.
    pub failure: Option<Failure>,
    /// How each job ended, in the plan's order.
    pub jobs: Vec<JobEnd>,
    /// What was found left behind; empty is what a good run shows.
    pub leaks: Vec<String>,
    /// kmemleak's report, if it found something.
    pub kmemleak: Option<String>,
    /// Whether kmemleak was there to ask.
    pub kmemleak_checked: bool,
    /// The driver's gauges after the last job.
    pub gauges: BTreeMap<String, u64>,
    /// The kernel's taint bits before the first job.
    pub taint_before: u64,
    /// The kernel's taint bits at the end.
    pub taint_after: u64,
    /// Milliseconds from power-on to the runner.
    pub boot_ms: u64,
    /// Milliseconds from power-on to the first job.
    pub ready_ms: u64,
    /// Milliseconds from power-on to this report.
    pub end_ms: u64,
}

/// Why jobs could not run as planned.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What kind of cause.
    pub cause: Cause,
    /// One or more lines.
    pub message: String,
}

/// Kinds of causes, which end in different verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A prerequisite was missing: a mount, the network, a program.
    Setup,
    /// The driver did not load.
    Driver,
    /// The jobs' time limit ran out.
    Limit,
    /// The other guest did not come, or failed.
    Peer,
}

/// How a job ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct JobEnd {
    /// The job's name.
    pub name: String,
    /// Whether it was a service, which a signal ends.
    pub service: bool,
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Milliseconds that it ran.
    pub ms: u64,
}
