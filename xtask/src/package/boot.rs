// SPDX-License-Identifier: MIT OR Apache-2.0
//! `package --boot`: a clean root with Debian's kernel and the packages, booted; its first transfer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::clean_root::{BACKPORTS, CleanRoot};
use super::deb::write_file;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::setup::{self, Need};
use dmaplane_vmtest::ui::duration;

/// What the machine does once it is booted.
const SCRIPT: &str = "packaging/first-transfer.sh";
/// The root's mount tag.
const TAG: &str = "dmaplane";
/// From QEMU's start to its end, also where everything is emulated by a slow machine.
const LIMIT: Duration = Duration::from_secs(900);

/// The exit code of `timeout` when the time ran out.
const OUT_OF_TIME: i32 = 124;

/// Starts the script after everything else, and ends the machine after it.
const UNIT: &str = "\
[Unit]
Description=First transfer
After=multi-user.target
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=oneshot
ExecStart=/opt/first-transfer.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
";

/// Installs, boots, and checks what the script prints.
///
/// # Errors
/// What went wrong, with its last lines.
pub(super) fn run(ctx: &Ctx, debs: &[PathBuf]) -> Result<()> {
    let qemu = setup::ensure(ctx, Need::Boot)?.qemu;
    let started = Instant::now();
    let root = CleanRoot::create(ctx)?;
    install(ctx, &root, debs)?;
    println!("boot: [{}] installed", duration(started.elapsed()));
    transfer(ctx, &root, &qemu)?;
    println!(
        "boot: [{}] from nothing to the end of the first transfer",
        duration(started.elapsed())
    );
    Ok(())
}

/// Installs as docs/install.md says, with apt alone.
fn install(ctx: &Ctx, root: &CleanRoot, debs: &[PathBuf]) -> Result<()> {
    // A root over 9p needs these before it is mounted, and a small initramfs is quick to make and to boot.
    let tools = root.dir.join("etc/initramfs-tools");
    let modules = b"virtio_pci\n9pnet_virtio\n9p\n";
    write_file(&tools.join("modules"), 0o644, modules)?;
    write_file(
        &tools.join("conf.d/small"),
        0o644,
        b"MODULES=list\nCOMPRESS=gzip\n",
    )?;
    root.copy(debs, "tmp/debs")?;
    let log = ctx.log_dir()?.join("package-boot.log");
    let script = format!(
        "set -e\n\
         apt='apt-get -y -q --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold'\n\
         $apt update\n\
         $apt install -t {BACKPORTS} linux-image-amd64 linux-headers-amd64\n\
         $apt install systemd-sysv udev iproute2 procps initramfs-tools /tmp/debs/*.deb\n"
    );
    let mut progress = ctx
        .ui
        .spinner("installing Debian's kernel and the packages in a clean root");
    root.run("installing", &["sh", "-c", &script], &log, |line| {
        if line.starts_with("dmaplane: ") {
            println!("{line}");
        }
        progress.message(line.trim());
    })?;
    progress.done();
    write_file(
        &root.dir.join("opt/first-transfer.sh"),
        0o755,
        &fs::read(ctx.root.join(SCRIPT))?,
    )?;
    write_file(
        &root.dir.join("etc/systemd/system/first-transfer.service"),
        0o644,
        UNIT.as_bytes(),
    )?;
    let wants = root.dir.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    std::os::unix::fs::symlink(
        "../first-transfer.service",
        wants.join("first-transfer.service"),
    )?;
    Ok(())
}

fn transfer(ctx: &Ctx, root: &CleanRoot, qemu: &Path) -> Result<()> {
    let boot = root.dir.join("boot");
    let log = ctx.log_dir()?;
    let (console, result) = (
        log.join("package-console.log"),
        log.join("package-transfer.log"),
    );
    // In the foreground: Ctrl-C reaches QEMU too.
    let mut command = Command::new("timeout");
    command
        .args([
            "--foreground",
            "--kill-after=10",
            &LIMIT.as_secs().to_string(),
        ])
        .arg(qemu)
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        // One processor: the kernel patches its own code, and emulated processors side by side may see it half patched.
        .args([
            "-machine",
            "q35,accel=tcg",
            "-cpu",
            "max,la57=off",
            "-m",
            "2048",
        ])
        .arg("-fsdev")
        .arg(format!(
            "local,id=root,path={},security_model=passthrough,multidevs=remap",
            root.dir.display().to_string().replace(',', ",,")
        ))
        .args([
            "-device",
            &format!("virtio-9p-pci,fsdev=root,mount_tag={TAG}"),
        ])
        .args(["-device", "virtio-rng-pci"]);
    for file in [&console, &result] {
        // QEMU wants a comma in a path doubled.
        let path = file.display().to_string().replace(',', ",,");
        command.args(["-serial", &format!("file:{path}")]);
    }
    command
        .arg("-kernel")
        .arg(newest(&boot, "vmlinuz-")?)
        .arg("-initrd")
        .arg(newest(&boot, "initrd.img-")?)
        .arg("-append")
        .arg(format!(
            "root={TAG} rootfstype=9p rw console=ttyS0 panic=-1 \
             rootflags=trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any"
        ))
        .stdin(Stdio::null());
    ctx.ui.detail(format!("{command:?}"));
    let progress = ctx.ui.spinner("booting the root");
    let status = command.status().context("cannot start QEMU by `timeout`")?;
    progress.done();
    let text = fs::read_to_string(&result).unwrap_or_default();
    for line in text.lines() {
        println!("{}", line.trim_end());
    }
    if status.code() == Some(OUT_OF_TIME) {
        return Err(exit::coded(
            exit::GUEST_HANG,
            format!(
                "the machine did not end; its console: {}",
                console.display()
            ),
        ));
    }
    if !succeeded(&text) {
        return Err(exit::coded(
            exit::FAILED,
            format!("the transfer failed; the console: {}", console.display()),
        ));
    }
    Ok(())
}

/// Whether the script finished.
fn succeeded(text: &str) -> bool {
    text.lines()
        .any(|line| line.starts_with("transfer: [") && line.trim_end().ends_with("] ok"))
}

/// The file of the newest kernel; a clean root has one.
fn newest(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    found.sort();
    found
        .pop()
        .with_context(|| format!("no {prefix}* in {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_line_of_the_script_is_success() {
        assert!(succeeded(
            "transfer: [1.0] booted x\r\ntransfer: [9.5] ok\r\n"
        ));
        assert!(!succeeded(
            "transfer: [1.0] booted\ntransfer: FAILED: it is not ok\n"
        ));
        assert!(!succeeded(""));
    }
}
