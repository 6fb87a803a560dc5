// SPDX-License-Identifier: MIT OR Apache-2.0

//! Placement policies page by page, on empty and on full nodes, and the reports of misses.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use dmaplane::{Buffer, BufferBuilder, Context, DeviceName, Errno, Placement};
use dmaplane_guest_tests::numa::{self, MIB, PAGE, fill_up, nodes_with_memory};
use dmaplane_guest_tests::refusal;
use dmaplane_testkit::counters::Misses;
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{
    ErrorContext as _, Guest, Result, Topology, bail, ensure, netns, sys, test,
};
use dmaplane_uapi as abi;

/// Which node's turn a page is: units of the largest power of two of pages that gives each node one, 512 at most.
fn turn(nodes: &[u32], pages: usize, page: usize) -> u32 {
    let mut unit = 1;
    while unit < 512 && unit * 2 * nodes.len() <= pages {
        unit *= 2;
    }
    nodes[page / unit % nodes.len()]
}

#[test]
fn numa_interleave_takes_turns() {
    test(|guest| {
        let context = Context::open()?;
        let nodes: Vec<u32> = nodes_with_memory()?.iter().map(|node| node.id).collect();
        let large = guest.pick(32, 8) * MIB;
        for bytes in [PAGE, 3 * PAGE, 64 * PAGE, 2 * MIB + PAGE, large + 3 * PAGE] {
            let before = Misses::read()?;
            let buffer = Buffer::create(&context, bytes, Placement::Interleave)?;
            let pages = numa::pages(&buffer);
            let misses = numa::misses(&buffer, |page| Some(turn(&nodes, pages, page)))?;
            ensure!(
                misses == 0,
                "{misses} of {pages} pages are not where their turn was"
            );
            ensure!(Misses::read()?.since(before).misplaced_pages == 0);
            ensure!(
                buffer.residency()?.node.is_none(),
                "{:?}",
                buffer.residency()?
            );
        }
        Ok(())
    });
}

/// The address of the first PCI device that `wanted` likes, and its node.
fn pci_device(wanted: impl Fn(&Path) -> bool) -> Result<(DeviceName, i32)> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let entry = entry?;
        if wanted(&entry.path()) {
            let node = fs::read_to_string(entry.path().join("numa_node"))?;
            let name = entry.file_name().to_string_lossy().parse()?;
            return Ok((name, node.trim().parse()?));
        }
    }
    bail!("no such PCI device")
}

/// Whether a PCI device is the memory that stands for a graphics card's.
fn is_bar(device: &Path) -> bool {
    let line = |name| fs::read_to_string(device.join(name)).unwrap_or_default();
    line("vendor").trim() == "0x1af4" && line("device").trim() == "0x1110"
}

/// The adapter that is connected to nothing: its PCI device and interface.
fn adapter() -> Result<(DeviceName, i32, String)> {
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let driver = entry.path().join("device/driver");
        if !fs::read_link(driver).is_ok_and(|driver| driver.ends_with("virtio_net")) {
            continue;
        }
        let virtio = fs::canonicalize(entry.path().join("device"))?;
        let device = virtio.parent().context("a PCI device")?;
        let node = fs::read_to_string(device.join("numa_node"))?;
        let name = device.file_name().context("a name")?.to_string_lossy();
        let interface = entry.file_name().to_string_lossy().into_owned();
        return Ok((name.parse()?, node.trim().parse()?, interface));
    }
    bail!("no virtio network interface")
}

/// Fails unless the buffer is on `node`, page by page, and says so.
fn is_near(buffer: &Buffer, node: u32, device_node: i32) -> Result<()> {
    let misses = numa::misses(buffer, |_| Some(node))?;
    ensure!(misses == 0, "{misses} pages are not on node {node}");
    let residency = buffer.residency()?;
    ensure!(residency.node == Some(node), "{residency:?}");
    let folios = buffer.folios(node)?;
    ensure!(
        folios.device_node == u32::try_from(device_node).ok(),
        "{folios:?}"
    );
    Ok(())
}

const BIG_ENOUGH: u64 = 4 * MIB + PAGE;

fn needs_nodes(guest: &Guest) -> Result<()> {
    guest.require(&[Topology::Numa2, Topology::Numa4], "needs several nodes")
}

#[test]
fn numa_near_an_rdma_device() {
    test(|guest| {
        needs_nodes(guest)?;
        let context = Context::open()?;
        let (_, node, netdev) = adapter()?;
        let wanted = match guest.topology {
            Topology::Numa2 => 1,
            _ => 3,
        };
        ensure!(node == wanted, "the adapter is on node {node}");
        let link = Link {
            name: "near0".to_owned(),
            netdev,
        };
        netns::initial(|| -> Result<()> {
            link.add()?;
            let near = Placement::NearRdma("near0".parse()?);
            let made = Buffer::create(&context, BIG_ENOUGH, near);
            link.delete()?;
            is_near(&made?, u32::try_from(node)?, node)?;
            // A device that has gone is not found, and its buffers stay.
            let errno = refusal(Buffer::create(&context, PAGE, near))?;
            ensure!(errno == Errno::NODEV, "a device that is gone: {errno}");
            Ok(())
        })?
    });
}

