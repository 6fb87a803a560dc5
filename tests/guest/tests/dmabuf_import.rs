// SPDX-License-Identifier: MIT OR Apache-2.0

//! Other drivers' memory as buffers, and what becomes of it when they take it back.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use dmaplane::{
    Buffer, Channel, Completion, Context, Entry, Errno, ExportAccess, Field, GrantTerms, Placement,
    Rights,
};
use dmaplane_guest_tests::{Loopback, asleep, complete, holds, one, refusal};
use dmaplane_testkit::dmabuf::vgem::Vgem;
use dmaplane_testkit::dmabuf::vivid::{Kind, Vivid};
use dmaplane_testkit::dmabuf::{self, Access};
use dmaplane_testkit::sys::{self, Words};
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Guest, Result, bail, ensure, gauges, module, pattern, test,
};
use dmaplane_uapi as abi;
use rustix::mm::{MapFlags, ProtFlags};

const PAGE: u64 = 4096;
const BYTES: u64 = 256 << 10;
/// At most what the DMA API accepts as udmabuf's longest segment, see docs/findings.md.
const UDMABUF_BYTES: u64 = 64 << 10;

fn map(fd: &OwnedFd, bytes: u64) -> Result<Words> {
    Ok(Words::map(fd.as_fd(), 0, usize::try_from(bytes)?)?)
}

/// A dma-buf, a mapping of it that has nothing to do with the import, and whatever must live meanwhile.
struct Exporter {
    name: &'static str,
    fd: OwnedFd,
    bytes: u64,
    words: Words,
    _keep: Box<dyn std::any::Any>,
}

impl Exporter {
    fn new(name: &'static str, fd: OwnedFd, bytes: u64, keep: impl std::any::Any) -> Result<Self> {
        let words = map(&fd, bytes).with_context(|| format!("a mapping of {name}"))?;
        Ok(Self {
            name,
            fd,
            bytes,
            words,
            _keep: Box::new(keep),
        })
    }

    fn fill(&self, seed: u64) -> Result<()> {
        dmabuf::sync(self.fd.as_fd(), Access::Both, true)?;
        pattern::fill_memory(&self.words, 0, self.bytes, seed, 0);
        Ok(dmabuf::sync(self.fd.as_fd(), Access::Both, false)?)
    }

    fn holds(&self, seed: u64) -> Result<()> {
        dmabuf::sync(self.fd.as_fd(), Access::Read, true)?;
        let result = holds(&self.words, self.bytes, seed, 0);
        dmabuf::sync(self.fd.as_fd(), Access::Read, false)?;
        result.with_context(|| self.name)
    }
}

/// One of each kind.
fn exporters(guest: &Guest, context: &Context) -> Result<Vec<Exporter>> {
    let (udmabuf, memfd) = dmabuf::udmabuf(UDMABUF_BYTES)?;
    let vgem = Vgem::open()?;
    let (object, bytes) = vgem.create(BYTES)?;
    let from_vgem = vgem.export(object)?;
    let own = Buffer::create(context, 4 * BYTES, Placement::Any)?;
    let part = own.export_range(BYTES..2 * BYTES, ExportAccess::ReadWrite)?;
    let camera = Vivid::open(Kind::Mapping)?;
    let frame = camera.export(guest.limit(10))?;
    let (frame_bytes, _) = dmabuf::describe(frame.as_fd())?;
    let frame_bytes = frame_bytes - frame_bytes % PAGE;
    Ok(vec![
        Exporter::new("heap", dmabuf::heap(BYTES)?, BYTES, ())?,
        Exporter::new("udmabuf", udmabuf, UDMABUF_BYTES, memfd)?,
        Exporter::new("vgem", from_vgem, bytes, vgem)?,
        Exporter::new("own", part, BYTES, own)?,
        Exporter::new("vivid", frame, frame_bytes, camera)?,
    ])
}

