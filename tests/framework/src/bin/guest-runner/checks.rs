// SPDX-License-Identifier: MIT OR Apache-2.0
//! What must be true once all jobs are over: gauges at zero, the driver unloads, no memory lost.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dmaplane_testkit::{Gauges, module, poll};

use crate::kmsg;
use crate::symbols::Symbols;
use dmaplane_vmtest_plan::Report;

const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";
const DEVICE: &str = "/dev/dmaplane";

/// The longest teardown that counts as bounded, before the time scale.
const TEARDOWN: Duration = Duration::from_secs(2);

/// Stops kmemleak's own scans: on an emulated CPU they would take half of the machine.
pub(crate) fn quiet_kmemleak() {
    if Path::new(KMEMLEAK).exists() {
        let _ = fs::write(KMEMLEAK, "scan=off");
    }
}

/// Runs all checks and notes what they find. Errors of a check count as findings: what could not
/// be checked is not known to be clean.
pub(crate) fn after_jobs(report: &mut Report, driver: &str, time_scale: u32) {
    kmsg::say("checking for leaks");
    let limit = TEARDOWN * time_scale;
    match settled_gauges(limit) {
        Ok(gauges) => {
            for (name, value) in gauges.all().iter().filter(|(_, value)| **value != 0) {
                report
                    .leaks
                    .push(format!("gauge {name} is {value} instead of 0"));
            }
            report.gauges = gauges.all().clone();
        }
        Err(err) => report.leaks.push(format!("{err:#}")),
    }
    if !report.leaks.is_empty() {
        report.leaks.extend(holders());
    }
    let symbols = Symbols::of(driver);
    let unloaded = CString::new(driver).map_err(Into::into);
    if let Err(err) = unloaded.and_then(|name| module::unload_other(&name, limit)) {
        report.leaks.push(format!("{err:#}"));
    }
    if Path::new(KMEMLEAK).exists() {
        match kmemleak() {
            Ok(found) => {
                report.kmemleak_checked = true;
                report.kmemleak = found.map(|text| symbols.annotate(&text));
            }
            Err(err) => report
                .leaks
                .push(format!("kmemleak did not answer: {err:#}")),
        }
    }
}

/// The gauges once they are all zero, or as they are when `limit` is over.
fn settled_gauges(limit: Duration) -> Result<Gauges> {
    let zero = || -> Result<Option<Gauges>> {
        let gauges = Gauges::read()?;
        Ok(gauges
            .all()
            .values()
            .all(|value| *value == 0)
            .then_some(gauges))
    };
    poll::until(limit, zero)?.map_or_else(Gauges::read, Ok)
}

/// The processes that still have the device open.
fn holders() -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let open = fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == Path::new(DEVICE)))
            .count();
        if open > 0 {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push(format!(
                "process {pid} ({}) holds {DEVICE} open {open} times",
                name.trim()
            ));
        }
    }
    found
}

fn kmemleak() -> Result<Option<String>> {
    kmsg::say("kmemleak scans");
    fs::write(KMEMLEAK, "scan").context("first scan")?;
    // Objects younger than 5 s are never reported, and a first sight may be a passing one.
    std::thread::sleep(Duration::from_secs(5));
    fs::write(KMEMLEAK, "scan").context("second scan")?;
    let text = fs::read_to_string(KMEMLEAK).context("reading its report")?;
    Ok((!text.trim().is_empty()).then_some(text))
}

/// The kernel's taint bits.
pub(crate) fn taint() -> u64 {
    fs::read_to_string("/proc/sys/kernel/tainted")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or_default()
}
