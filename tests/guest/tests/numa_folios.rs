// SPDX-License-Identifier: MIT OR Apache-2.0

//! What buffers are made of: folios and their fallback, zeroes, one run for coherent ones, and that nothing moves.

use std::fs;
use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use dmaplane::{Buffer, Channel, Context, Entry, Errno, Placement};
use dmaplane_guest_tests::numa::{self, MIB, PAGE, fill, nodes_with_memory};
use dmaplane_guest_tests::{complete, refusal};
use dmaplane_testkit::counters::{Misses, Tuned};
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Result, Topology, ensure, frames, gauges, pattern, sys, test,
};
use dmaplane_uapi as abi;

/// Order of 2 MiB.
const HUGE: usize = 9;

#[test]
fn numa_folios_are_what_the_kernel_says() {
    test(|guest| {
        let context = Context::open()?;
        let mut huge = 0;
        for node in nodes_with_memory()? {
            let bytes = guest.pick(32, 8) * MIB + 5 * PAGE;
            let before = Misses::read()?;
            let buffer = Buffer::create(&context, bytes, Placement::Strict(node.id))?;
            let counted = Misses::read()?.since(before);
            let (orders, small) = numa::orders(&buffer)?;
            ensure!(
                counted.small_pages == small,
                "{small} small pages, {counted:?}"
            );
            // The five pages behind are a folio of four and one of one.
            ensure!(orders[2] >= 4 && orders[0] >= 1, "{orders:?}");
            huge += orders[HUGE];
        }
        ensure!(huge > 0, "no folio of 2 MiB on any node");
        Ok(())
    });
}

#[test]
fn numa_folios_are_as_large_as_they_may_be() {
    test(|_| {
        let context = Context::open()?;
        for order in [0, 1, 5, 8] {
            let tuned = Tuned::set("folio_order", order)?;
            let buffer = Buffer::create(&context, 4 * MIB, Placement::Any)?;
            let (orders, small) = numa::orders(&buffer)?;
            let larger: u64 = orders[order as usize + 1..].iter().sum();
            ensure!(larger == 0, "order {order} at most: {orders:?}");
            ensure!(
                orders[order as usize] > 0 && small == 4 * MIB / PAGE - (1 << order),
                "{orders:?}, {small} small"
            );
            drop(tuned);
        }
        Ok(())
    });
}

#[test]
fn numa_fragmented_node_gives_smaller_folios_visibly() {
    test(|guest| {
        guest.require(
            &[Topology::Numa2, Topology::Numa4],
            "filling the only node kills the guest",
        )?;
        let context = Context::open()?;
        let node = nodes_with_memory()?.last().context("a node")?.id;
        // The whole node in pieces of 1 MiB, then every second one is given back: what is free has no 2 MiB in a row.
        let mut pieces = Vec::new();
        fill(&context, node, MIB, &mut pieces)?;
        let mut frames = Vec::new();
        for piece in pieces {
            // Only a page that was touched is mapped.
            piece.write_at(0, &[1]);
            frames.push((frames::of(piece.as_ptr(), 1)?[0], piece));
        }
        frames.sort_by_key(|(frame, _)| *frame);
        let kept: Vec<Buffer> = frames
            .into_iter()
            .filter_map(|(frame, piece)| (frame / 256 % 2 == 0).then_some(piece))
            .collect();

        let before = Misses::read()?;
        let bytes = guest.pick(64, 32) * MIB;
        let buffer = Buffer::create(&context, bytes, Placement::Strict(node))?;
        let counted = Misses::read()?.since(before);
        let (orders, small) = numa::orders(&buffer)?;
        println!("on a fragmented node: pages by order {orders:?}");
        ensure!(
            small > bytes / PAGE / 4,
            "{small} of {} pages are in small folios",
            bytes / PAGE
        );
        ensure!(
            counted.small_pages == small,
            "{small} small pages, {counted:?}"
        );
        ensure!(counted.misplaced_pages == 0, "{counted:?}");
        let misses = numa::misses(&buffer, |_| Some(node))?;
        ensure!(misses == 0, "{misses} misses");
        drop(kept);
        Ok(())
    });
}

#[test]
fn numa_nothing_migrates() {
    test(|guest| {
        let context = Context::open()?;
        let nodes = nodes_with_memory()?;
        let node = nodes.last().context("a node")?.id;
        let bytes = guest.pick(16, 4) * MIB;
        let buffer = Buffer::create(&context, bytes, Placement::Preferred(node))?;
        pattern::fill_memory(&buffer, 0, bytes, 3, 0);
        let before = frames::of(buffer.as_ptr(), numa::pages(&buffer))?;
        // Everything that moves pages, as far as this kernel has it. What is refused has moved nothing.
        fs::write("/proc/sys/vm/compact_memory", "1").context("compaction")?;
        for other in &nodes {
            let moved = sys::bind_and_move(buffer.as_ptr(), bytes, other.id);
            println!("mbind to node {}: {moved:?}", other.id);
        }
        let after = frames::of(buffer.as_ptr(), numa::pages(&buffer))?;
        ensure!(before == after, "pages of a buffer were moved");
        ensure!(
            numa::misses(&buffer, |_| Some(node))? == 0,
            "a page is elsewhere"
        );
        Ok(())
    });
}

