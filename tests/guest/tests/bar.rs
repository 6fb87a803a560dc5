// SPDX-License-Identifier: MIT OR Apache-2.0

//! Buffers of a device's memory: ranges, tiers, COPY, RDMA, and what is left of them when it goes.

use std::fs;
use std::time::Duration;

use dmaplane::{
    Buffer, Channel, Completion, Context, EndpointState, Entry, Errno, GrantTerms, MemoryKind,
    Placement, RdmaPath, RevokeCause, Standing, State, Tier,
};
use dmaplane_guest_tests::device::{Bound, device, rebound};
use dmaplane_guest_tests::{Loopback, complete, refusal};
use dmaplane_testkit::pattern::{self, Numbers};
use dmaplane_testkit::{ErrorContext as _, ensure, sys, test};
use dmaplane_uapi as abi;

const PAGE: u64 = 4096;
const KIB: u64 = 1 << 10;

fn errno(done: &Completion) -> Option<Errno> {
    done.result().err().map(|error| error.errno())
}

#[test]
fn bar_is_listed_with_its_node_and_tiers() {
    test(|guest| {
        let context = Context::open()?;
        let device = device(guest, &context)?;
        println!("{device:?}");
        let sysfs = format!("/sys/bus/pci/devices/{}/numa_node", device.address);
        let node: i64 = fs::read_to_string(sysfs)?.trim().parse()?;
        ensure!(
            device.node.map_or(-1, i64::from) == node,
            "{device:?}, but sysfs says node {node}"
        );
        let uncached = device.tier(Tier::Uncached).context("no uncached tier")?;
        ensure!(uncached.rdma == RdmaPath::Direct, "{uncached:?}");
        ensure!(device.tier(Tier::WriteCombined).is_some(), "{device:?}");
        for tier in &device.tiers {
            ensure!(tier.bytes > 0 && tier.free == tier.bytes, "{tier:?}");
        }
        // A buffer of it says where it is.
        let buffer = Buffer::on_device(&context, device.number, Tier::Uncached, 3 * PAGE, None)?;
        let residency = buffer.residency()?;
        let on_node = residency.pages_by_node.get(usize::try_from(node)?);
        ensure!(on_node == Some(&3), "{residency:?}");
        Ok(())
    });
}

#[test]
fn bar_ranges_are_taken_and_given_back() {
    test(|guest| {
        let context = Context::open()?;
        let device = device(guest, &context)?;
        let number = device.number;
        let take = |tier, bytes, at| Buffer::on_device(&context, number, tier, bytes, at);
        for info in &device.tiers {
            let (tier, all) = (info.tier, info.bytes);
            let whole = take(tier, all, None)?;
            ensure!(refusal(take(tier, PAGE, None))? == Errno::NOMEM, "room");
            drop(whole);
            let first = take(tier, 2 * PAGE, Some(4 * PAGE))?;
            let kind = first.memory()?.kind;
            let expected = MemoryKind::Device {
                device: number,
                tier,
                offset: 4 * PAGE,
            };
            ensure!(kind == expected, "{kind:?}");
            for (at, bytes, want) in [
                (4 * PAGE, PAGE, Errno::BUSY),
                (3 * PAGE, 2 * PAGE, Errno::BUSY),
                (0, 8 * PAGE, Errno::BUSY),
                (all, PAGE, Errno::RANGE),
                (all - PAGE, 2 * PAGE, Errno::RANGE),
                (1 << 62, PAGE, Errno::RANGE),
                (100, PAGE, Errno::INVAL),
            ] {
                let errno = refusal(take(tier, bytes, Some(at)))?;
                ensure!(errno == want, "{bytes} bytes at {at}: {errno:?}");
            }
            // A revoked range is free, although its name and its mapping are still there.
            first.revoke()?;
            drop(take(tier, 2 * PAGE, Some(4 * PAGE))?);
            drop(first);
            drop(take(tier, 2 * PAGE, Some(4 * PAGE))?);
        }
        ensure!(
            refusal(take(Tier::Uncached, 0, None))? == Errno::INVAL,
            "none"
        );
        let none = Buffer::on_device(&context, number + 1000, Tier::Cached, PAGE, None);
        ensure!(refusal(none)? == Errno::NODEV, "no device");
        let after = dmaplane_guest_tests::device::device(guest, &context)?;
        ensure!(after.tiers == device.tiers, "{after:?}");
        Ok(())
    });
}

