// SPDX-License-Identifier: MIT OR Apache-2.0
//! The same guest, booted by virtme-ng: the command line of its program `vng`.
//!
//! The kernel, the module, the topology, the plan, the report and the verdict are the very same. virtme-ng brings the
//! initial RAM disk, the root (the host's, read-only, with overlays over some of its folders) and the first program,
//! which starts udev and then our runner as the worker. Options of `vng` are used where there are some; the rest goes
//! to QEMU through it.
//!
//! Its exit code is ignored: 255 may be a panic, a QEMU that does not start or the worker's own, and 0 is written
//! before the guest is off. The report decides, as it does without virtme-ng.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::ctx::Ctx;
use crate::exit;
use crate::guest::accel::Accel;
use crate::guest::plan::SHARE;
use crate::guest::qemu::{Line, Machine, quoted};
use crate::guest::topology::{Guest, Topology};

/// Folders that a guest of virtme-ng can write to by default.
const WRITABLE: &[&str] = &[
    "/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp",
];

/// What boots guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runner {
    /// QEMU, called directly.
    #[default]
    Qemu,
    /// virtme-ng's `vng`.
    VirtmeNg,
}

/// What virtme-ng needs besides the machine.
#[derive(Clone, Copy, Debug)]
pub struct Vng<'a> {
    /// The folder with `vng` and `virtme-run`.
    pub bin: &'a Path,
    /// A busybox for its initial RAM disk, where the kernel has the drivers of the root as modules.
    pub busybox: Option<&'a Path>,
    /// The folder in which tests write, for the guest alone.
    pub checkout: &'a Path,
    /// Its HOME and the folder for its temporary files, without the user's settings: those would override the command
    /// line.
    pub home: &'a Path,
}

impl Runner {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::VirtmeNg => "virtme-ng",
        }
    }

    /// Refuses what it cannot boot, before anything is built for it.
    pub fn check(self, ctx: &Ctx, topology: &Topology) -> Result<()> {
        if self == Self::Qemu {
            return Ok(());
        }
        plain(&ctx.root)?;
        plain(&ctx.cache)?;
        let Some(lacking) = lacking(topology) else {
            return Ok(());
        };
        Err(exit::coded(
            exit::USAGE,
            format!(
                "virtme-ng cannot boot topology {}: {lacking}. Leave --runner out, or take a topology \
                 without it, such as numa2",
                topology.name
            ),
        ))
    }
}

/// Why virtme-ng cannot boot a topology, if it cannot.
pub fn lacking(topology: &Topology) -> Option<&'static str> {
    let any = |has: fn(&Guest) -> bool| topology.guests.iter().any(has);
    if topology.guests.len() > 1 {
        return Some("it has networks to the host, and no link between two guests");
    }
    if any(|guest| guest.iommu) {
        return Some(
            "it adds its devices before the IOMMU, so that their accesses are not translated",
        );
    }
    any(|guest| guest.monitor).then_some("it gives a guest no way to QEMU's monitor")
}

/// Refuses a path that `vng` would not pass on unchanged: it builds a shell's command line from its arguments and does
/// not quote all of them, and its option for shared folders takes few characters.
fn plain(path: &Path) -> Result<String> {
    let text = path.display().to_string();
    let taken = |c: char| c.is_ascii_alphanumeric() || "_+/.-".contains(c);
    if text.chars().all(taken) {
        return Ok(text);
    }
    Err(exit::coded(
        exit::USAGE,
        format!(
            "virtme-ng does not take the path {text:?}: only letters, digits and _ + / . - are passed on. \
             Leave --runner out, or move the checkout or the cache (DMAPLANE_CACHE)"
        ),
    ))
}