#[test]
fn dmabuf_import_copies() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for exporter in exporters(guest, &context)? {
            let (name, bytes) = (exporter.name, exporter.bytes);
            let length = u32::try_from(bytes)?;
            exporter.fill(1)?;
            let import = Buffer::import(&context, exporter.fd.as_fd()).context(name)?;
            ensure!(import.len() == bytes, "{name}: {} bytes", import.len());
            let info = import.imported().context("it is an import")?;
            ensure!(info.mappable && info.lack.is_none(), "{name}: {info:?}");
            // Out of it, into it, and what its mapping shows.
            let host = Buffer::create(&context, bytes, Placement::Any)?;
            let copy = Entry::copy(import.range(0, length), &host, 0);
            one(&mut channel, guest, copy)?.result().context(name)?;
            holds(&host, bytes, 1, 0).context(name)?;
            holds(&import, bytes, 1, 0).context(name)?;
            pattern::fill_memory(&host, 0, bytes, 2, 0);
            let copy = Entry::copy(host.range(0, length), &import, 0);
            one(&mut channel, guest, copy)?.result().context(name)?;
            exporter.holds(2)?;
            // Within itself, where the ranges overlap.
            let copy = Entry::copy(import.range(0, length - 4096), &import, PAGE);
            one(&mut channel, guest, copy)?.result().context(name)?;
            let wrong = pattern::mismatch_in_memory(&exporter.words, PAGE, bytes - PAGE, 2, 0);
            ensure!(wrong.is_none(), "{name}: byte {wrong:?}");
            let residency = import.residency()?;
            let pages: u64 = residency.pages_by_node.iter().sum();
            ensure!(pages == bytes / PAGE, "{name}: {residency:?}");
            ensure!(Gauges::read()?.get("imports") == 1);
        }
        Ok(())
    });
}

#[test]
fn dmabuf_import_transfers() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let mut near = Channel::builder().entries(8).build(&local.near_context)?;
        let mut far = Channel::builder().entries(8).build(&local.far_context)?;
        for exporter in exporters(guest, &local.far_context)? {
            let (name, bytes) = (exporter.name, exporter.bytes);
            let length = u32::try_from(bytes)?;
            let host = Buffer::create(&local.near_context, bytes, Placement::Any)?;
            // The peer writes into it and reads from it, through a grant.
            let theirs = Buffer::import(&local.far_context, exporter.fd.as_fd()).context(name)?;
            let terms = GrantTerms {
                rights: Rights::from_bits(abi::RIGHT_READ | abi::RIGHT_WRITE),
                ..Default::default()
            };
            let grant = local.far.grant_on(&theirs, 0..bytes, &terms, limit)?;
            let given = local.near.wait_grant(limit)?;
            pattern::fill_memory(&host, 0, bytes, 3, 0);
            let write = Entry::write(host.range(0, length), given.at(0));
            one(&mut near, guest, write)?.result().context(name)?;
            exporter.holds(3)?;
            exporter.fill(4)?;
            let read = Entry::read(host.range(0, length), given.at(0));
            one(&mut near, guest, read)?.result().context(name)?;
            holds(&host, bytes, 4, 0).context(name)?;
            drop(grant);
            // It is the source of a write and of a SEND itself, and what a read fills.
            let host_grant = local.near.grant_on(&host, 0..bytes, &terms, limit)?;
            let given = local.far.wait_grant(limit)?;
            exporter.fill(5)?;
            let write = Entry::write(theirs.range(0, length), given.at(0));
            one(&mut far, guest, write)?.result().context(name)?;
            holds(&host, bytes, 5, 0).context(name)?;
            pattern::fill_memory(&host, 0, bytes, 6, 0);
            let read = Entry::read(theirs.range(0, length), given.at(0));
            one(&mut far, guest, read)?.result().context(name)?;
            exporter.holds(6)?;
            near.push(Entry::recv_into(&local.near, host.range(0, 64)))?;
            near.submit()?;
            let send = Entry::send(&local.far, theirs.range(64, 64), 9);
            one(&mut far, guest, send)?.result().context(name)?;
            let got = complete(&mut near, 1, limit)?[0];
            ensure!(got.result()? == 64 && got.imm() == 9, "{name}: {got:?}");
            ensure!(pattern::mismatch_in_memory(&host, 0, 64, 6, 64).is_none());
            // A message would have to be written when it comes, without asking the exporter.
            let receive = Entry::recv_into(&local.far, theirs.range(0, 64));
            let refused = one(&mut far, guest, receive)?;
            let error = refused
                .result()
                .err()
                .map(|error| (error.field(), error.errno()));
            ensure!(
                error == Some((Field::Buffer, Errno::OPNOTSUPP)),
                "{refused:?}"
            );
            drop(host_grant);
        }
        Ok(())
    });
}

#[test]
fn dmabuf_import_bad_input() {
    test(|_| {
        let context = Context::open()?;
        let null = std::fs::File::open("/dev/null")?;
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        for other in [null.as_fd(), event.as_fd(), context.as_fd()] {
            ensure!(refusal(Buffer::import(&context, other))? == Errno::INVAL);
        }
        let closed = dmabuf::import_raw(context.as_fd(), 1_000_000, 0);
        ensure!(closed == Err(Errno::BADF), "{closed:?}");
        let negative = dmabuf::import_raw(context.as_fd(), -1, 0);
        ensure!(negative == Err(Errno::BADF), "{negative:?}");
        let heap = dmabuf::heap(BYTES)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&heap);
        for flags in [1, 1 << 31] {
            let flagged = dmabuf::import_raw(context.as_fd(), number, flags);
            ensure!(flagged == Err(Errno::INVAL), "{flagged:?}");
        }
        let import = Buffer::import(&context, heap.as_fd())?;
        // It goes out as it came, and only so.
        let again = import.export()?;
        ensure!(dmabuf::describe(again.as_fd())?.1 == "system");
        let part = import.export_range(0..PAGE, ExportAccess::ReadWrite);
        ensure!(refusal(part)? == Errno::OPNOTSUPP);
        let read_only = import.export_range(0..BYTES, ExportAccess::ReadOnly);
        ensure!(refusal(read_only)? == Errno::OPNOTSUPP);
        ensure!(refusal(import.map(0..2 * BYTES))? == Errno::INVAL);
        Ok(())
    });
}

