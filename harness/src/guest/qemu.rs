// SPDX-License-Identifier: MIT OR Apache-2.0
//! The QEMU command line of one guest.
//!
//! QEMU is called directly, and our own runner is the guest's init. virtme-ng (vng.rs) does the same through three more
//! processes (two Pythons and a shell), whose exit codes are ambiguous, whose machine type and file system depend on
//! the host unless options fix them, and which end as a process group only. Its guest starts udev, and takes three
//! times as long to reach the first test. Here there is one process to start, watch and kill, and the command line that
//! is kept with a failure is the one that ran.

use std::path::{Path, PathBuf};

use crate::guest::accel::Accel;
use crate::guest::clock;
use crate::guest::limits::Limits;
use crate::guest::plan::SHARE_TAG;
use crate::guest::topology::Guest;

/// The mount tag of the host's root file system.
const ROOT_TAG: &str = "dmaplane-root";

/// One guest, as QEMU's command line describes it.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    /// `qemu-system-x86_64`.
    pub qemu: &'a Path,
    /// Memory, CPUs, nodes and devices.
    pub guest: &'a Guest,
    /// How instructions are executed.
    pub accel: Accel,
    /// The kernel.
    pub bz_image: &'a Path,
    /// What the kernel needs to reach its root, if it is not built in.
    pub initrd: Option<&'a Path>,
    /// The init process: a path on the host, and so in the guest.
    pub init: &'a Path,
    /// The folder shared with the guest, read-write.
    pub share: &'a Path,
    /// Where the kernel's console goes.
    pub console: PathBuf,
    /// The link to the other guest.
    pub link: Option<Link>,
    /// Whether a console for a shell sits on standard input and output.
    pub interactive: bool,
    /// The kernel's own time limits.
    pub limits: Limits,
}

/// One end of an Ethernet link made of a socket.
#[derive(Clone, Debug)]
pub struct Link {
    /// The name of an abstract unix socket: no file is left behind and no path is too long.
    pub socket: String,
    /// 0 listens, 1 connects.
    pub end: u8,
}

