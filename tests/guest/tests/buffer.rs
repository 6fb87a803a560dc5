// SPDX-License-Identifier: MIT OR Apache-2.0

//! Buffers: sizes, mappings and how long the memory lives.

use std::os::fd::AsFd as _;

use dmaplane::{Buffer, Context, Errno, Placement};
use dmaplane_guest_tests::refusal;
use dmaplane_testkit::cgroup::MemoryCgroup;
use dmaplane_testkit::{Gauges, Result, ensure, gauges, pattern, poll, sys, test};
use rustix::mm::{MapFlags, ProtFlags};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

#[test]
fn buffer_sizes() {
    test(|_| {
        let context = Context::open()?;
        let errno = refusal(Buffer::create(&context, 0, Placement::Any))?;
        ensure!(errno == Errno::INVAL, "0 bytes: {errno}");
        for bytes in [
            context.limits().max_buffer_bytes + 1,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let errno = refusal(Buffer::create(&context, bytes, Placement::Any))?;
            ensure!(errno == Errno::TOOBIG, "{bytes} bytes: {errno}");
        }
        for (asked, got) in [
            (1, PAGE),
            (PAGE, PAGE),
            (PAGE + 1, 2 * PAGE),
            (3 * MIB - 1, 3 * MIB),
        ] {
            let buffer = Buffer::create(&context, asked, Placement::Any)?;
            ensure!(buffer.len() == got, "{asked} bytes gave {}", buffer.len());
            ensure!(buffer.residency()?.bytes == got);
        }
        Ok(())
    });
}

#[test]
fn buffer_is_zeroed() {
    test(|guest| {
        let context = Context::open()?;
        for _ in 0..guest.pick(8, 2) {
            let buffer = Buffer::create(&context, 4 * MIB, Placement::Any)?;
            let data = buffer.to_vec(0..buffer.len());
            let dirty = data.iter().position(|byte| *byte != 0);
            ensure!(
                dirty.is_none(),
                "byte {dirty:?} shows what was there before"
            );
            pattern::fill_memory(&buffer, 0, buffer.len(), 1, 0);
        }
        Ok(())
    });
}

#[test]
fn buffer_content_survives_destroy_and_fork() {
    test(|_| {
        let context = Context::open()?;
        let bytes = 2 * MIB;
        let buffer = Buffer::create(&context, bytes, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, bytes, 5, 0);
        let mapping = buffer.into_mapping();
        let wrong = pattern::mismatch_in_memory(&mapping, 0, bytes, 5, 0);
        ensure!(
            wrong.is_none(),
            "byte {wrong:?} is wrong after the handle died"
        );

        let mut wanted = [0; 4096];
        pattern::fill(5, MIB, &mut wanted);
        let child = sys::fork(|| {
            let mut seen = [0; 4096];
            mapping.read_at(MIB, &mut seen);
            mapping.write_at(MIB, &[0x77; 4096]);
            seen == wanted
        })?;
        ensure!(child.wait()?, "the child sees other data than its parent");
        let mut seen = [0; 4096];
        mapping.read_at(MIB, &mut seen);
        ensure!(
            seen == [0x77; 4096],
            "the parent does not see what the child wrote"
        );
        Ok(())
    });
}

#[test]
fn buffer_lives_in_the_child_after_the_parent_let_go() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, MIB, 6, 0);
        let mut wanted = [0; 4096];
        pattern::fill(6, MIB - PAGE, &mut wanted);
        let (ready, gone) = rustix::pipe::pipe()?;
        let child = sys::fork(|| {
            let mut word = [0];
            let notified = rustix::io::read(&ready, &mut word) == Ok(1);
            let mut seen = [0; 4096];
            buffer.read_at(MIB - PAGE, &mut seen);
            notified && seen == wanted
        })?;
        ensure!(
            buffer.residency()?.mappings == 2,
            "{:?}",
            buffer.residency()?
        );
        drop(buffer);
        rustix::io::write(&gone, &[1])?;
        ensure!(child.wait()?, "the child lost the memory");
        Ok(())
    });
}

#[test]
fn buffer_partial_maps() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 8 * PAGE, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, buffer.len(), 7, 0);
        for (first, last) in [(0, 1), (3, 5), (7, 8), (0, 8)] {
            let (start, end) = (first * PAGE, last * PAGE);
            let part = buffer.map(start..end)?;
            let wrong = pattern::mismatch_in_memory(&part, 0, end - start, 7, start);
            ensure!(wrong.is_none(), "byte {wrong:?} of pages {first} to {last}");
        }
        let part = buffer.map(2 * PAGE..3 * PAGE)?;
        part.write_at(0, b"through the part");
        ensure!(buffer.to_vec(2 * PAGE..2 * PAGE + 16) == b"through the part");
        ensure!(
            buffer.residency()?.mappings == 2,
            "{:?}",
            buffer.residency()?
        );
        drop(part);
        ensure!(
            buffer.residency()?.mappings == 1,
            "{:?}",
            buffer.residency()?
        );
        Ok(())
    });
}

