// SPDX-License-Identifier: MIT OR Apache-2.0

//! Buffers as dma-bufs for other drivers: what they are, who may do what, and how long they live.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use dmaplane::{Buffer, Context, Errno, ExportAccess, Placement};
use dmaplane_guest_tests::import::bounces;
use dmaplane_guest_tests::{holds, refusal};
use dmaplane_testkit::dmabuf::vgem::Vgem;
use dmaplane_testkit::dmabuf::vivid::{Kind, Vivid};
use dmaplane_testkit::dmabuf::{self, Access};
use dmaplane_testkit::guest::Topology;
use dmaplane_testkit::peer::client::unexpected;
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::sys::{self, Words};
use dmaplane_testkit::{Gauges, Peer, Result, bail, ensure, gauges, module, pattern, poll, test};
use rustix::mm::{MapFlags, ProtFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

fn map(fd: &OwnedFd, offset: u64, bytes: u64) -> Result<Words> {
    Ok(Words::map(fd.as_fd(), offset, usize::try_from(bytes)?)?)
}

fn exports() -> Result<u64> {
    Ok(Gauges::read()?.get("exports"))
}

#[test]
fn dmabuf_is_the_buffers_memory() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, MIB, 1, 0);
        let all = buffer.export()?;
        ensure!(dmabuf::describe(all.as_fd())? == (MIB, "dmaplane".to_owned()));
        let words = map(&all, 0, MIB)?;
        holds(&words, MIB, 1, 0)?;
        // Mapped from an offset on, and a part exported and mapped from an offset on.
        holds(&map(&all, 5 * PAGE, PAGE)?, PAGE, 1, 5 * PAGE)?;
        let part = buffer.export_range(7 * PAGE..10 * PAGE, ExportAccess::ReadWrite)?;
        ensure!(dmabuf::describe(part.as_fd())?.0 == 3 * PAGE);
        holds(&map(&part, PAGE, 2 * PAGE)?, 2 * PAGE, 1, 8 * PAGE)?;
        // The other way round; two mappings of one range.
        let other = map(&part, 0, 3 * PAGE)?;
        dmabuf::sync(part.as_fd(), Access::Both, true)?;
        pattern::fill_memory(&other, 0, 3 * PAGE, 2, 0);
        dmabuf::sync(part.as_fd(), Access::Both, false)?;
        let wrong = pattern::mismatch_in_memory(&buffer, 7 * PAGE, 3 * PAGE, 2, 0);
        ensure!(wrong.is_none(), "byte {wrong:?} did not arrive");
        ensure!(pattern::mismatch_in_memory(&words, 10 * PAGE, PAGE, 1, 10 * PAGE).is_none());
        ensure!(exports()? == 2);
        ensure!(
            buffer.residency()?.mappings == 3,
            "{:?}",
            buffer.residency()?
        );
        Ok(())
    });
}

#[test]
fn dmabuf_bad_input_is_refused() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 4 * PAGE, Placement::Any)?;
        let cases = [
            (0..0, Errno::INVAL),
            (PAGE..PAGE, Errno::INVAL),
            (1..PAGE, Errno::INVAL),
            (0..PAGE + 1, Errno::INVAL),
            (0..5 * PAGE, Errno::RANGE),
            (4 * PAGE..5 * PAGE, Errno::RANGE),
            (u64::MAX - PAGE + 1..u64::MAX - PAGE + 1, Errno::INVAL),
            (0..u64::MAX - PAGE + 1, Errno::RANGE),
        ];
        for (range, errno) in cases {
            let got = refusal(buffer.export_range(range.clone(), ExportAccess::ReadWrite))?;
            ensure!(got == errno, "{range:?}: {got} instead of {errno}");
        }
        let fd = buffer.export()?;
        let shared = ProtFlags::READ | ProtFlags::WRITE;
        let code = ProtFlags::READ | ProtFlags::EXEC;
        for (offset, pages, flags, protection, errno) in [
            (0, 4, MapFlags::PRIVATE, shared, Errno::INVAL),
            (0, 5, MapFlags::SHARED, shared, Errno::INVAL),
            (4 * PAGE, 1, MapFlags::SHARED, shared, Errno::INVAL),
            (0, 1, MapFlags::SHARED, code, Errno::PERM),
        ] {
            let mapped = sys::try_map(fd.as_fd(), offset, 4096 * pages, flags, protection);
            ensure!(mapped == Err(errno), "{offset}, {pages} pages: {mapped:?}");
        }
        ensure!(exports()? == 1);
        Ok(())
    });
}