impl Machine<'_> {
    /// Program and arguments.
    pub fn command_line(&self) -> Vec<String> {
        let mut line = Line(vec![self.qemu.display().to_string()]);
        self.board(&mut line);
        self.memory(&mut line);
        self.file_systems(&mut line);
        self.network(&mut line);
        self.bars(&mut line);
        self.adapters(&mut line);
        self.monitor(&mut line);
        self.consoles(&mut line);
        line.add("-kernel", self.bz_image.display().to_string());
        if let Some(initrd) = self.initrd {
            line.add("-initrd", initrd.display().to_string());
        }
        line.add("-append", self.kernel_command_line());
        line.0
    }

    fn board(&self, line: &mut Line) {
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.0.push(flag.to_owned());
        }
        line.add("-display", "none");
        line.add("-vga", "none");
        self.processor(line);
        // A socket for each CPU: the kernel warns of caches that span NUMA nodes.
        let cpus = self.guest.cpus();
        line.add("-smp", format!("{cpus},sockets={cpus},cores=1,threads=1"));
        if self.guest.iommu {
            // Before the devices whose accesses it translates.
            line.add("-device", "intel-iommu,intremap=off");
        }
        line.add("-device", self.virtio("virtio-rng-pci,bus=pcie.0"));
    }

    /// The machine's kind, and what executes its instructions.
    pub(super) fn processor(&self, line: &mut Line) {
        // q35 under either accelerator: a device's NUMA node needs PCI Express.
        let idle = "vmport=off,smbus=off,sata=off,usb=off,hpet=off";
        line.add(
            "-machine",
            format!("q35,accel={},{idle}", self.accel.name()),
        );
        line.add("-cpu", self.accel.cpu());
    }

    /// A virtio device; an option makes it use the IOMMU.
    fn virtio(&self, device: &str) -> String {
        let platform = if self.guest.iommu {
            ",disable-legacy=on,iommu_platform=on"
        } else {
            ""
        };
        format!("{device}{platform}")
    }

    fn memory(&self, line: &mut Line) {
        line.add("-m", format!("{}M", self.guest.memory_mib()));
        let mut socket = 0;
        for (id, node) in self.guest.nodes.iter().enumerate() {
            let mut numa = format!("node,nodeid={id}");
            if node.memory_mib > 0 {
                let size = node.memory_mib;
                line.add(
                    "-object",
                    format!("memory-backend-ram,id=node{id},size={size}M"),
                );
                numa += &format!(",memdev=node{id}");
            }
            line.add("-numa", numa);
            for _ in 0..node.cpus {
                line.add("-numa", format!("cpu,node-id={id},socket-id={socket}"));
                socket += 1;
            }
        }
        for (src, row) in self.guest.distances.matrix.iter().enumerate() {
            for (dst, distance) in row.iter().enumerate().filter(|(dst, _)| *dst != src) {
                line.add("-numa", format!("dist,src={src},dst={dst},val={distance}"));
            }
        }
    }

    fn file_systems(&self, line: &mut Line) {
        // 9p, not virtiofs: it is part of QEMU, so there is no second process to lose.
        let root = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap";
        line.add("-fsdev", root);
        line.add(
            "-device",
            self.virtio(&format!(
                "virtio-9p-pci,bus=pcie.0,fsdev=root,mount_tag={ROOT_TAG}"
            )),
        );
        // QEMU wants a comma in a path doubled.
        let share = self.share.display().to_string().replace(',', ",,");
        line.add(
            "-fsdev",
            format!("local,id=share,path={share},security_model=none,multidevs=remap"),
        );
        line.add(
            "-device",
            self.virtio(&format!(
                "virtio-9p-pci,bus=pcie.0,fsdev=share,mount_tag={SHARE_TAG}"
            )),
        );
    }

    fn network(&self, line: &mut Line) {
        let Some(Link { socket, end }) = &self.link else {
            return;
        };
        let role = if *end == 0 {
            "server=on"
        } else {
            "server=off,reconnect-ms=100"
        };
        let address = format!("addr.type=unix,addr.path={socket},addr.abstract=on");
        line.add("-netdev", format!("stream,id=link,{role},{address}"));
        let device = "virtio-net-pci,bus=pcie.0,netdev=link,host_mtu=9000,romfile=";
        line.add("-device", format!("{device},mac=52:54:00:77:00:0{end}"));
    }

    pub(super) fn bars(&self, line: &mut Line) {
        for (id, bar) in self.guest.bars.iter().enumerate() {
            let (node, size) = (bar.node, bar.size_mib);
            // Only a bus behind an expander bridge has a NUMA node.
            let bus = 64 + 16 * id;
            line.add(
                "-device",
                format!("pxb-pcie,id=pxb{id},bus=pcie.0,bus_nr={bus},numa_node={node}"),
            );
            let chassis = id + 1;
            line.add(
                "-device",
                format!("pcie-root-port,id=port{id},bus=pxb{id},chassis={chassis}"),
            );
            line.add(
                "-object",
                format!("memory-backend-memfd,id=memory{id},size={size}M,share=on"),
            );
            line.add(
                "-device",
                format!("ivshmem-plain,id=bar{id},memdev=memory{id},bus=port{id}"),
            );
            // A node without memory and CPUs exists for the kernel only if the firmware's tables
            // name a device that initiates accesses from it.
            let attached = &self.guest.nodes[node as usize];
            if attached.memory_mib == 0 && attached.cpus == 0 {
                line.add(
                    "-object",
                    format!("acpi-generic-initiator,id=gi{id},pci-dev=bar{id},node={node}"),
                );
            }
        }
    }

    pub(super) fn adapters(&self, line: &mut Line) {
        for (id, adapter) in self.guest.adapters.iter().enumerate() {
            // Behind the bridges of the BARs.
            let place = self.guest.bars.len() + id;
            let (bus, chassis) = (64 + 16 * place, place + 1);
            let node = adapter.node;
            line.add(
                "-device",
                format!("pxb-pcie,id=pxa{id},bus=pcie.0,bus_nr={bus},numa_node={node}"),
            );
            line.add(
                "-device",
                format!("pcie-root-port,id=porta{id},bus=pxa{id},chassis={chassis}"),
            );
            line.add("-netdev", format!("hubport,id=nowhere{id},hubid={id}"));
            line.add(
                "-device",
                format!("virtio-net-pci,bus=porta{id},netdev=nowhere{id},romfile="),
            );
        }
    }

    /// A port by which the guest reaches QEMU's own monitor, to unplug and plug devices. QEMU connects to itself.
    fn monitor(&self, line: &mut Line) {
        if !self.guest.monitor {
            return;
        }
        let share = self.share.display().to_string().replace(',', ",,");
        let socket = format!("path={share}/monitor,abstract=on");
        line.add(
            "-chardev",
            format!("socket,id=monitor,{socket},server=on,wait=off"),
        );
        line.add("-mon", "chardev=monitor,mode=control");
        line.add("-chardev", format!("socket,id=plug,{socket}"));
        line.add(
            "-device",
            self.virtio("virtio-serial-pci,id=ports,bus=pcie.0"),
        );
        line.add(
            "-device",
            "virtserialport,bus=ports.0,chardev=plug,name=dmaplane.monitor",
        );
    }

    fn consoles(&self, line: &mut Line) {
        let console = self.console.display().to_string().replace(',', ",,");
        line.add("-chardev", format!("file,id=console,path={console}"));
        line.add("-serial", "chardev:console");
        if self.interactive {
            // Ctrl-C belongs to the shell in the guest; its `exit` or power-off ends QEMU.
            line.add("-chardev", "stdio,id=shell,signal=off");
            line.add("-device", "virtio-serial-pci,bus=pcie.0");
            line.add("-device", "virtconsole,chardev=shell");
        }
    }

    fn kernel_command_line(&self) -> String {
        let init = self.init.display();
        [
            format!("root={ROOT_TAG} rootfstype=9p ro init={init}"),
            // The root does not change while the guest runs, so it may be cached without
            // revalidation.
            "rootflags=trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any"
                .to_owned(),
            "console=ttyS0".to_owned(),
            self.kernel_parameters(),
        ]
        .join(" ")
    }

    /// The kernel parameters that do not depend on what boots the guest.
    pub(super) fn kernel_parameters(&self) -> String {
        let clock = match self.accel {
            Accel::Kvm => String::new(),
            Accel::Tcg => format!("tsc_early_khz={}", clock::tsc_khz()),
        };
        let Limits {
            rcu_stall_s,
            watchdog_thresh_s,
            netdev_s,
            hung_task_s,
            ..
        } = self.limits;
        [
            // Everything reaches the console, in order and with time stamps; nothing is throttled.
            "loglevel=7 printk.time=1 printk.devkmsg=on log_buf_len=16M".to_owned(),
            // A panic ends the guest at once (-no-reboot); warnings do not, the scanner finds them.
            "panic=-1 kasan_multi_shot softlockup_all_cpu_backtrace=1".to_owned(),
            format!("rcupdate.rcu_cpu_stall_timeout={rcu_stall_s}"),
            format!("sysctl.kernel.watchdog_thresh={watchdog_thresh_s}"),
            format!("sysctl.net.core.netdev_unregister_timeout_secs={netdev_s}"),
            format!("sysctl.kernel.hung_task_timeout_secs={hung_task_s}"),
            // These guests run our own code only.
            "mitigations=off random.trust_cpu=on".to_owned(),
            self.guest.kernel_args.join(" "),
            clock,
        ]
        .join(" ")
    }
}

