// SPDX-License-Identifier: MIT OR Apache-2.0

//! What must be known about the machine to judge a measurement.

use std::fs;
use std::path::Path;

/// The caches of the first processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caches {
    /// Bytes of the largest one.
    pub last_level_bytes: u64,
}

impl Caches {
    /// Reads them from sysfs; `None` where it has none.
    pub fn read() -> Option<Self> {
        Self::read_at(Path::new("/sys/devices/system/cpu/cpu0/cache"))
    }

    fn read_at(folder: &Path) -> Option<Self> {
        let sizes = fs::read_dir(folder).ok()?.filter_map(|entry| {
            let text = fs::read_to_string(entry.ok()?.path().join("size")).ok()?;
            let kib: u64 = text.trim().strip_suffix('K')?.parse().ok()?;
            Some(kib << 10)
        });
        sizes
            .max()
            .map(|last_level_bytes| Self { last_level_bytes })
    }
}

/// Why measurements on this machine say nothing about NUMA hardware; `None` on hardware.
pub fn emulation() -> Option<String> {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| emulated(&text))
}

fn emulated(cpuinfo: &str) -> Option<String> {
    let value = |name: &str| {
        let mut lines = cpuinfo.lines();
        lines.find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let model = value("model name").unwrap_or("unknown processor");
    if model.contains("QEMU") || model.contains("TCG") {
        return Some(format!("an emulated processor ({model})"));
    }
    let flags = value("flags").unwrap_or_default();
    let virtual_machine = flags.split_whitespace().any(|flag| flag == "hypervisor");
    virtual_machine.then(|| format!("a virtual machine ({model})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_distinguished() {
        let text = |model: &str, flags: &str| {
            format!("processor\t: 0\nmodel name\t: {model}\nflags\t\t: fpu {flags} sse\n")
        };
        let tcg = emulated(&text("QEMU TCG CPU version 2.5+", "hypervisor"));
        assert!(tcg.expect("emulated").contains("emulated processor"));
        let guest = emulated(&text("AMD EPYC 9654", "hypervisor"));
        assert!(guest.expect("a guest").contains("virtual machine"));
        assert_eq!(emulated(&text("AMD EPYC 9654", "svm")), None);
    }

    #[test]
    fn the_largest_cache_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        for (index, size) in [
            ("index0", "32K\n"),
            ("index3", "32768K\n"),
            ("index2", "512K\n"),
        ] {
            fs::create_dir(folder.path().join(index)).expect("a folder");
            fs::write(folder.path().join(index).join("size"), size).expect("a file");
        }
        let caches = Caches::read_at(folder.path()).expect("caches");
        assert_eq!(caches.last_level_bytes, 32 << 20);
        assert_eq!(Caches::read_at(&folder.path().join("none")), None);
    }
}
