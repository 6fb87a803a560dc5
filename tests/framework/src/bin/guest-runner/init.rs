// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of process 1: a writable root, one child, power-off.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{WaitOptions, chdir, chroot, wait};
use rustix::system::{RebootCommand, reboot};

use crate::kmsg;
use dmaplane_vmtest_plan::{SHARE, SHARE_TAG};

/// Never returns on a working kernel: the machine is off.
pub(crate) fn main() -> ExitCode {
    if let Err(err) = live() {
        // Without /dev/kmsg the console that init inherits is the only way out.
        eprintln!("guest-runner: {err:#}");
        kmsg::say(&format!("failed: {err:#}"));
    }
    rustix::fs::sync();
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("guest-runner: cannot power off: {err}");
            ExitCode::FAILURE
        }
    }
}

fn live() -> Result<()> {
    build_root().context("cannot build a writable root")?;
    mount_all()?;
    let worker = Command::new("/proc/self/exe")
        .arg("work")
        .env_clear()
        .spawn()
        .context("cannot start the worker")?;
    let worker = i32::try_from(worker.id()).context("the worker's process id")?;
    // Orphans must go at once: a test that waits for a killed process to vanish would wait for ever.
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == worker => {
                if status.exit_status() != Some(0) {
                    kmsg::say(&format!("the worker ended badly: {status:?}"));
                }
                return Ok(());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(err) => return Err(err).context("cannot wait for the worker"),
        }
    }
}

/// Lays a tmpfs over the host's root file system, which is shared read-only, and moves there.
fn build_root() -> Result<()> {
    mount_one("tmpfs", "/run", "tmpfs", "mode=755")?;
    for dir in ["/run/upper", "/run/work", "/run/root"] {
        fs::create_dir(dir).with_context(|| format!("cannot create {dir}"))?;
    }
    let layers = "lowerdir=/,upperdir=/run/upper,workdir=/run/work";
    mount_one("overlay", "/run/root", "overlay", layers)?;
    chdir("/run/root")?;
    mount_move(".", "/").context("cannot move the new root into place")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn mount_all() -> Result<()> {
    mount_one("devtmpfs", "/dev", "devtmpfs", "mode=755")?;
    mount_one("proc", "/proc", "proc", "")?;
    mount_one("sysfs", "/sys", "sysfs", "")?;
    mount_one("tmpfs", "/run", "tmpfs", "mode=755")?;
    for dir in ["/dev/pts", "/dev/shm", "/run/lock", "/run/netns", SHARE] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {dir}"))?;
    }
    // What udev makes on an ordinary machine, and shells rely on.
    for (link, target) in [
        ("fd", "fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        let target = format!("/proc/self/{target}");
        let link = Path::new("/dev").join(link);
        if fs::symlink_metadata(&link).is_err() {
            symlink(&target, &link).with_context(|| format!("cannot link {}", link.display()))?;
        }
    }
    mount_one("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666")?;
    mount_one("tmpfs", "/dev/shm", "tmpfs", "mode=1777")?;
    mount_one("debugfs", "/sys/kernel/debug", "debugfs", "mode=755")?;
    mount_one("cgroup2", "/sys/fs/cgroup", "cgroup2", "")?;
    if Path::new("/sys/kernel/tracing").is_dir() {
        mount_one("tracefs", "/sys/kernel/tracing", "tracefs", "")?;
    }
    // No cache: the host reads the logs while they grow.
    let share = "trans=virtio,version=9p2000.L,msize=262144,cache=none,access=any";
    mount_one(SHARE_TAG, SHARE, "9p", share)
}

fn mount_one(source: &str, target: &str, kind: &str, data: &str) -> Result<()> {
    let data = CString::new(data)?;
    mount(source, target, kind, MountFlags::empty(), data.as_c_str())
        .with_context(|| format!("cannot mount {kind} on {target}"))
}
