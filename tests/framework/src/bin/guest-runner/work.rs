// SPDX-License-Identifier: MIT OR Apache-2.0
//! The worker: prepares the guest, runs the plan's jobs, checks, reports.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dmaplane_testkit::module;
use rustix::fs::Mode;

use crate::jobs::{self, Running, Waited};
use crate::{checks, kmsg, network, rendezvous, stacks};
use dmaplane_vmtest_plan::{
    Cause, Failure, JobEnd, PLAN_FILE, Plan, REPORT_FILE, Report, SHARE, STARTED,
};

/// Kernel stacks of everything that lived when a time limit ran out, in the shared folder.
const HANG_FILE: &str = "hang.txt";

/// Does the plan; the exit code only says whether a report could be written.
pub(crate) fn main() -> ExitCode {
    kmsg::say(STARTED);
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            kmsg::say(&format!("failed: {err:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let share = Path::new(SHARE);
    let text = fs::read_to_string(share.join(PLAN_FILE)).context("cannot read the plan")?;
    let plan: Plan = serde_json::from_str(&text).context("the plan is not understood")?;
    let mut report = Report {
        boot_ms: uptime_ms(),
        ..Report::default()
    };
    if let Err(failure) = carry_out(&plan, &mut report) {
        kmsg::say(&format!("failed: {}", failure.message));
        if failure.cause == Cause::Limit {
            fs::write(share.join(HANG_FILE), stacks::all())?;
        }
        report.failure = Some(failure);
    }
    report.taint_after = checks::taint();
    report.end_ms = uptime_ms();
    // Written under another name first: a half-written report must not look like one.
    let draft = share.join("report.draft");
    fs::write(&draft, serde_json::to_vec_pretty(&report)?)?;
    fs::rename(&draft, share.join(REPORT_FILE))?;
    kmsg::say("reported");
    Ok(())
}

fn carry_out(plan: &Plan, report: &mut Report) -> Result<(), Failure> {
    let setup = |err| failure(Cause::Setup, &err);
    checks::quiet_kmemleak();
    rustix::system::sethostname(plan.guest.as_bytes()).map_err(|err| setup(err.into()))?;
    if let Some(tree) = &plan.autoload {
        offer_modules(tree).map_err(setup)?;
    }
    for ko in &plan.modules {
        module::load_other(ko, c"").map_err(setup)?;
    }
    network::build(&plan.network).map_err(setup)?;
    if let Some(ko) = &plan.driver {
        let broken = |err| failure(Cause::Driver, &err);
        module::load_other(ko, c"").map_err(broken)?;
        open_to_all(dmaplane::DEVICE_PATH).map_err(broken)?;
    }
    report.taint_before = checks::taint();
    report.ready_ms = uptime_ms();
    run_jobs(plan, &mut report.jobs)?;
    if let Some(ko) = &plan.driver {
        let name = ko.file_stem().unwrap_or_default().to_string_lossy();
        checks::after_jobs(report, &name, plan.time_scale);
    }
    Ok(())
}

fn run_jobs(plan: &Plan, ends: &mut Vec<JobEnd>) -> Result<(), Failure> {
    let setup = |err| failure(Cause::Setup, &err);
    let deadline = Instant::now() + Duration::from_secs(plan.limit_s);
    let (services, jobs): (Vec<_>, Vec<_>) = plan.jobs.iter().partition(|job| job.service);
    let mut running = Vec::new();
    for service in services {
        let mut service = jobs::start(plan, service).map_err(setup)?;
        service.ready(deadline).map_err(setup)?;
        running.push(service);
    }
    let mut jobs = jobs.into_iter();
    let mut peer = None;
    if let Some(rendezvous) = &plan.rendezvous {
        let away = |err| failure(Cause::Peer, &err);
        if rendezvous.host {
            let mut first = None;
            let mut word = "ready".to_owned();
            if let Some(job) = jobs.next() {
                let mut started = jobs::start(plan, job).map_err(setup)?;
                if let Err(err) = started.ready(deadline) {
                    word = format!("{err:#}").replace('\n', " ");
                }
                first = Some(started);
            }
            peer = Some(rendezvous::receive(&rendezvous.address, &word, deadline).map_err(away)?);
            if let Some(mut first) = first {
                ends.push(finish(&mut first, deadline)?);
            }
        } else {
            peer = Some(rendezvous::visit(&rendezvous.address, deadline).map_err(away)?);
        }
    }
    for job in jobs {
        let mut job = jobs::start(plan, job).map_err(setup)?;
        ends.push(finish(&mut job, deadline)?);
    }
    if let (Some(rendezvous), Some(mut peer)) = (&plan.rendezvous, peer) {
        if rendezvous.host {
            // Whatever the visitor says, or its silence, ends the services.
            peer.hear(deadline)
                .map_err(|err| failure(Cause::Peer, &err))?;
        } else {
            // A host that is gone already says why in its own report.
            let _ = peer.say("done");
        }
    }
    for mut service in running {
        match service.stop(plan.time_scale).map_err(setup)? {
            Waited::Ended(end) => ends.push(end),
            Waited::Late => return Err(late("a service does not die of SIGKILL")),
        }
    }
    Ok(())
}

fn finish(job: &mut Running, deadline: Instant) -> Result<JobEnd, Failure> {
    match job
        .wait(deadline)
        .map_err(|err| failure(Cause::Setup, &err))?
    {
        Waited::Ended(end) => Ok(end),
        Waited::Late => Err(late("a job still runs")),
    }
}

fn late(what: &str) -> Failure {
    let message = format!("{what} and the time limit is over; {HANG_FILE} has every task's stack");
    Failure {
        cause: Cause::Limit,
        message,
    }
}

fn failure(cause: Cause, err: &anyhow::Error) -> Failure {
    Failure {
        cause,
        message: format!("{err:#}"),
    }
}

/// Milliseconds since power-on, as far as the kernel counts them; 0 if it does not show them.
fn uptime_ms() -> u64 {
    fs::read_to_string("/proc/uptime")
        .ok()
        .and_then(|text| {
            Some(
                text.split_once(' ')?
                    .0
                    .replace('.', "")
                    .parse::<u64>()
                    .ok()?
                    * 10,
            )
        })
        .unwrap_or_default()
}

/// Puts the kernel's modules where it has modprobe look for them.
fn offer_modules(tree: &Path) -> Result<()> {
    let release = tree.file_name().context("modules without a release")?;
    let place = Path::new("/lib/modules");
    fs::create_dir_all(place).with_context(|| format!("cannot create {}", place.display()))?;
    symlink(tree, place.join(release))
        .with_context(|| format!("cannot link {} there", tree.display()))
}

/// Makes a device node usable by unprivileged test processes.
fn open_to_all(node: &str) -> Result<()> {
    rustix::fs::chmod(node, Mode::from_raw_mode(0o666))
        .with_context(|| format!("the driver is loaded, but there is no {node}"))
}
