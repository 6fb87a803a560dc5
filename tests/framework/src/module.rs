// SPDX-License-Identifier: MIT OR Apache-2.0

//! Loading and unloading the driver.

use std::env;
use std::ffi::{CStr, CString, c_int};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::io::Errno;

use crate::{Gauges, Guest, gauges, poll};

/// Name of the module.
pub const NAME: &CStr = c"dmaplane";

/// Where the module's file is, by `DMAPLANE_KO`.
///
/// # Errors
/// When the variable is not set or names no file.
pub fn path() -> Result<PathBuf> {
    let path = env::var_os("DMAPLANE_KO").context("DMAPLANE_KO is not set: the runner sets it")?;
    let path = PathBuf::from(path);
    anyhow::ensure!(
        path.is_file(),
        "DMAPLANE_KO names {}, no file",
        path.display()
    );
    Ok(path)
}

/// Whether the driver is loaded.
pub fn is_loaded() -> bool {
    Path::new("/sys/module/dmaplane").exists()
}

/// Loads the module and waits for its device node.
///
/// # Errors
/// What finit_module(2) says, or that no node appeared.
pub fn load(path: &Path, limit: Duration) -> Result<()> {
    load_with(path, c"", limit)
}

/// Loads the module with parameters, `name=value` with spaces between.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, parameters: &CStr, limit: Duration) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    rustix::system::finit_module(&file, parameters, 0).context("finit_module")?;
    let device = Path::new(dmaplane::DEVICE_PATH);
    let there = poll::until(limit, || Ok(device.exists().then_some(())))?;
    there.with_context(|| format!("{} did not appear", device.display()))
}

/// Loads one of the kernel's modules with parameters. One that is there already is fine.
///
/// # Errors
/// What finit_module(2) says.
pub fn load_other(path: &Path, parameters: &CStr) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::system::finit_module(&file, parameters, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => bail!(
            "the kernel refused {}: {errno}; its console says why (was it built for this kernel?)",
            path.display()
        ),
    }
}

/// Loads one of the kernel's modules that the runner has listed in an environment variable, with parameters, after what it
/// depends on. One that is there already is fine.
///
/// # Errors
/// When it is not listed, and as [`load_other`].
pub fn load_listed(variable: &str, name: &str, parameters: &str) -> Result<()> {
    let list = env::var(variable).with_context(|| format!("{variable} is not set"))?;
    let parameters = CString::new(parameters)?;
    for path in list.split(':') {
        let own = Path::new(path).file_stem() == Some(name.as_ref());
        let parameters = if own { parameters.as_c_str() } else { c"" };
        load_other(path.as_ref(), parameters)?;
        if own {
            return Ok(());
        }
    }
    bail!("{variable} has no {name}: {list}")
}

/// Tries to unload the module once, without force.
///
/// # Errors
/// `EAGAIN` (`EWOULDBLOCK`) while it is in use.
pub fn try_unload() -> Result<(), Errno> {
    rustix::system::delete_module(NAME, nonblocking())
}

/// Unloads the module, again and again while a last user lets go.
///
/// # Errors
/// When it is still in use after `limit`, or anything else than that.
pub fn unload(limit: Duration) -> Result<()> {
    unload_other(NAME, limit)
}

/// The same with another module.
///
/// # Errors
/// As [`unload`].
pub fn unload_other(name: &CStr, limit: Duration) -> Result<()> {
    let gone = poll::until(limit, || {
        match rustix::system::delete_module(name, nonblocking()) {
            Ok(()) => Ok(Some(())),
            Err(Errno::AGAIN | Errno::BUSY) => Ok(None),
            Err(errno) => {
                let name = name.to_string_lossy();
                bail!("{name} cannot be unloaded: {errno}")
            }
        }
    })?;
    gone.with_context(|| {
        let (name, users) = (name.to_string_lossy(), users_of(name));
        format!("{name} is still in use after {limit:?}: {users}")
    })
}

/// The module's reference count, as text.
pub fn users() -> String {
    users_of(NAME)
}

fn users_of(name: &CStr) -> String {
    let count = fs::read_to_string(format!("/sys/module/{}/refcnt", name.to_string_lossy()));
    count.map_or_else(|error| error.to_string(), |text| text.trim().to_owned())
}

fn nonblocking() -> c_int {
    libc::O_NONBLOCK
}

/// Loads the module with parameters for `work`, and without them afterwards, whatever became of it. Nobody else may use it.
///
/// # Errors
/// `work`'s, when it leaves objects behind, and when the module cannot be loaded or unloaded.
pub fn with_parameters(
    guest: &Guest,
    parameters: &CStr,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let path = path()?;
    let limit = guest.limit(5);
    unload(limit)?;
    let loaded = load_with(&path, parameters, limit);
    let result = loaded.and_then(|()| {
        let before = Gauges::read()?;
        work()?;
        gauges::settle(&before, limit)
    });
    unload(limit)?;
    load(&path, limit)?;
    result
}
