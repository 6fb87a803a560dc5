// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest's device with memory, and how it is taken away and given back.

use std::fs;
use std::path::{Path, PathBuf};

use dmaplane::{Context, DeviceInfo};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, Skip, poll};

/// The guest's device. Skips the test where there is none.
///
/// # Errors
/// When it cannot be asked for.
pub fn device(guest: &Guest, context: &Context) -> Result<DeviceInfo> {
    let device = DeviceInfo::list(context)?.into_iter().next();
    match device {
        Some(device) => Ok(device),
        None => Err(Skip::new(format!("{:?} has no device with memory", guest.topology)).into()),
    }
}

/// Waits for a device with a higher number than `before`.
///
/// # Errors
/// When none comes.
pub fn rebound(guest: &Guest, context: &Context, before: u64) -> Result<DeviceInfo> {
    let device = poll::until(guest.limit(20), || {
        let devices = DeviceInfo::list(context)?;
        Ok(devices.into_iter().find(|device| device.number > before))
    })?;
    device.context("the device does not come back")
}

/// A device in sysfs.
#[derive(Debug)]
pub struct Bound {
    address: String,
    parent: PathBuf,
}

fn tell(file: &Path, what: &str) -> Result<()> {
    fs::write(file, what).with_context(|| format!("cannot write {what} to {}", file.display()))
}

impl Bound {
    /// The device's place in sysfs.
    ///
    /// # Errors
    /// When it has none.
    pub fn of(device: &DeviceInfo) -> Result<Self> {
        let path = fs::canonicalize(Path::new("/sys/bus/pci/devices").join(&device.address))?;
        let parent = path.parent().context("a device without a bus")?.to_owned();
        Ok(Self {
            address: device.address.clone(),
            parent,
        })
    }

    /// Takes it away from the driver.
    ///
    /// # Errors
    /// When that is refused.
    pub fn unbind(&self) -> Result<()> {
        tell(
            Path::new("/sys/bus/pci/drivers/dmaplane/unbind"),
            &self.address,
        )
    }

    /// Gives it back to the driver.
    ///
    /// # Errors
    /// When that is refused.
    pub fn bind(&self) -> Result<()> {
        tell(
            Path::new("/sys/bus/pci/drivers/dmaplane/bind"),
            &self.address,
        )
    }

    /// Removes it from the bus, as an unplugged one is.
    ///
    /// # Errors
    /// When that is refused.
    pub fn remove(&self) -> Result<()> {
        let path = Path::new("/sys/bus/pci/devices").join(&self.address);
        tell(&path.join("remove"), "1")
    }

    /// Has its bus looked for it again.
    ///
    /// # Errors
    /// When that is refused.
    pub fn rescan(&self) -> Result<()> {
        tell(&self.parent.join("rescan"), "1")
    }
}
