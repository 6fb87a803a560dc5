// SPDX-License-Identifier: MIT OR Apache-2.0

//! Open files of the driver, found among those of all processes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use serde::Serialize;

/// Where sysfs has the number of the driver's device node.
const NODE_NUMBER: &str = "/sys/class/misc/dmaplane/dev";

/// An open file of the driver, as its process's fdinfo shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// The process.
    pub pid: u32,
    /// Its name, which it chose itself: escape it before people see it.
    pub command: String,
    /// What the file holds.
    pub holds: BTreeMap<String, u64>,
}

/// The open files of all processes that the caller may look at. Without root those are its own user's.
pub fn open_files() -> Vec<OpenFile> {
    let number = fs::read_to_string(NODE_NUMBER).ok();
    match number.and_then(|text| device_number(&text)) {
        Some(device) => files_of(Path::new("/proc"), device),
        None => Vec::new(),
    }
}

/// `10:123` as stat(2) has it.
fn device_number(text: &str) -> Option<u64> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

fn files_of(proc: &Path, device: u64) -> Vec<OpenFile> {
    let Ok(processes) = fs::read_dir(proc) else {
        return Vec::new();
    };
    let numbered = processes.flatten().filter_map(|process| {
        let pid = process.file_name().to_string_lossy().parse().ok()?;
        Some((pid, process.path()))
    });
    let mut files = Vec::new();
    for (pid, folder) in numbered {
        let Ok(descriptors) = fs::read_dir(folder.join("fd")) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let info = folder.join("fdinfo").join(descriptor.file_name());
            let Some(holds) = holdings(&descriptor.path(), &info, device) else {
                continue;
            };
            let command = fs::read(folder.join("comm")).unwrap_or_default();
            // The kernel ends it with a newline; others are the name's own.
            let command = command.strip_suffix(b"\n").unwrap_or(&command);
            files.push(OpenFile {
                pid,
                command: String::from_utf8_lossy(command).into_owned(),
                holds,
            });
        }
    }
    files
}

/// What a descriptor holds, if it is one of the driver's. The fdinfo of other files is not read: their users choose
/// some of it, such as a dma-buf's name.
fn holdings(descriptor: &Path, info: &Path, device: u64) -> Option<BTreeMap<String, u64>> {
    let metadata = fs::metadata(descriptor).ok()?;
    if !metadata.file_type().is_char_device() || metadata.rdev() != device {
        return None;
    }
    // The name of a dma-buf need not be UTF-8.
    let text = fs::read(info).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The number may have become another file's since.
    let inode = text.lines().find_map(|line| line.strip_prefix("ino:"));
    let same = inode.and_then(|inode| inode.trim().parse().ok()) == Some(metadata.ino());
    let holds = fdinfo(&text);
    (same && !holds.is_empty()).then_some(holds)
}

/// The driver's lines of a fdinfo.
fn fdinfo(text: &str) -> BTreeMap<String, u64> {
    let own = text
        .lines()
        .filter_map(|line| line.strip_prefix("dmaplane-"));
    let pairs = own.filter_map(|line| line.split_once(':'));
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fdinfo_is_read_without_what_others_wrote() {
        let holds = fdinfo("pos:\t0\nflags:\t02\ndmaplane-context:\t7\ndmaplane-bytes:\t4096\n");
        assert_eq!(holds.get("bytes"), Some(&4096));
        assert_eq!(holds.len(), 2);
    }

    #[test]
    fn only_files_of_the_device_count() {
        let proc = tempfile::tempdir().unwrap();
        let folder = proc.path().join("42");
        for name in ["fd", "fdinfo"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        fs::write(folder.join("comm"), "a\nSTUCK 9 s: x\n").unwrap();
        // /dev/null stands in for the driver's node, /dev/zero for another driver's.
        let node = fs::metadata("/dev/null").unwrap();
        let lines = "dmaplane-context:\t7\ndmaplane-bytes:\t99\n";
        let inode = node.ino();
        for (fd, target, inode) in [
            ("3", "/dev/null", inode),
            ("4", "/dev/zero", inode),
            ("5", "/dev/null", inode + 1),
            ("6", "/proc/self/comm", inode),
        ] {
            std::os::unix::fs::symlink(target, folder.join("fd").join(fd)).unwrap();
            let info = format!("pos:\t0\nino:\t{inode}\n{lines}");
            fs::write(folder.join("fdinfo").join(fd), info).unwrap();
        }
        let files = files_of(proc.path(), node.rdev());
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(files[0].command, "a\nSTUCK 9 s: x");
        assert_eq!(files[0].holds["bytes"], 99);
    }

    #[test]
    fn the_number_of_a_node_is_stats() {
        let node = fs::metadata("/dev/null").unwrap();
        assert_eq!(device_number("1:3\n"), Some(node.rdev()));
        assert_eq!(device_number("1"), None);
    }
}