#[test]
fn numa_near_a_pci_device() {
    test(|guest| {
        needs_nodes(guest)?;
        let context = Context::open()?;
        let (name, node, _) = adapter()?;
        let near = Placement::NearPci(name);
        is_near(
            &Buffer::create(&context, BIG_ENOUGH, near)?,
            u32::try_from(node)?,
            node,
        )?;
        let strict = Buffer::builder(BIG_ENOUGH).placement(near).strict();
        is_near(&strict.create(&context)?, u32::try_from(node)?, node)
    });
}

#[test]
fn numa_near_a_bar_without_memory_on_its_node() {
    test(|guest| {
        guest.require(&[Topology::Numa2], "has a BAR on a node without memory")?;
        let context = Context::open()?;
        let (name, node) = pci_device(is_bar)?;
        ensure!(node == 2, "the BAR is on node {node}");
        // Node 1 is at distance 26, node 0 at 31.
        let buffer = Buffer::create(&context, BIG_ENOUGH, Placement::NearPci(name))?;
        is_near(&buffer, 1, 2)
    });
}

#[test]
fn numa_near_nobody_knows_where() {
    test(|guest| {
        let context = Context::open()?;
        // veth has no device behind it.
        let near = Placement::NearRdma("rxe0".parse()?);
        let made = Buffer::create(&context, PAGE, near);
        if guest.topology == Topology::Pair {
            // There is one node only: where else could it be?
            return is_near(&made?, 0, -1);
        }
        let errno = refusal(made)?;
        ensure!(errno == Errno::NXIO, "a device without a node: {errno}");
        let nowhere = pci_device(|device| {
            let node = fs::read_to_string(device.join("numa_node"));
            node.is_ok_and(|node| node.trim() == "-1")
        });
        if let Ok((name, _)) = nowhere {
            let errno = refusal(Buffer::create(&context, PAGE, Placement::NearPci(name)))?;
            ensure!(errno == Errno::NXIO, "a PCI device without a node: {errno}");
        }
        Ok(())
    });
}

#[test]
fn numa_near_nothing() {
    test(|_| {
        let context = Context::open()?;
        for near in [
            Placement::NearRdma("no-such-device".parse()?),
            Placement::NearRdma("rxe".parse()?),
            Placement::NearRdma("rxe00".parse()?),
            Placement::NearRdma("x".repeat(63).parse()?),
            Placement::NearPci("0000:ff:1f.7".parse()?),
            Placement::NearPci("rxe0".parse()?),
        ] {
            let errno = refusal(Buffer::create(&context, PAGE, near))?;
            ensure!(errno == Errno::NODEV, "{near:?}: {errno}");
        }
        Ok(())
    });
}

/// Tries a raw argument; the errno, or 0.
fn attempt(context: &Context, change: impl Fn(&mut abi::BufferCreate)) -> Result<i32> {
    use std::os::fd::AsFd as _;
    let mut create = abi::BufferCreate {
        size: u32::try_from(size_of::<abi::BufferCreate>())?,
        bytes: PAGE,
        node: -1,
        ..Default::default()
    };
    change(&mut create);
    let mut bytes = Vec::new();
    for word in [create.size, create.flags] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(create.bytes.to_ne_bytes());
    bytes.extend(create.placement.to_ne_bytes());
    bytes.extend(create.node.to_ne_bytes());
    for word in [create.handle, create.reserved] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(create.mmap_offset.to_ne_bytes());
    bytes.extend(create.near);
    let done = sys::ioctl(context.as_fd(), abi::IOC_BUFFER_CREATE, &mut bytes);
    Ok(done.err().map_or(0, Errno::raw_os_error))
}

