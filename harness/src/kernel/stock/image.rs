// SPDX-License-Identifier: MIT OR Apache-2.0
//! What guests boot besides the kernel itself: its modules as a tree for modprobe, and the initial RAM disk that reaches
//! the guests' root with them. Debian's kernel has as modules what our own have built in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::debian::Debian;
use super::pin::StockPin;
use crate::ctx::Ctx;
use crate::exec;
use crate::kernel::modules::Modules;
use crate::setup::package;

/// The modules that the runner needs before it starts (the root of guests is shared by 9p) or before it loads anything
/// itself (it mounts an overlay over that root, and sets a network up).
const EARLY: &[&str] = &[
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_rng",
    "virtio_net",
    "virtio_console",
    "veth",
    "dummy",
];

/// The first program of a guest: loads the modules, mounts the root as the kernel's command line says, goes there.
pub(super) const INIT: &str = r#"#!/bin/busybox sh
# Finds root=, rootflags= and init= on the kernel's command line, as a kernel without modules would.
set -e
trap 'echo "initrd: cannot reach the root" >/dev/kmsg' EXIT
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for word in $(/bin/busybox cat /proc/cmdline); do
	case $word in
	root=*) root=${word#root=} ;;
	rootflags=*) flags=${word#rootflags=} ;;
	init=*) init=${word#init=} ;;
	esac
done
for module in $(/bin/busybox cat /order); do
	/bin/busybox insmod "/modules/$module"
done
/bin/busybox mount -t 9p -o "ro,$flags" "$root" /root
/bin/busybox umount /proc
/bin/busybox umount /dev
exec /bin/busybox switch_root /root "$init"
"#;

/// The tree for modprobe of one release.
pub(super) fn modules(dir: &Path, release: &str) -> PathBuf {
    dir.join("tree/usr/lib/modules").join(release)
}

/// The initial RAM disk.
pub(super) fn initrd(dir: &Path) -> PathBuf {
    dir.join("initrd.cpio")
}

/// Makes both.
pub(super) fn make(ctx: &Ctx, stock: &StockPin, debian: &Debian, dir: &Path) -> Result<()> {
    let tree = dir.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    for exact in &stock.kernel {
        let remedy = "Put the package into the cache's folder dl, or see vm/kernel/stock.toml.";
        let deb = package::fetch(ctx, &stock.package(exact), remedy)?;
        package::unpack(&deb, &tree)?;
    }
    let progress = ctx.ui.spinner("laying out the kernel's modules");
    let release = &stock.release;
    let modules = modules(dir, release);
    for name in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        let from = debian.path(&format!("usr/lib/modules/{release}/{name}"));
        fs::copy(&from, modules.join(name))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let mut depmod =
        Command::new(exec::which("depmod").context("there is no depmod; install kmod")?);
    exec::output(depmod.arg("-b").arg(tree.join("usr")).arg(release))?;
    ram_disk(
        debian,
        dir,
        &Modules::read(&modules, Some(&dir.join("modules")))?,
    )?;
    progress.done();
    Ok(())
}

fn ram_disk(debian: &Debian, dir: &Path, modules: &Modules) -> Result<()> {
    let root = dir.join("initrd");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for name in ["bin", "dev", "proc", "root", "modules"] {
        fs::create_dir_all(root.join(name))?;
    }
    let busybox = debian.path("usr/bin/busybox");
    fs::copy(&busybox, root.join("bin/busybox"))
        .with_context(|| format!("cannot copy {}", busybox.display()))?;
    let mut order = String::new();
    for file in modules.load_order(EARLY)? {
        let name = file.file_name().context("a module without a name")?;
        fs::copy(&file, root.join("modules").join(name))?;
        order += &format!("{}\n", name.to_string_lossy());
    }
    fs::write(root.join("order"), order)?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    rustix::fs::chmod(&init, rustix::fs::Mode::from_raw_mode(0o755))?;
    let mut pack = Command::new("sh");
    pack.args(["-euc", "find . | cpio --quiet -o -H newc >\"$1\"", "sh"])
        .arg(initrd(dir))
        .current_dir(&root);
    exec::output(&mut pack).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_is_a_script_that_a_shell_takes() {
        let mut check = Command::new("sh");
        assert!(exec::output(check.args(["-n", "-c", INIT])).is_ok());
        assert!(INIT.starts_with("#!/bin/busybox sh\n"));
    }
}