#[test]
fn numa_coherent_buffers_are_one_run() {
    test(|guest| {
        let context = Context::open()?;
        for node in nodes_with_memory()? {
            for (asked, order) in [
                (1, 0),
                (2 * PAGE, 1),
                (3 * PAGE, 2),
                (MIB + 1, HUGE),
                (2 * MIB, HUGE),
            ] {
                let placement = Placement::Strict(node.id);
                let builder = Buffer::builder(asked).placement(placement).coherent();
                let buffer = builder
                    .create(&context)
                    .with_context(|| format!("{asked} bytes"))?;
                ensure!(
                    buffer.len() == PAGE << order,
                    "{asked} bytes gave {}",
                    buffer.len()
                );
                let data = buffer.to_vec(0..buffer.len());
                ensure!(data.iter().all(|byte| *byte == 0), "not zeroed");
                let (orders, small) = numa::orders(&buffer)?;
                ensure!(orders[order] == 1 << order && small == 0, "{orders:?}");
                ensure!(numa::misses(&buffer, |_| Some(node.id))? == 0);
            }
        }
        let errno = refusal(Buffer::builder(2 * MIB + 1).coherent().create(&context))?;
        ensure!(errno == Errno::TOOBIG, "more than 2 MiB: {errno}");
        let turns = Buffer::builder(PAGE)
            .coherent()
            .placement(Placement::Interleave);
        let errno = refusal(turns.create(&context))?;
        ensure!(errno == Errno::INVAL, "in turns: {errno}");

        // It is copied from and to as any other.
        let from = Buffer::builder(64 * PAGE).coherent().create(&context)?;
        let to = Buffer::create(&context, 64 * PAGE, Placement::Any)?;
        pattern::fill_memory(&from, 0, from.len(), 4, 0);
        let mut channel = Channel::builder().entries(4).build(&context)?;
        let length = u32::try_from(from.len())?;
        channel.push(Entry::copy(from.range(0, length), &to, 0))?;
        let done = complete(&mut channel, 1, guest.limit(5))?;
        ensure!(done[0].is_ok(), "{:?}", done[0]);
        ensure!(pattern::mismatch_in_memory(&to, 0, to.len(), 4, 0).is_none());
        Ok(())
    });
}

#[test]
fn numa_pages_are_zeroed_by_many() {
    test(|guest| {
        let context = Context::open()?;
        let bytes = guest.pick(96, 20) * MIB + 3 * PAGE;
        for (workers, placement) in [
            (0, Placement::Any),
            (1, Placement::Any),
            (2, Placement::Interleave),
            (32, Placement::Interleave),
            (1_000_000, Placement::Any),
        ] {
            let _tuned = Tuned::set("zero_workers", workers)?;
            let buffer = Buffer::create(&context, bytes, placement)?;
            let dirty = (0..bytes / MIB).find_map(|piece| {
                let data = buffer.to_vec(piece * MIB..(piece + 1) * MIB);
                data.iter().position(|byte| *byte != 0)
            });
            ensure!(
                dirty.is_none(),
                "byte {dirty:?} shows what was there before, {workers} workers"
            );
            // So that the next one is made of dirty pages.
            pattern::fill_memory(&buffer, 0, bytes, 1, 0);
        }
        Ok(())
    });
}

#[test]
fn numa_zeroing_ends_with_its_process() {
    test(|guest| {
        let before = Gauges::read()?;
        let bytes = guest.pick(256, 48) * MIB;
        for round in 0..guest.pick(20, 4) {
            let context = Context::open()?;
            let mut room = sys::Room::default();
            let mut create = interleaved(bytes)?;
            // The child allocates nothing itself: it is a copy of one thread.
            let child = sys::fork(|| {
                loop {
                    let made = room.ioctl(context.as_fd(), abi::IOC_BUFFER_CREATE, &mut create);
                    let mut destroy = [0; size_of::<abi::Destroy>()];
                    destroy[0] = 16;
                    destroy[8..12].copy_from_slice(&create[HANDLE..HANDLE + 4]);
                    let gone = room.ioctl(context.as_fd(), abi::IOC_DESTROY, &mut destroy);
                    if made.is_err() || gone.is_err() {
                        return false;
                    }
                }
            })?;
            // From the middle of the allocation to the middle of the third zeroing.
            let moment = Instant::now() + Duration::from_millis(7 * round + 3);
            while Instant::now() < moment {
                std::thread::yield_now();
            }
            drop(child);
            drop(context);
            gauges::settle(&before, guest.limit(5))?;
        }
        let context = Context::open()?;
        Buffer::create(&context, bytes, Placement::Interleave).context("after all were killed")?;
        Ok(())
    });
}

/// Where an argument of `IOC_BUFFER_CREATE` has the handle.
const HANDLE: usize = offset_of!(abi::BufferCreate, handle);

/// An argument of `IOC_BUFFER_CREATE`.
fn interleaved(bytes: u64) -> Result<Vec<u8>> {
    let mut argument = vec![0; size_of::<abi::BufferCreate>()];
    let mut put = |at: usize, value: &[u8]| argument[at..at + value.len()].copy_from_slice(value);
    put(
        0,
        &u32::try_from(size_of::<abi::BufferCreate>())?.to_ne_bytes(),
    );
    put(offset_of!(abi::BufferCreate, bytes), &bytes.to_ne_bytes());
    let policy = abi::PLACE_INTERLEAVE.to_ne_bytes();
    put(offset_of!(abi::BufferCreate, placement), &policy);
    put(offset_of!(abi::BufferCreate, node), &(-1i32).to_ne_bytes());
    Ok(argument)
}
