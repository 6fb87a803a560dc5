// SPDX-License-Identifier: MIT OR Apache-2.0

//! Network namespaces: the peer's side of a one-guest topology.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `work` in a thread that stands in a named network namespace. Processes that it starts
/// inherit the namespace; /sys stays as it is.
///
/// # Errors
/// When there is no such namespace, or this process may not enter it.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    enter(name, &Path::new("/run/netns").join(name), work)
}

/// The same in the namespace that the guest's devices are in at first.
///
/// # Errors
/// When this process may not enter it.
pub fn initial<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    enter("of init", Path::new("/proc/1/ns/net"), work)
}

fn enter<T: Send>(name: &str, path: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).with_context(|| format!("no network namespace {name}"))?;
    let enter_and_work = || -> Result<T> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter the network namespace {name}"))?;
        Ok(work())
    };
    thread::scope(|scope| scope.spawn(enter_and_work).join())
        .map_err(|_| anyhow!("the thread in the network namespace {name} panicked"))?
}