/// Exports of one buffer have a limit: a revocation looks at each, and the kernel's part of a dma-buf is charged to nobody.
#[test]
fn dmabuf_exports_of_one_buffer_are_limited() {
    const MOST: usize = 4096;
    test(|_| {
        let before = getrlimit(Resource::Nofile);
        let enough = Rlimit {
            current: Some(2 * MOST as u64),
            maximum: before.maximum.map(|most| most.max(2 * MOST as u64)),
        };
        setrlimit(Resource::Nofile, enough)?;
        let context = Context::open()?;
        let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
        let mut all = Vec::new();
        for _ in 0..MOST {
            all.push(buffer.export()?);
        }
        ensure!(refusal(buffer.export())? == Errno::DQUOT);
        // One that is released makes room for another, wherever it is in the row.
        drop(all.swap_remove(MOST / 2));
        all.push(buffer.export()?);
        ensure!(refusal(buffer.export())? == Errno::DQUOT);
        buffer.revoke()?;
        for fd in [&all[0], &all[MOST - 1]] {
            let mapped = map(fd, 0, PAGE).err().map(|error| error.to_string());
            ensure!(mapped.is_some(), "it is mapped after the revocation");
        }
        drop(all);
        setrlimit(Resource::Nofile, before)?;
        Ok(())
    });
}

#[test]
fn dmabuf_outlives_handle_file_and_module_use() {
    test(|guest| {
        let before = Gauges::read()?;
        let context = Context::open()?;
        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, MIB, 3, 0);
        let (first, second) = (buffer.export()?, buffer.export()?);
        drop(buffer);
        drop(context);
        let now = Gauges::read()?;
        ensure!((now.get("buffers"), now.get("contexts")) == (1, 0), "{now}");
        // Nobody has the device open, and still the driver must not go.
        let unloaded = module::try_unload();
        ensure!(unloaded == Err(Errno::AGAIN), "{unloaded:?}");
        let words = map(&first, 0, MIB)?;
        // Close before unmap: the mapping keeps what the descriptors kept.
        drop((first, second));
        let unloaded = module::try_unload();
        ensure!(unloaded == Err(Errno::AGAIN), "{unloaded:?}");
        ensure!(exports()? == 1);
        holds(&words, MIB, 3, 0)?;
        drop(words);
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn dmabuf_for_reading_only() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        let fd = buffer.export_range(0..MIB, ExportAccess::ReadOnly)?;
        let shared = MapFlags::SHARED;
        sys::try_map(fd.as_fd(), 0, 4096, shared, ProtFlags::READ)?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let mapped = sys::try_map(fd.as_fd(), 0, 4096, shared, both);
        ensure!(mapped == Err(Errno::ACCESS), "{mapped:?}");
        // A device that writes, and a kernel mapping that may.
        for (kind, errno) in [(Kind::Device, Errno::INVAL), (Kind::Mapping, Errno::FAULT)] {
            let held = Vivid::open(kind)?.hold(fd.as_fd())?;
            ensure!(held == Err(errno), "{kind:?}: {held:?}");
        }
        // It can still be frozen.
        ensure!(buffer.freeze().is_ok());
        Ok(())
    });
}

