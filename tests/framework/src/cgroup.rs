// SPDX-License-Identifier: MIT OR Apache-2.0

//! Cgroups of the test's own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::run::Skip;

/// A cgroup (version 2) with the memory controller. This process moves in, and out on drop.
#[derive(Debug)]
pub struct MemoryCgroup {
    root: PathBuf,
    folder: PathBuf,
    /// Open from the beginning: at the limit, opening a file may be what the kernel kills this process for.
    max: File,
}

impl MemoryCgroup {
    /// Makes a cgroup and moves this process into it.
    ///
    /// # Errors
    /// A [`Skip`] where version 2 cannot be mounted or has no memory controller.
    pub fn enter(name: &str) -> Result<Self> {
        let root = mounted(name)?;
        let folder = root.join(name);
        match make(&root, &folder) {
            Ok(max) => Ok(Self { root, folder, max }),
            Err(error) => {
                leave(&root, &folder);
                Err(error)
            }
        }
    }

    /// Bytes that are charged now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn current(&self) -> Result<u64> {
        let text = fs::read_to_string(self.folder.join("memory.current"))?;
        text.trim().parse().context("memory.current is no number")
    }

    /// Sets the hard limit; `None` removes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_max(&self, bytes: Option<u64>) -> Result<()> {
        let text = bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
        let written = self.max.write_all_at(text.as_bytes(), 0);
        written.with_context(|| format!("cannot write {text:?} to memory.max"))
    }

    /// Processes of the cgroup that the kernel killed for want of memory.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn oom_kills(&self) -> Result<u64> {
        let text = fs::read_to_string(self.folder.join("memory.events"))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills
            .and_then(|kills| kills.parse().ok())
            .context("memory.events has no oom_kill")
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        leave(&self.root, &self.folder);
    }
}

/// A cgroup (version 2) whose processes get memory of some nodes only, or run on some processors only. This process moves in, and out on drop.
#[derive(Debug)]
pub struct CpusetCgroup {
    root: PathBuf,
    folder: PathBuf,
}

impl CpusetCgroup {
    /// Makes a cgroup with the nodes `mems`, as `cpuset.mems` has them, and moves this process into it.
    ///
    /// # Errors
    /// A [`Skip`] where version 2 cannot be mounted or has no controller of cpusets.
    pub fn enter(name: &str, mems: &str) -> Result<Self> {
        Self::with(name, "cpuset.mems", mems)
    }

    /// Makes a cgroup with the processors `cpus`, as `cpuset.cpus` has them, and moves this process into it.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub fn on_processors(name: &str, cpus: &str) -> Result<Self> {
        Self::with(name, "cpuset.cpus", cpus)
    }

    fn with(name: &str, file: &str, list: &str) -> Result<Self> {
        let root = mounted(name)?;
        let folder = root.join(name);
        let made = prepare(&root, &folder, "cpuset")
            .and_then(|()| write(&folder.join(file), list))
            .and_then(|()| write(&folder.join("cgroup.procs"), "0"));
        let cgroup = Self { root, folder };
        made.map(|()| cgroup)
    }
}

impl Drop for CpusetCgroup {
    fn drop(&mut self) {
        leave(&self.root, &self.folder);
    }
}

/// Mounts the hierarchy in a folder of the caller's own.
fn mounted(name: &str) -> Result<PathBuf> {
    let root = std::env::temp_dir().join(format!("cgroup-{name}-{}", std::process::id()));
    fs::create_dir(&root).with_context(|| format!("cannot create {}", root.display()))?;
    let mounted = mount(
        "none",
        &root,
        "cgroup2",
        MountFlags::empty(),
        None::<&std::ffi::CStr>,
    );
    if let Err(errno) = mounted {
        fs::remove_dir(&root)?;
        return Err(Skip::new(format!("cgroup version 2 cannot be mounted: {errno}")).into());
    }
    Ok(root)
}

/// Makes a cgroup with a controller.
fn prepare(root: &Path, folder: &Path, controller: &str) -> Result<()> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    if !controllers
        .split_whitespace()
        .any(|other| other == controller)
    {
        return Err(Skip::new(format!(
            "this kernel's cgroups have no {controller} controller"
        ))
        .into());
    }
    write(
        &root.join("cgroup.subtree_control"),
        &format!("+{controller}"),
    )?;
    fs::create_dir(folder).context("cannot create a cgroup")
}

/// Makes a cgroup in a mounted hierarchy and moves this process into it; gives the file of its hard limit.
fn make(root: &Path, folder: &Path) -> Result<File> {
    prepare(root, folder, "memory")?;
    let max = File::options().write(true).open(folder.join("memory.max"));
    let max = max.context("cannot open memory.max")?;
    write(&folder.join("cgroup.procs"), "0")?;
    Ok(max)
}

/// Best effort: a test that fails may leave it, and the guest ends soon after.
fn leave(root: &Path, folder: &Path) {
    let _ = write(&root.join("cgroup.procs"), "0");
    let _ = fs::remove_dir(folder);
    let _ = unmount(root, UnmountFlags::DETACH);
    let _ = fs::remove_dir(root);
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text:?} to {}", path.display()))
}
