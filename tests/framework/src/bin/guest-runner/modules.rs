// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loading and unloading kernel modules without modprobe: the host has worked out the order.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::system::{delete_module, finit_module};

/// Loads a module from its file. One that is already there is fine.
pub(crate) fn load(ko: &Path) -> Result<()> {
    let file = File::open(ko).with_context(|| format!("cannot open {}", ko.display()))?;
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(err) => bail!(
            "the kernel refused {}: {err}; its console says why (was it built for this kernel?)",
            ko.display()
        ),
    }
}

/// Unloads a module and retries while it is in use, until `limit` is over: what a closed file
/// leaves to a work queue may hold the last reference for a moment.
pub(crate) fn unload(name: &str, limit: Duration) -> Result<()> {
    let start = Instant::now();
    let symbol = CString::new(name)?;
    let flags = i32::try_from(OFlags::NONBLOCK.bits())?;
    loop {
        match delete_module(&symbol, flags) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::BUSY) if start.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(err) => {
                bail!("rmmod {name}: {err}; reference count {}", references(name));
            }
        }
    }
}

fn references(name: &str) -> String {
    fs::read_to_string(format!("/sys/module/{name}/refcnt")).map_or_else(
        |err| format!("unknown ({err})"),
        |text| text.trim().to_owned(),
    )
}

/// Makes a device node usable by unprivileged test processes.
pub(crate) fn open_to_all(node: &str) -> Result<()> {
    rustix::fs::chmod(node, Mode::from_raw_mode(0o666))
        .with_context(|| format!("the driver is loaded, but there is no {node}"))
}