#[test]
fn dmabuf_is_imported_by_another_driver() {
    test(|guest| {
        let before = Gauges::read()?;
        let vgem = Vgem::open()?;
        let context = Context::open()?;
        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, MIB, 4, 0);
        let fd = buffer.export()?;
        let object = vgem.import(fd.as_fd())?;
        // A second file attaches by itself; a part of the same memory beside it.
        let other = Vgem::open()?;
        let again = other.import(fd.as_fd())?;
        let part = buffer.export_range(PAGE..3 * PAGE, ExportAccess::ReadWrite)?;
        let piece = other.import(part.as_fd())?;
        for access in [Access::Read, Access::Write, Access::Both] {
            dmabuf::sync(fd.as_fd(), access, true)?;
            dmabuf::sync(fd.as_fd(), access, false)?;
        }
        // What it gives out again is the same dma-buf.
        let back = vgem.export(object)?;
        ensure!(dmabuf::describe(back.as_fd())? == (MIB, "dmaplane".to_owned()));
        ensure!(exports()? == 2);
        drop((fd, part, buffer, context));
        holds(&map(&back, 0, MIB)?, MIB, 4, 0)?;
        other.close(again)?;
        drop(back);
        // The object alone keeps it, then the other file's.
        ensure!(exports()? == 2);
        vgem.close(object)?;
        ensure!(exports()? == 1);
        drop(other);
        let _ = piece;
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn dmabuf_takes_the_frames_of_a_camera() {
    test(|guest| {
        let context = Context::open()?;
        for kind in [Kind::Mapping, Kind::Device] {
            let camera = Vivid::open(kind)?;
            let bytes = camera.bytes();
            let whole = bytes.next_multiple_of(PAGE) + PAGE;
            // One folio of a node that a device of 32 bits reaches.
            let buffer = Buffer::create(&context, 2 * MIB, Placement::Strict(0))?;
            pattern::fill_memory(&buffer, 0, whole, 5, 0);
            let fd = buffer.export()?;
            if kind == Kind::Device && bounces(guest) {
                let held = camera.hold(fd.as_fd())?;
                ensure!(held.is_err(), "a device behind a bounce buffer has it");
                continue;
            }
            camera.capture(fd.as_fd(), guest.limit(10))?;
            let mut left = pattern::mismatch_in_memory(&buffer, 0, bytes, 5, 0);
            ensure!(left == Some(0), "{kind:?}: the frame begins at {left:?}");
            let last = bytes.saturating_sub(64);
            left = pattern::mismatch_in_memory(&buffer, last, 64, 5, last);
            ensure!(left.is_some(), "{kind:?}: the frame does not reach its end");
            let behind = pattern::mismatch_in_memory(&buffer, bytes, whole - bytes, 5, bytes);
            ensure!(
                behind.is_none(),
                "{kind:?}: byte {behind:?} behind the frame changed"
            );
            let small = buffer.export_range(0..PAGE, ExportAccess::ReadWrite)?;
            let held = camera.hold(small.as_fd())?;
            ensure!(held.is_err(), "{kind:?}: a frame does not fit into a page");
            // Synchronised while it is mapped for the camera's device; unmapped after the descriptor was closed.
            ensure!(camera.hold(fd.as_fd())?.is_ok());
            for access in [Access::Read, Access::Write, Access::Both] {
                dmabuf::sync(fd.as_fd(), access, true)?;
                dmabuf::sync(fd.as_fd(), access, false)?;
            }
            drop((fd, small, buffer));
            ensure!(exports()? == 1, "{kind:?}: the camera does not keep it");
            camera.let_go()?;
            ensure!(exports()? == 0, "{kind:?}: it is kept for longer");
        }
        Ok(())
    });
}

#[test]
fn dmabuf_mapping_is_inherited_by_fork() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, MIB, 6, 0);
        let fd = buffer.export()?;
        let words = map(&fd, 0, MIB)?;
        let mut wanted = [0; 4096];
        pattern::fill(6, MIB - PAGE, &mut wanted);
        let (ready, gone) = rustix::pipe::pipe()?;
        let child = sys::fork(|| {
            let mut word = [0];
            let notified = rustix::io::read(&ready, &mut word) == Ok(1);
            let mut seen = [0; 4096];
            pattern::Memory::get(&words, MIB - PAGE, &mut seen);
            pattern::Memory::put(&words, 0, &[0x5a; 4096]);
            notified && seen == wanted
        })?;
        drop((words, fd));
        let kept = buffer.map(0..PAGE)?;
        drop((buffer, context));
        rustix::io::write(&gone, &[1])?;
        ensure!(child.wait()?, "the child lost the memory");
        let mut seen = [0; 4096];
        kept.read_at(0, &mut seen);
        ensure!(seen == [0x5a; 4096], "what the child wrote did not arrive");
        Ok(())
    });
}