#[test]
fn bar_tiers_hold_what_is_written() {
    test(|guest| {
        let context = Context::open()?;
        let device = device(guest, &context)?;
        let bytes = 64 * KIB;
        let host = Buffer::create(&context, bytes, Placement::Any)?;
        let back = Buffer::create(&context, bytes, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let mut numbers = Numbers::new(3);
        for info in &device.tiers {
            let buffer = Buffer::on_device(&context, device.number, info.tier, bytes, None)?;
            let zeroed = buffer.to_vec(0..bytes).iter().all(|byte| *byte == 0);
            ensure!(zeroed, "{} memory is not zeroed", info.tier);
            // Through the mapping in, by COPY out.
            pattern::fill_memory(&buffer, 0, bytes, 21, 0);
            let length = u32::try_from(bytes)?;
            channel.push(Entry::copy(buffer.range(0, length), &back, 0))?;
            complete(&mut channel, 1, guest.limit(20))?[0].result()?;
            let wrong = pattern::mismatch_in_memory(&back, 0, bytes, 21, 0);
            ensure!(wrong.is_none(), "{}: byte {wrong:?}", info.tier);
            // By COPY in, through the mapping out, at odd places and with overlaps.
            pattern::fill_memory(&host, 0, bytes, 22, 0);
            channel.push(Entry::copy(host.range(0, length), &buffer, 0))?;
            complete(&mut channel, 1, guest.limit(20))?[0].result()?;
            let mut model = host.to_vec(0..bytes);
            for _ in 0..guest.pick(40, 8) {
                let most = usize::try_from(bytes / 2)?;
                let length = 1 + numbers.below(most as u64) as usize;
                let room = bytes - length as u64 + 1;
                let (from, to) = (numbers.below(room), numbers.below(room));
                let source = buffer.range(from, u32::try_from(length)?);
                channel.push(Entry::copy(source, &buffer, to))?;
                complete(&mut channel, 1, guest.limit(20))?[0].result()?;
                let from = usize::try_from(from)?;
                model.copy_within(from..from + length, usize::try_from(to)?);
            }
            ensure!(buffer.to_vec(0..bytes) == model, "{}", info.tier);
        }
        Ok(())
    });
}

#[test]
fn bar_rdma_to_and_from_device_memory() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let device = device(guest, &local.near_context)?;
        let bytes = 256 * KIB;
        let (near, far) = (&local.near_context, &local.far_context);
        let mine = Buffer::on_device(near, device.number, Tier::Uncached, bytes, None)?;
        let theirs = Buffer::on_device(far, device.number, Tier::Uncached, bytes, None)?;
        let terms = GrantTerms {
            rights: dmaplane::Rights::from_bits(abi::RIGHT_WRITE | abi::RIGHT_READ),
            ..Default::default()
        };
        let limit = guest.limit(20);
        let _grant = local.far.grant_on(&theirs, 0..bytes, &terms, limit)?;
        let given = local.near.wait_grant(limit)?;
        let mut here = Channel::builder().entries(8).build(near)?;
        let mut there = Channel::builder().entries(8).build(far)?;
        pattern::fill_memory(&mine, 0, bytes, 31, 0);
        let length = u32::try_from(bytes)?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        here.push(Entry::write_imm(mine.range(0, length), given.at(0), 5))?;
        complete(&mut here, 1, limit)?[0].result()?;
        ensure!(complete(&mut there, 1, limit)?[0].imm() == 5, "no arrival");
        let wrong = pattern::mismatch_in_memory(&theirs, 0, bytes, 31, 0);
        ensure!(wrong.is_none(), "WRITE_IMM: byte {wrong:?}");
        pattern::fill_memory(&theirs, 0, bytes, 32, 0);
        here.push(Entry::read(mine.range(0, length), given.at(0)))?;
        complete(&mut here, 1, limit)?[0].result()?;
        let wrong = pattern::mismatch_in_memory(&mine, 0, bytes, 32, 0);
        ensure!(wrong.is_none(), "READ: byte {wrong:?}");
        // A tier without struct pages says so, and why.
        for tier in [Tier::WriteCombined, Tier::Cached] {
            let Some(info) = device.tier(tier) else {
                continue;
            };
            ensure!(info.rdma == RdmaPath::StagedByTier, "{info:?}");
            let staged = Buffer::on_device(near, device.number, tier, PAGE, None)?;
            ensure!(staged.memory()?.rdma == RdmaPath::StagedByTier, "{tier}");
            here.push(Entry::write(staged.range(0, 64), given.at(0)))?;
            let done = complete(&mut here, 1, limit)?[0];
            ensure!(errno(&done) == Some(Errno::OPNOTSUPP), "{done:?}");
            let granted = local.near.grant_on(&staged, 0..PAGE, &terms, limit);
            ensure!(refusal(granted)? == Errno::OPNOTSUPP, "a grant");
            // SENDs and COPYs are the processor's work.
            there.push(Entry::recv_into(&local.far, theirs.range(0, 64)))?;
            there.submit()?;
            staged.write_at(0, &[9; 64]);
            here.push(Entry::send(&local.near, staged.range(0, 64), 1))?;
            complete(&mut here, 1, limit)?[0].result()?;
            complete(&mut there, 1, limit)?[0].result()?;
            ensure!(theirs.to_vec(0..64) == [9; 64], "a SEND");
        }
        Ok(())
    });
}

