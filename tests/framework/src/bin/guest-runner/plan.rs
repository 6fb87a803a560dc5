// SPDX-License-Identifier: MIT OR Apache-2.0
//! What host and guest tell each other: the plan on the way in, the report on the way out.
//!
//! xtask includes this very file, so the two sides cannot disagree. Both travel as JSON in the
//! folder that host and guest share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a guest sees the folder that it shares with the host.
pub(crate) const SHARE: &str = "/run/dmaplane";
/// The mount tag of the shared folder.
pub(crate) const SHARE_TAG: &str = "dmaplane-share";
/// The plan, in the shared folder.
pub(crate) const PLAN_FILE: &str = "plan.json";
/// The report, in the shared folder: written last, so its presence says that the guest came to an
/// orderly end.
pub(crate) const REPORT_FILE: &str = "report.json";
/// What the runner's own lines in the kernel log start with.
pub(crate) const RUNNER_MARK: &str = "dmaplane-runner:";
/// The line after [`RUNNER_MARK`] that ends the boot; before it everything is infrastructure.
pub(crate) const STARTED: &str = "started";

/// What the host asks of one guest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// The guest's name in its topology; also its host name.
    pub(crate) guest: String,
    /// The working directory of every job.
    pub(crate) directory: PathBuf,
    /// The environment of every job; nothing is inherited.
    pub(crate) env: BTreeMap<String, String>,
    /// Kernel modules, each after those that it depends on.
    pub(crate) modules: Vec<PathBuf>,
    /// A folder of `/lib/modules` that belongs to this kernel, from which it loads more on demand.
    pub(crate) autoload: Option<PathBuf>,
    /// `dmaplane.ko`: loaded last, unloaded and checked for leaks in the end.
    pub(crate) driver: Option<PathBuf>,
    /// What to build before the jobs start.
    pub(crate) network: Network,
    /// How this guest and another one wait for each other.
    pub(crate) meeting: Option<Meeting>,
    /// What to run: services first, then the others one after the other.
    pub(crate) jobs: Vec<Job>,
    /// Seconds that all jobs together may take.
    pub(crate) limit_s: u64,
    /// What the time limits inside the guest are multiplied by.
    pub(crate) time_scale: u32,
}

/// The network of one guest. An rxe device sits on each interface.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Network {
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
pub(crate) struct Meeting {
    /// `address:port` on which the host guest listens.
    pub(crate) address: String,
    /// Whether this guest is the one that listens: it says when its services are ready, and lives
    /// until the other one is done.
    pub(crate) host: bool,
}

/// One command in a guest.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Job {
    /// Names its log, `NAME.log` in the shared folder.
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// In addition to the plan's.
    pub(crate) env: BTreeMap<String, String>,
    /// The network namespace to run in.
    pub(crate) netns: Option<String>,
    /// A service runs until all other jobs, here and in the other guest, are over.
    pub(crate) service: bool,
    /// A service, or the first of the jobs of a meeting's host, is ready once its output holds
    /// this text; without it, once it runs.
    pub(crate) ready_when: Option<String>,
    /// Whether it sits on the shell console instead of a log.
    pub(crate) interactive: bool,
    /// Files to copy into the shared folder when it is over; absent ones are skipped.
    pub(crate) collect: Vec<PathBuf>,
}

/// What a guest tells at its end.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    /// Why the jobs could not run as planned, if so.
    pub(crate) failure: Option<Failure>,
    /// How each job ended, in the plan's order.
    pub(crate) jobs: Vec<JobEnd>,
    /// What was found left behind; empty is what a good run shows.
    pub(crate) leaks: Vec<String>,
    /// kmemleak's report, if it found something.
    pub(crate) kmemleak: Option<String>,
    /// Whether kmemleak was there to ask.
    pub(crate) kmemleak_checked: bool,
    /// The driver's gauges after the last job.
    pub(crate) gauges: BTreeMap<String, u64>,
    /// The kernel's taint bits before the first job.
    pub(crate) taint_before: u64,
    /// The kernel's taint bits at the end.
    pub(crate) taint_after: u64,
    /// Milliseconds from power-on to the runner.
    pub(crate) boot_ms: u64,
    /// Milliseconds from power-on to the first job.
    pub(crate) ready_ms: u64,
    /// Milliseconds from power-on to this report.
    pub(crate) end_ms: u64,
}

/// Why jobs could not run as planned.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failure {
    /// What kind of cause.
    pub(crate) cause: Cause,
    /// One or more lines.
    pub(crate) message: String,
}

/// Kinds of causes, which end in different verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// The ground was not there: a mount, the network, a program.
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
pub(crate) struct JobEnd {
    /// The job's name.
    pub(crate) name: String,
    /// Whether it was a service, which a signal ends.
    pub(crate) service: bool,
    /// Its exit code, unless a signal ended it.
    pub(crate) code: Option<i32>,
    /// The signal that ended it.
    pub(crate) signal: Option<i32>,
    /// Milliseconds that it ran.
    pub(crate) ms: u64,
}