#[test]
fn buffer_refused_maps() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 4 * PAGE, Placement::Any)?;
        let (fd, offset) = (context.as_fd(), buffer.mmap_offset());
        let map = |offset, pages: u64, flags| {
            let both = ProtFlags::READ | ProtFlags::WRITE;
            sys::try_map(fd, offset, (pages * PAGE) as usize, flags, both)
        };
        ensure!(map(offset, 4, MapFlags::SHARED).is_ok(), "the whole");
        let private = map(offset, 4, MapFlags::PRIVATE);
        ensure!(
            private == Err(Errno::INVAL),
            "a private mapping: {private:?}"
        );
        let beyond = map(offset, 5, MapFlags::SHARED);
        ensure!(
            beyond == Err(Errno::INVAL),
            "a page beyond the end: {beyond:?}"
        );
        let shifted = map(offset + PAGE, 4, MapFlags::SHARED);
        ensure!(
            shifted == Err(Errno::INVAL),
            "from the second page: {shifted:?}"
        );
        ensure!(
            map(u64::MAX - PAGE + 1, 1, MapFlags::SHARED).is_err(),
            "at the end of the world"
        );
        let other = Context::open()?;
        let foreign = sys::try_map(
            other.as_fd(),
            offset,
            PAGE as usize,
            MapFlags::SHARED,
            ProtFlags::READ,
        );
        ensure!(foreign.is_err(), "another file maps it");
        drop(buffer);
        ensure!(
            map(offset, 4, MapFlags::SHARED).is_err(),
            "a destroyed buffer is mapped"
        );
        Ok(())
    });
}

#[test]
fn buffer_bytes_are_counted_until_the_last_keeper_lets_go() {
    test(|guest| {
        let context = Context::open()?;
        let before = Gauges::read()?;
        let bytes = || -> Result<u64> { Ok(Gauges::read()?.get("bytes") - before.get("bytes")) };

        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        ensure!(bytes()? == MIB, "{} bytes", bytes()?);
        let mapping = buffer.into_mapping();
        ensure!(bytes()? == MIB, "a mapping keeps the memory");
        drop(mapping);
        gauges::settle(&before, guest.limit(2))?;

        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        let part = buffer.map(0..PAGE)?;
        drop(buffer);
        ensure!(bytes()? == MIB, "a page's mapping keeps the whole");
        drop(part);
        gauges::settle(&before, guest.limit(2))
    });
}

#[test]
fn buffer_outlives_its_file_through_a_mapping() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, MIB, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, MIB, 8, 0);
        let mapping = buffer.into_mapping();
        drop(context);
        let wrong = pattern::mismatch_in_memory(&mapping, 0, MIB, 8, 0);
        ensure!(
            wrong.is_none(),
            "byte {wrong:?} is wrong after the file was closed"
        );
        Ok(())
    });
}

#[test]
fn buffer_freezes_only_without_other_writers() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
        let part = buffer.map(0..PAGE)?;
        let Err(buffer) = buffer.freeze() else {
            dmaplane_testkit::bail!("frozen although a second mapping can write");
        };
        part.write_at(9, b"frozen");
        drop(part);
        let Ok(frozen) = buffer.freeze() else {
            dmaplane_testkit::bail!("not frozen although nobody writes");
        };
        ensure!(&frozen[9..15] == b"frozen");
        Ok(())
    });
}

#[test]
fn buffer_is_charged_to_the_memory_cgroup() {
    test(|guest| {
        let cgroup = MemoryCgroup::enter("dmaplane-test")?;
        let context = Context::open()?;
        let before = cgroup.current()?;
        let buffer = Buffer::create(&context, 32 * MIB, Placement::Any)?;
        let charged = cgroup.current()?.saturating_sub(before);
        // The kernel charges in batches, so that the figure lags behind by some pages.
        ensure!(
            charged > 31 * MIB,
            "32 MiB were allocated and {charged} bytes charged"
        );
        drop(buffer);
        let released = poll::until(guest.limit(5), || {
            Ok((cgroup.current()? < before + MIB).then_some(()))
        })?;
        ensure!(
            released.is_some(),
            "{} bytes stay charged",
            cgroup.current()? - before
        );

        cgroup.set_max(Some(cgroup.current()? + 16 * MIB))?;
        let errno = refusal(Buffer::create(&context, 64 * MIB, Placement::Any))?;
        cgroup.set_max(None)?;
        ensure!(errno == Errno::NOMEM, "beyond memory.max: {errno}");
        ensure!(cgroup.oom_kills()? == 0, "the kernel killed a process");
        Buffer::create(&context, 64 * MIB, Placement::Any)?;
        Ok(())
    });
}