/// Program and arguments.
///
/// # Errors
/// When a path has characters that virtme-ng does not pass on.
pub fn command_line(machine: &Machine<'_>, vng: &Vng<'_>) -> Result<Vec<String>> {
    let bin = plain(vng.bin)?;
    let path = std::env::var("PATH").unwrap_or_default();
    // `vng` finds `virtme-run` by the search path.
    let mut line = Line(vec!["env".to_owned(), format!("PATH={bin}:{path}")]);
    for variable in ["HOME", "TMPDIR"] {
        line.0.push(format!("{variable}={}", plain(vng.home)?));
    }
    line.0.push(format!("{bin}/vng"));
    line.add("--run", plain(machine.bz_image)?);
    match vng.busybox {
        Some(busybox) => line.add("--busybox", plain(busybox)?),
        None => line.0.push("--skip-modules".to_owned()),
    }
    line.add("--qemu", plain(machine.qemu)?);
    if machine.accel == Accel::Tcg {
        line.0.push("--disable-kvm".to_owned());
    }
    // 9p and q35, as without virtme-ng, instead of what the host happens to offer.
    for flag in ["--force-9p", "--disable-microvm", "--verbose"] {
        line.0.push(flag.to_owned());
    }
    line.add("--name", &machine.guest.name);
    line.add("--cwd", "/");
    nodes(machine, &mut line);
    line.add("--rwdir", format!("{SHARE}={}", plain(machine.share)?));
    if !WRITABLE.iter().any(|dir| vng.checkout.starts_with(dir)) {
        line.add("--overlay-rwdir", plain(vng.checkout)?);
    }
    // Keeps the kernel's names of interfaces; udev would rename those of adapters.
    line.add(
        "--append",
        format!("net.ifnames=0 {}", machine.kernel_parameters()),
    );
    line.add("--exec", format!("exec {} work", plain(machine.init)?));
    // One word: a separate word that begins with a dash would be taken for an option.
    line.0
        .push(format!("--qemu-opts={}", quoted(&devices(machine))));
    Ok(line.0)
}

fn nodes(machine: &Machine<'_>, line: &mut Line) {
    let guest = machine.guest;
    let cpus = guest.cpus();
    // A socket for each CPU: the kernel warns of caches that span NUMA nodes.
    line.add("--cpus", format!("{cpus},sockets={cpus},cores=1,threads=1"));
    line.add("--memory", format!("{}M", guest.memory_mib()));
    let mut next = 0;
    for node in &guest.nodes {
        let mut numa = match node.memory_mib {
            0 => "0".to_owned(),
            size => format!("{size}M"),
        };
        for cpu in next..next + node.cpus {
            numa += &format!(",cpus={cpu}");
        }
        next += node.cpus;
        line.add("--numa", numa);
    }
    for (src, row) in guest.distances.matrix.iter().enumerate() {
        for (dst, distance) in row.iter().enumerate().filter(|(dst, _)| *dst != src) {
            line.add("--numa-distance", format!("{src},{dst}={distance}"));
        }
    }
}