/// A command line that grows.
pub(super) struct Line(pub(super) Vec<String>);

impl Line {
    /// Adds an option and its value.
    pub(super) fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.push(option.to_owned());
        self.0.push(value.into());
    }
}

/// A command line quoted for a shell, to be kept and repeated by hand.
pub fn quoted(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c);
    let quote = |word: &String| {
        if !word.is_empty() && word.chars().all(plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::topology::Topology;

    fn line(name: &str, guest: usize, link: Option<Link>) -> String {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let topology = Topology::load(root, name).unwrap();
        let machine = Machine {
            qemu: Path::new("qemu"),
            guest: &topology.guests[guest],
            accel: Accel::Tcg,
            bz_image: Path::new("/k/bzImage"),
            initrd: None,
            init: Path::new("/t/guest-runner"),
            share: Path::new("/a,b"),
            console: PathBuf::from("/c/console.log"),
            link,
            interactive: false,
            limits: Limits::new(Accel::Tcg, crate::kernel::Profile::Base),
        };
        quoted(&machine.command_line())
    }

    #[test]
    fn numa2_has_its_nodes_distances_and_bar() {
        let line = line("numa2", 0, None);
        for want in [
            "-smp 2,sockets=2,cores=1,threads=1",
            "-m 2048M",
            "-numa node,nodeid=0,memdev=node0 -numa cpu,node-id=0,socket-id=0",
            "-numa node,nodeid=2 ",
            "dist,src=0,dst=1,val=21",
            "pxb-pcie,id=pxb0,bus=pcie.0,bus_nr=64,numa_node=2",
            "memory-backend-memfd,id=memory0,size=64M,share=on",
            "acpi-generic-initiator,id=gi0,pci-dev=bar0,node=2",
            "pxb-pcie,id=pxa0,bus=pcie.0,bus_nr=80,numa_node=1",
            "virtio-net-pci,bus=porta0,netdev=nowhere0",
            "accel=tcg",
            "path=/a,,b,",
        ] {
            assert!(line.contains(want), "{want} is not in {line}");
        }
        assert!(!line.contains("dist,src=0,dst=0"), "{line}");
    }

    #[test]
    fn an_iommu_translates_what_virtio_does() {
        let line = line("iommu", 0, None);
        let iommu = line.find("intel-iommu").expect("an IOMMU");
        let first = line.find("virtio-").expect("a virtio device");
        assert!(iommu < first, "{line}");
        assert!(line.contains("mount_tag=dmaplane-root,disable-legacy=on,iommu_platform=on"));
        assert!(line.contains(" intel_iommu=on "), "{line}");
    }

    #[test]
    fn one_end_of_a_link_listens() {
        let link = |end| {
            Some(Link {
                socket: "x".to_owned(),
                end,
            })
        };
        assert!(line("pair", 0, link(0)).contains("stream,id=link,server=on"));
        let second = line("pair", 1, link(1));
        assert!(second.contains("server=off,reconnect-ms=100"), "{second}");
        assert!(second.contains("mac=52:54:00:77:00:01"), "{second}");
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let words = ["a", "b c", "it's", ""].map(str::to_owned);
        assert_eq!(quoted(&words), r"a 'b c' 'it'\''s' ''");
    }
}