#[test]
fn numa_arguments_that_do_not_go_together() {
    test(|_| {
        let context = Context::open()?;
        let name = |create: &mut abi::BufferCreate, text: &[u8]| {
            create.near[..text.len()].copy_from_slice(text);
        };
        let invalid = Errno::INVAL.raw_os_error();
        type Change<'a> = (&'a str, Box<dyn Fn(&mut abi::BufferCreate)>);
        let cases: [Change<'_>; 12] = [
            ("an unknown policy", Box::new(|c| c.placement = 6)),
            ("a name for any", Box::new(move |c| name(c, b"rxe0"))),
            ("no name", Box::new(|c| c.placement = abi::PLACE_NEAR_RDMA)),
            (
                "a name without an end",
                Box::new(|c| {
                    c.placement = abi::PLACE_NEAR_RDMA;
                    c.near = [b'x'; 64];
                }),
            ),
            (
                "something behind the name",
                Box::new(move |c| {
                    c.placement = abi::PLACE_NEAR_RDMA;
                    name(c, b"rxe0\0x");
                }),
            ),
            (
                "an empty name",
                Box::new(move |c| {
                    c.placement = abi::PLACE_NEAR_PCI;
                    name(c, b"\0x");
                }),
            ),
            (
                "near and a node",
                Box::new(move |c| {
                    c.placement = abi::PLACE_NEAR_RDMA;
                    c.node = 0;
                    name(c, b"rxe0");
                }),
            ),
            (
                "interleave and a node",
                Box::new(|c| {
                    c.placement = abi::PLACE_INTERLEAVE;
                    c.node = 0;
                }),
            ),
            ("a node for any", Box::new(|c| c.node = 0)),
            (
                "strict anywhere",
                Box::new(|c| c.flags = abi::BUFFER_STRICT),
            ),
            (
                "coherent in turns",
                Box::new(|c| {
                    c.placement = abi::PLACE_INTERLEAVE;
                    c.flags = abi::BUFFER_COHERENT;
                }),
            ),
            ("an unknown flag", Box::new(|c| c.flags = 1 << 31)),
        ];
        for (what, change) in cases {
            let errno = attempt(&context, change)?;
            ensure!(errno == invalid, "{what}: errno {errno}");
        }
        ensure!(
            attempt(&context, |_| {})? == 0,
            "the argument itself is right"
        );
        let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
        for node in [context.limits().node_ids, u32::MAX] {
            let errno = refusal(buffer.folios(node))?;
            ensure!(errno == Errno::INVAL, "folios on node {node}: {errno}");
        }
        Ok(())
    });
}

#[test]
fn numa_full_node_is_reported_by_every_policy() {
    test(|guest| {
        needs_nodes(guest)?;
        let context = Context::open()?;
        let nodes = nodes_with_memory()?;
        let ids: Vec<u32> = nodes.iter().map(|node| node.id).collect();
        let (device, full, _) = adapter()?;
        let full = u32::try_from(full)?;
        let node = nodes.iter().find(|node| node.id == full);
        let node = node.context("the adapter's node has no memory")?;
        let mut filled = fill_up(&context, full)?;
        let near = Placement::NearPci(device);
        let bytes = guest.pick(64, 24) * MIB;

        type Wanted<'a> = Box<dyn Fn(usize, usize) -> u32 + 'a>;
        let spilling: [(Placement, Wanted<'_>); 3] = [
            (Placement::Preferred(full), Box::new(|_, _| full)),
            (near, Box::new(|_, _| full)),
            (
                Placement::Interleave,
                Box::new(|pages, page| turn(&ids, pages, page)),
            ),
        ];
        for (placement, wanted) in &spilling {
            numa::until_full(node, &mut filled, || {
                let before = Misses::read()?;
                let buffer = Buffer::create(&context, bytes, *placement)?;
                let counted = Misses::read()?.since(before);
                let pages = numa::pages(&buffer);
                let misses = numa::misses(&buffer, |page| Some(wanted(pages, page)))
                    .with_context(|| format!("{placement:?}"))?;
                ensure!(
                    counted.misplaced_pages == misses,
                    "{placement:?}: {misses} misses, {counted:?}"
                );
                ensure!(counted.refusals == 0, "{placement:?}: {counted:?}");
                Ok(match misses {
                    0 => ControlFlow::Continue(buffer),
                    _ => ControlFlow::Break(()),
                })
            })?;
        }

        let strict: [BufferBuilder; 3] = [
            Buffer::builder(bytes).placement(Placement::Strict(full)),
            Buffer::builder(bytes).placement(near).strict(),
            Buffer::builder(ids.len() as u64 * bytes)
                .placement(Placement::Interleave)
                .strict(),
        ];
        for builder in strict {
            let (errno, counted) = numa::until_full(node, &mut filled, || {
                let before = Misses::read()?;
                let made = match builder.create(&context) {
                    Ok(buffer) => return Ok(ControlFlow::Continue(buffer)),
                    refused => refusal(refused)?,
                };
                Ok(ControlFlow::Break((made, Misses::read()?.since(before))))
            })?;
            ensure!(errno == Errno::NOMEM, "{builder:?}: {errno}");
            ensure!(
                counted.refusals == 1 && counted.misplaced_pages == 0,
                "{builder:?}: {counted:?}"
            );
        }

        drop(filled);
        let buffer = Buffer::create(&context, bytes, Placement::Preferred(full))?;
        let misses = numa::misses(&buffer, |_| Some(full))?;
        ensure!(misses == 0, "{misses} misses after the node was freed");
        Ok(())
    });
}