#[test]
fn dmabuf_import_of_what_has_no_kernel_mapping() {
    test(|guest| {
        let context = Context::open()?;
        let own = Buffer::create(&context, BYTES, Placement::Any)?;
        let mapped = Buffer::import(
            &context,
            own.export_range(0..BYTES, ExportAccess::ReadOnly)?.as_fd(),
        );
        // This library maps for writing.
        ensure!(refusal(mapped)? == Errno::ACCESS);
        let fd = own.export_range(0..BYTES, ExportAccess::ReadOnly)?;
        let import = Buffer::import_unmapped(&context, fd.as_fd())?;
        let info = import.imported().context("it is an import")?;
        ensure!(info.lack == Some(dmaplane::ImportLack::Mapping), "{info:?}");
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let copy = Entry::copy(import.range(0, 64), &own, 0);
        let done = one(&mut channel, guest, copy)?;
        let error = done
            .result()
            .err()
            .map(|error| (error.field(), error.errno()));
        ensure!(error == Some((Field::Buffer, Errno::OPNOTSUPP)), "{done:?}");
        Ok(())
    });
}

#[test]
fn dmabuf_import_for_reading_only() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let context = &local.near_context;
        let heap = dmabuf::heap_read_only(BYTES)?;
        ensure!(refusal(Buffer::import(context, heap.as_fd()))? == Errno::ACCESS);
        let import = Buffer::import_unmapped(context, heap.as_fd())?;
        let info = import.imported().context("it is an import")?;
        ensure!(!info.writable && info.lack.is_none(), "{info:?}");
        let host = Buffer::create(context, PAGE, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(context)?;
        let out = Entry::copy(import.range(0, 64), &host, 0);
        one(&mut channel, guest, out)?.result()?;
        let into = Entry::copy(host.range(0, 64), &import, 0);
        let done = one(&mut channel, guest, into)?;
        let error = done
            .result()
            .err()
            .map(|error| (error.field(), error.errno()));
        ensure!(error == Some((Field::Grant, Errno::ACCESS)), "{done:?}");
        let limit = guest.limit(10);
        let granted = |rights| {
            let terms = GrantTerms {
                rights,
                ..Default::default()
            };
            local.near.grant_on(&import, 0..PAGE, &terms, limit)
        };
        ensure!(refusal(granted(Rights::WRITE))? == Errno::ACCESS);
        granted(Rights::READ)?;
        // No later change of protection makes it writable.
        let shared = MapFlags::SHARED;
        let offset = import.mmap_offset();
        sys::try_map(context.as_fd(), offset, 4096, shared, ProtFlags::READ)?;
        let both = ProtFlags::READ | ProtFlags::WRITE;
        let mapped = sys::try_map(context.as_fd(), offset, 4096, shared, both);
        ensure!(mapped == Err(Errno::ACCESS), "{mapped:?}");
        Ok(())
    });
}

#[test]
fn dmabuf_import_waits_for_other_devices() {
    test(|guest| {
        let context = Context::open()?;
        let vgem = Vgem::open()?;
        let (object, bytes) = vgem.create(BYTES)?;
        let import = Buffer::import(&context, vgem.export(object)?.as_fd())?;
        ensure!(import.len() == bytes);
        let host = Buffer::create(&context, PAGE, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let out = Entry::copy(import.range(0, 64), &host, 0);
        let into = Entry::copy(host.range(0, 64), &import, 0);
        // Somebody reads: only a writer has to wait, and not for ever.
        let fence = vgem.fence(object, false)?;
        one(&mut channel, guest, out)?.result()?;
        let begun = Instant::now();
        let done = one(&mut channel, guest, into)?;
        let errno = done.result().err().map(|error| error.errno());
        ensure!(errno == Some(Errno::TIMEDOUT), "{done:?}");
        ensure!(begun.elapsed() < guest.limit(3), "{:?}", begun.elapsed());
        vgem.signal(fence)?;
        one(&mut channel, guest, into)?.result()?;
        // Somebody writes: everybody waits until it is done.
        let fence = vgem.fence(object, true)?;
        let signalled = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| -> Result<(Completion, bool)> {
                let done = one(&mut channel, guest, out)?;
                Ok((done, signalled.load(Ordering::Acquire)))
            });
            signalled.store(true, Ordering::Release);
            vgem.signal(fence)?;
            waiter
                .join()
                .map_err(|_| dmaplane_testkit::anyhow!("a panic"))?
        })?;
        done.0.result()?;
        ensure!(done.1, "it did not wait");
        Ok(())
    });
}

