// SPDX-License-Identifier: MIT OR Apache-2.0

//! The guest's device with memory, and how it is taken away and given back.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dmaplane::{Context, DeviceInfo};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, Skip, bail, poll};

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

/// Vendor and device of ivshmem.
const IVSHMEM: (&str, &str) = ("0x1af4", "0x1110");

/// A device in sysfs.
#[derive(Debug)]
pub struct Bound {
    address: String,
    parent: PathBuf,
}

fn write(file: &Path, what: &str) -> Result<()> {
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

    /// The first device of the kind that the driver takes, which it may not have.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub fn any() -> Result<Option<Self>> {
        for entry in fs::read_dir("/sys/bus/pci/devices")? {
            let path = fs::canonicalize(entry?.path())?;
            let id = |name: &str| fs::read_to_string(path.join(name));
            if (id("vendor")?.trim(), id("device")?.trim()) == IVSHMEM {
                let address = path.file_name().context("a device without a name")?;
                return Ok(Some(Self {
                    address: address.to_string_lossy().into_owned(),
                    parent: path.parent().context("a device without a bus")?.to_owned(),
                }));
            }
        }
        Ok(None)
    }

    /// Takes it away from the driver.
    ///
    /// # Errors
    /// When that is refused.
    pub fn unbind(&self) -> Result<()> {
        write(
            Path::new("/sys/bus/pci/drivers/dmaplane/unbind"),
            &self.address,
        )
    }

    /// Gives it back to the driver.
    ///
    /// # Errors
    /// When that is refused.
    pub fn bind(&self) -> Result<()> {
        write(
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
        write(&path.join("remove"), "1")
    }

    /// Has the kernel scan its bus again.
    ///
    /// # Errors
    /// When that is refused.
    pub fn rescan(&self) -> Result<()> {
        write(&self.parent.join("rescan"), "1")
    }
}

/// The hot-plug slot that a device is in.
#[derive(Debug)]
pub struct Slot(PathBuf);

impl Slot {
    /// Finds it.
    ///
    /// # Errors
    /// When the device is in none.
    pub fn of(device: &DeviceInfo) -> Result<Self> {
        // The slot's address is the device's without the function.
        let (address, _) = device.address.rsplit_once('.').context("no function")?;
        for entry in fs::read_dir("/sys/bus/pci/slots")? {
            let path = entry?.path();
            if fs::read_to_string(path.join("address"))?.trim() == address {
                return Ok(Self(path));
            }
        }
        bail!("{address} is in no slot")
    }

    /// Switches its power off, which takes the device from its driver first.
    ///
    /// # Errors
    /// When that is refused.
    fn switch_off(&self) -> Result<()> {
        write(&self.0.join("power"), "0")
    }
}

/// The guest's way to QEMU's monitor, by which it unplugs its own device and plugs it again.
#[derive(Debug)]
pub struct Monitor {
    port: File,
    lines: mpsc::Receiver<String>,
    plugged: u32,
}

impl Monitor {
    /// Opens it.
    ///
    /// # Errors
    /// When the guest has none.
    pub fn open() -> Result<Self> {
        let mut name = None;
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name"))?.trim() == "dmaplane.monitor" {
                name = Some(entry.file_name());
            }
        }
        let name = name.context("no port is called dmaplane.monitor")?;
        let path = Path::new("/dev").join(name);
        let port = File::options().read(true).write(true).open(&path)?;
        let reader = BufReader::new(port.try_clone()?);
        let (sender, lines) = mpsc::channel();
        // Ends with the process: nothing else ends a read of the port.
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut monitor = Self {
            port,
            lines,
            plugged: 0,
        };
        // QEMU refuses it if an earlier test has done so, which is as good.
        monitor.send("{\"execute\":\"qmp_capabilities\"}")?;
        Ok(monitor)
    }

    fn send(&mut self, command: &str) -> Result<()> {
        writeln!(self.port, "{command}").context("cannot write to the monitor")
    }

    /// Waits for a line that has `what` in it; a refusal of the command `id` is an error.
    fn wait(&self, what: &str, id: &str, limit: Duration) -> Result<()> {
        let start = Instant::now();
        while let Some(left) = limit.checked_sub(start.elapsed()) {
            let Ok(line) = self.lines.recv_timeout(left) else {
                break;
            };
            if line.contains(id) && line.contains("\"error\"") {
                bail!("the monitor refuses: {line}");
            }
            if line.contains(what) {
                return Ok(());
            }
        }
        bail!("the monitor never says {what}")
    }

    /// Unplugs the guest's device, as by pressing its button; returns when it is gone. The button leaves 5 s for a
    /// change of mind; with `slot`, the power is switched off at once instead.
    ///
    /// # Errors
    /// When it does not go in time.
    pub fn unplug(&mut self, guest: &Guest, slot: Option<&Slot>) -> Result<()> {
        let id = "\"id\":\"unplug\"";
        self.send(&format!(
            "{{\"execute\":\"device_del\",\"arguments\":{{\"id\":\"bar0\"}},{id}}}"
        ))?;
        if let Some(slot) = slot {
            self.wait("\"unplug\"", "\"unplug\"", guest.limit(30))?;
            slot.switch_off()?;
        }
        self.wait("DEVICE_DELETED", "\"unplug\"", guest.limit(30))
    }

    /// Plugs one again, with 64 MiB of its own: QEMU (10.0.2, `hw/misc/ivshmem-pci.c`) does not let go of the name of
    /// the memory of a device whose memory was switched off before it went, and aborts when it is used again.
    ///
    /// # Errors
    /// When that is refused.
    pub fn plug(&mut self, guest: &Guest) -> Result<()> {
        self.plugged += 1;
        let memory = format!("plug{}-{}", std::process::id(), self.plugged);
        self.send(&format!(
            "{{\"execute\":\"object-add\",\"arguments\":{{\"qom-type\":\"memory-backend-memfd\",\
             \"id\":\"{memory}\",\"size\":67108864,\"share\":true}},\"id\":\"memory\"}}"
        ))?;
        self.wait("\"memory\"", "\"memory\"", guest.limit(30))?;
        self.send(&format!(
            "{{\"execute\":\"device_add\",\"arguments\":{{\"driver\":\"ivshmem-plain\",\
             \"id\":\"bar0\",\"memdev\":\"{memory}\",\"bus\":\"port0\"}},\"id\":\"plug\"}}"
        ))?;
        self.wait("\"plug\"", "\"plug\"", guest.limit(30))
    }
}