#[test]
fn bar_removal_takes_everything_away() {
    test(|guest| {
        sys::replace_taken_pages()?;
        let local = Loopback::new(guest)?;
        let found = device(guest, &local.near_context)?;
        let near = &local.near_context;
        let (mine, theirs) = (
            Buffer::on_device(near, found.number, Tier::Uncached, PAGE, None)?,
            Buffer::on_device(&local.far_context, found.number, Tier::Uncached, PAGE, None)?,
        );
        let limit = guest.limit(20);
        let grant = local
            .far
            .grant_on(&theirs, 0..PAGE, &GrantTerms::default(), limit)?;
        let given = local.near.wait_grant(limit)?;
        let mut here = Channel::builder().entries(16).build(near)?;
        let mut there = Channel::builder().entries(16).build(&local.far_context)?;
        here.push(Entry::write_imm(mine.range(0, 64), given.at(0), 1).user_data(1))?;
        here.push(Entry::recv_into(&local.near, mine.range(0, 64)).user_data(2))?;
        here.push(Entry::watch_buffer(&mine).user_data(3))?;
        here.submit()?;
        there.push(Entry::watch_grant(&local.far, &grant))?;
        there.submit()?;
        mine.write_at(0, &[1; 8]);
        let bound = Bound::of(&found)?;
        bound.unbind()?;
        for done in complete(&mut here, 3, Duration::ZERO)? {
            if done.user_data() == 3 {
                ensure!(done.imm() == abi::REVOKE_DEVICE, "{done:?}");
            } else {
                ensure!(done.state() == State::Revoked, "{done:?}");
            }
        }
        let done = complete(&mut there, 1, Duration::ZERO)?[0];
        ensure!(done.imm() == abi::GRANT_END_MEMORY, "{done:?}");
        let info = mine.memory()?;
        ensure!(info.standing == Standing::Revoked, "{info:?}");
        ensure!(info.cause == Some(RevokeCause::Device), "{info:?}");
        let taken = sys::taken_pages();
        ensure!(mine.to_vec(0..8) == [0; 8], "it shows through");
        ensure!(sys::taken_pages() == taken + 1, "no SIGBUS");
        let gone = Buffer::on_device(near, found.number, Tier::Uncached, PAGE, None);
        ensure!(refusal(gone)? == Errno::NODEV, "still there");
        ensure!(mine.residency()?.bytes == PAGE, "another size");
        ensure!(local.near.query()?.state == EndpointState::Up, "down");
        // It comes back under a new number, and works.
        bound.bind()?;
        let again = rebound(guest, near, found.number)?;
        let fresh = Buffer::on_device(near, again.number, Tier::Uncached, PAGE, None)?;
        fresh.write_at(0, &[5; 8]);
        ensure!(fresh.to_vec(0..8) == [5; 8], "another byte");
        Ok(())
    });
}

#[test]
fn bar_child_and_second_mapping_lose_it_too() {
    test(|guest| {
        let context = Context::open()?;
        let device = device(guest, &context)?;
        let flag = Buffer::create(&context, PAGE, Placement::Any)?;
        let buffer = Buffer::on_device(&context, device.number, Tier::Uncached, 4 * PAGE, None)?;
        buffer.write_at(0, &[1; 8]);
        let second = buffer.map(0..PAGE)?;
        let mut seen = [0; 8];
        second.read_at(0, &mut seen);
        ensure!(seen == [1; 8], "another page is mapped");
        let child = sys::fork(|| {
            let mut word = [0; 8];
            while word == [0; 8] {
                flag.read_at(0, &mut word);
            }
            buffer.write_at(0, &[1]);
            true
        })?;
        let bound = Bound::of(&device)?;
        bound.unbind()?;
        flag.write_at(0, &[1; 8]);
        ensure!(child.wait_signal()? == 7, "not SIGBUS");
        sys::replace_taken_pages()?;
        second.read_at(0, &mut seen);
        ensure!(seen == [0; 8] && sys::taken_pages() == 1, "{seen:?}");
        bound.bind()?;
        rebound(guest, &context, device.number)?;
        Ok(())
    });
}