/// A device that begins while a copy waits for another one. The framework would wait for it as well, without a limit.
#[test]
fn dmabuf_import_waits_for_no_device_that_comes_later() {
    test(|guest| {
        let context = Context::open()?;
        let vgem = Vgem::open()?;
        let (object, _) = vgem.create(BYTES)?;
        let import = Buffer::import(&context, vgem.export(object)?.as_fd())?;
        let host = Buffer::create(&context, PAGE, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let into = Entry::copy(host.range(0, 64), &import, 0);
        let first = vgem.fence(object, false)?;
        let later = std::thread::scope(|scope| -> Result<u32> {
            let copy = move || one(&mut channel, guest, into);
            let copier = asleep(scope, guest.limit(10), copy)?;
            let later = vgem.fence(object, false)?;
            vgem.signal(first)?;
            let done = copier.join();
            let done = done.map_err(|_| dmaplane_testkit::anyhow!("a panic"))??;
            // It may have looked at the fences once more before the first was signalled.
            let errno = done.result().err().map(|error| error.errno());
            ensure!(
                errno.is_none_or(|errno| errno == Errno::TIMEDOUT),
                "{done:?}"
            );
            Ok(later)
        })?;
        // It signals by itself after 10 s, which is an error here: the copy did not wait for that.
        vgem.signal(later)?;
        Ok(())
    });
}

#[test]
fn dmabuf_import_lives_in_any_order() {
    test(|guest| {
        let before = Gauges::read()?;
        let heap = dmabuf::heap(BYTES)?;
        for order in 0..4 {
            let context = Context::open()?;
            let import = Buffer::import(&context, heap.as_fd())?;
            pattern::fill_memory(&import, 0, BYTES, order, 0);
            match order {
                // Unmap before close, close before unmap, everything at once, a killed child.
                0 => drop((import, context)),
                1 => {
                    let mapping = import.into_mapping();
                    drop(context);
                    holds(&mapping, BYTES, order, 0)?;
                }
                2 => {
                    let second = import.map(0..PAGE)?;
                    drop(import);
                    holds(&second, PAGE, order, 0)?;
                }
                3 => {
                    let (_alive, hold) = rustix::pipe::pipe()?;
                    let child = sys::fork(|| rustix::io::read(&hold, &mut [0]).is_ok());
                    drop((import, context));
                    // Killed when it is dropped, with the last references.
                    drop(child?);
                }
                _ => bail!("no such order"),
            }
        }
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn dmabuf_ten_thousand_imports() {
    test(|guest| {
        let context = Context::open()?;
        let own = Buffer::create(&context, 4 * PAGE, Placement::Any)?;
        let heap = dmabuf::heap(4 * PAGE)?;
        let before = Gauges::read()?;
        for number in 0..guest.pick(10_000, 400) {
            let fd = if number % 2 == 0 {
                own.export()?
            } else {
                heap.try_clone()?
            };
            let import = Buffer::import_unmapped(&context, fd.as_fd())?;
            if number % 3 == 0 {
                drop(fd);
            }
            drop(import);
        }
        gauges::settle(&before, guest.limit(10))?;
        let now = Gauges::read()?;
        ensure!((now.get("exports"), now.get("imports")) == (0, 0), "{now}");
        Ok(())
    });
}

#[test]
fn dmabuf_import_keeps_the_driver() {
    test(|guest| {
        let before = Gauges::read()?;
        let (giver, taker) = (Context::open()?, Context::open()?);
        let own = Buffer::create(&giver, BYTES, Placement::Any)?;
        pattern::fill_memory(&own, 0, BYTES, 8, 0);
        let import = Buffer::import(&taker, own.export()?.as_fd())?;
        drop((own, giver));
        holds(&import, BYTES, 8, 0)?;
        let mapping = import.into_mapping();
        drop(taker);
        // The mapping is the exporter's alone.
        holds(&mapping, BYTES, 8, 0)?;
        let unloaded = module::try_unload();
        ensure!(unloaded == Err(Errno::AGAIN), "{unloaded:?}");
        drop(mapping);
        gauges::settle(&before, guest.limit(5))
    });
}