#[test]
fn dmabuf_outlives_a_killed_owner() {
    test(|guest| {
        let here = [Topology::Numa2, Topology::Numa4];
        guest.require(&here, "the owner's descriptors must be reachable")?;
        let before = Gauges::read()?;
        let vgem = Vgem::open()?;
        let mut peer = Peer::start(guest)?;
        let buffer = peer.create(Request::CreateBuffer { bytes: MIB })?;
        let (offset, length) = (0, MIB);
        peer.ask(Request::Fill {
            buffer,
            offset,
            length,
            seed: 7,
        })?;
        let (pid, fd) = match peer.ask(Request::Export { buffer })? {
            Reply::Exported { pid, fd } => (pid, fd),
            other => return Err(unexpected(&other)),
        };
        let fd = dmabuf::take(pid, fd)?;
        let object = vgem.import(fd.as_fd())?;
        peer.kill()?;
        let gone = poll::until(guest.limit(5), || {
            Ok((Gauges::read()?.get("contexts") == 0).then_some(()))
        })?;
        ensure!(gone.is_some(), "the owner's file is still open");
        let now = Gauges::read()?;
        ensure!((now.get("buffers"), now.get("exports")) == (1, 1), "{now}");
        holds(&map(&fd, 0, MIB)?, MIB, 7, 0)?;
        drop(fd);
        let back = vgem.export(object)?;
        vgem.close(object)?;
        holds(&map(&back, 0, MIB)?, MIB, 7, 0)?;
        drop(back);
        gauges::settle(&before, guest.limit(5))
    });
}

/// One life of a dma-buf, in an order that the number chooses.
fn cycle(
    vgem: &Vgem,
    (camera, refused): (&Vivid, bool),
    buffer: &Buffer,
    number: u64,
) -> Result<()> {
    let fd = buffer.export()?;
    let attach = |fd: BorrowedFd<'_>| vgem.import(fd);
    match number % 5 {
        0 => vgem.close(attach(fd.as_fd())?)?,
        1 => {
            let object = attach(fd.as_fd())?;
            drop(fd);
            vgem.close(object)?;
        }
        2 => {
            let words = map(&fd, 0, PAGE)?;
            drop(fd);
            drop(words);
        }
        3 => {
            let words = map(&fd, 0, PAGE)?;
            let object = attach(fd.as_fd())?;
            drop(words);
            vgem.close(object)?;
        }
        4 => {
            let held = camera.hold(fd.as_fd())?;
            ensure!(held.is_err() == refused, "the camera: {held:?}");
            drop(fd);
            camera.let_go()?;
        }
        _ => bail!("no such order"),
    }
    Ok(())
}

#[test]
fn dmabuf_ten_thousand_lives() {
    test(|guest| {
        let vgem = Vgem::open()?;
        let camera = Vivid::open(Kind::Device)?;
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 2 * MIB, Placement::Strict(0))?;
        let before = Gauges::read()?;
        for number in 0..guest.pick(10_000, 400) {
            cycle(&vgem, (&camera, bounces(guest)), &buffer, number)?;
        }
        gauges::settle(&before, guest.limit(5))?;
        ensure!(exports()? == 0);
        Ok(())
    });
}
