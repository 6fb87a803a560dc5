// SPDX-License-Identifier: MIT OR Apache-2.0

//! A memory cgroup of the test's own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::run::Skip;

/// A cgroup (version 2) with the memory controller. This process moves in, and out on drop.
#[derive(Debug)]
pub struct MemoryCgroup {
    root: PathBuf,
    folder: PathBuf,
}

impl MemoryCgroup {
    /// Makes a cgroup and moves this process into it.
    ///
    /// # Errors
    /// A [`Skip`] where version 2 cannot be mounted or has no memory controller.
    pub fn enter(name: &str) -> Result<Self> {
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
        let folder = root.join(name);
        let group = Self { root, folder };
        let controllers = fs::read_to_string(group.root.join("cgroup.controllers"))?;
        if !controllers
            .split_whitespace()
            .any(|controller| controller == "memory")
        {
            return Err(Skip::new("this kernel's cgroups have no memory controller").into());
        }
        write(&group.root.join("cgroup.subtree_control"), "+memory")?;
        fs::create_dir(&group.folder).context("cannot create a cgroup")?;
        write(&group.folder.join("cgroup.procs"), "0")?;
        Ok(group)
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
        write(&self.folder.join("memory.max"), &text)
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
        // Best effort: a test that fails may leave it, and the guest ends soon after.
        let _ = write(&self.root.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.folder);
        let _ = unmount(&self.root, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.root);
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text:?} to {}", path.display()))
}