/// The options that QEMU gets through virtme-ng. If an option is there twice, the later one
/// applies.
fn devices(machine: &Machine<'_>) -> Vec<String> {
    let mut line = Line(Vec::new());
    for flag in ["-nodefaults", "-no-user-config"] {
        line.0.push(flag.to_owned());
    }
    machine.processor(&mut line);
    line.add("-device", "virtio-rng-pci,bus=pcie.0");
    machine.bars(&mut line);
    machine.adapters(&mut line);
    if machine.interactive {
        // The command's output goes here: virtme-ng itself gives a command no terminal.
        line.add("-chardev", "file,id=shell,path=/proc/self/fd/1,append=on");
        line.add("-device", "virtio-serial-pci,bus=pcie.0");
        line.add("-device", "virtconsole,chardev=shell");
    }
    line.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::limits::Limits;
    use crate::ui::Ui;
    use std::path::PathBuf;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    fn words(share: &str, checkout: &str, accel: Accel) -> Result<Vec<String>> {
        let topology = Topology::load(root(), "numa2").unwrap();
        let machine = Machine {
            qemu: Path::new("/q/qemu"),
            guest: &topology.guests[0],
            accel,
            bz_image: Path::new("/k/7.3.4+deb13/vmlinuz"),
            initrd: None,
            init: Path::new("/t/guest-runner"),
            share: Path::new(share),
            console: PathBuf::from("/c/console.log"),
            link: None,
            interactive: false,
            limits: Limits::new(accel, crate::kernel::Profile::Stock),
        };
        let vng = Vng {
            bin: Path::new("/v/bin"),
            busybox: Some(Path::new("/d/busybox")),
            checkout: Path::new(checkout),
            home: Path::new("/c"),
        };
        command_line(&machine, &vng)
    }

    #[test]
    fn numa2_uses_options_of_vng_as_far_as_they_go() {
        let words = words("/s", "/src/dmaplane", Accel::Tcg).unwrap();
        let line = words.join(" ");
        for want in [
            "HOME=/c TMPDIR=/c /v/bin/vng --run /k/7.3.4+deb13/vmlinuz --busybox /d/busybox",
            "--disable-kvm",
            "--force-9p --disable-microvm --verbose --name numa2",
            "--cpus 2,sockets=2,cores=1,threads=1 --memory 2048M",
            "--numa 1024M,cpus=0 --numa 1024M,cpus=1 --numa 0 ",
            "--numa-distance 0,1=21",
            "--rwdir /run/dmaplane=/s",
            "--overlay-rwdir /src/dmaplane",
            "printk.devkmsg=on",
            "--exec exec /t/guest-runner work",
        ] {
            assert!(line.contains(want), "{want} is not in {line}");
        }
        assert!(!line.contains("--numa-distance 0,0"), "{line}");
        let qemu = words.last().unwrap();
        for want in [
            "--qemu-opts=-nodefaults ",
            "-machine q35,accel=tcg,",
            "pxb-pcie,id=pxb0,bus=pcie.0,bus_nr=64,numa_node=2",
            "acpi-generic-initiator,id=gi0,pci-dev=bar0,node=2",
            "virtio-net-pci,bus=porta0,netdev=nowhere0",
        ] {
            assert!(qemu.contains(want), "{want} is not in {qemu}");
        }
        // virtme-ng calls its own memory of nodes mem1 and so on.
        assert!(
            !qemu.contains("id=mem0") && !qemu.contains("id=mem1"),
            "{qemu}"
        );
    }

    #[test]
    fn a_checkout_where_guests_write_anyway_needs_no_overlay() {
        let words = words("/s", "/srv/dmaplane", Accel::Kvm).unwrap();
        assert!(!words.iter().any(|word| word == "--overlay-rwdir"));
        assert!(!words.iter().any(|word| word == "--disable-kvm"));
        assert!(words.last().unwrap().contains("-machine q35,accel=kvm,"));
    }

    #[test]
    fn a_path_that_its_shell_would_split_is_refused() {
        for share in ["/a b", "/a;b", "/a,b", "/a$b"] {
            let err = words(share, "/src", Accel::Tcg).unwrap_err();
            assert_eq!(exit::number_of(&err), exit::USAGE);
            assert!(err.to_string().contains("DMAPLANE_CACHE"), "{err}");
        }
    }

    #[test]
    fn what_it_cannot_do_is_refused_by_name() {
        let ctx = Ctx {
            root: "/src".into(),
            cache: "/c".into(),
            verbose: 0,
            ui: Ui::new(0),
        };
        for (name, why) in [
            ("pair", Some("link between two guests")),
            ("iommu", Some("IOMMU")),
            ("unplug", Some("QEMU's monitor")),
            ("numa2", None),
            ("numa4", None),
            ("swiotlb", None),
        ] {
            let topology = Topology::load(root(), name).unwrap();
            assert!(Runner::Qemu.check(&ctx, &topology).is_ok());
            let answer = Runner::VirtmeNg.check(&ctx, &topology);
            let Some(why) = why else {
                answer.unwrap();
                continue;
            };
            let err = answer.unwrap_err();
            assert_eq!(exit::number_of(&err), exit::USAGE);
            let text = err.to_string();
            assert!(text.contains(why) && text.contains(name), "{text}");
            assert!(text.contains("Leave --runner out"), "{text}");
        }
    }
}
