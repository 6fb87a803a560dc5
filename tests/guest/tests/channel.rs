// SPDX-License-Identifier: MIT OR Apache-2.0

//! Channels: the rings, their limits, and a hostile owner.

use std::collections::HashSet;
use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use dmaplane::{Channel, Context, Entry, Errno, Field, QueueFull, State};
use dmaplane_guest_tests::{complete, refusal};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{Result, ensure, sys, test};
use dmaplane_uapi as abi;

#[test]
fn channel_nop_roundtrips() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for i in 0..guest.pick(10_000, 500) {
            channel.push(Entry::nop().user_data(i).trace_id(!i))?;
            let done = complete(&mut channel, 1, guest.limit(5))?[0];
            ensure!(
                done.state() == State::Ok && done.user_data() == i,
                "{done:?}"
            );
            ensure!(
                done.trace_id() == !i && done.op() == abi::OP_NOP,
                "{done:?}"
            );
            ensure!(
                done.raw().error == 0 && done.raw().field == abi::FIELD_NONE,
                "{done:?}"
            );
        }
        ensure!(channel.available() == 0 && channel.pending() == 0);
        Ok(())
    });
}

#[test]
fn channel_wraps_around_many_times() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder()
            .entries(8)
            .completions(16)
            .build(&context)?;
        let total = guest.pick(200_000, 4_000);
        let mut numbers = Numbers::new(11);
        let (mut sent, mut open) = (0, HashSet::new());
        while sent < total || !open.is_empty() {
            for _ in 0..=numbers.below(8) {
                if sent < total && channel.push(Entry::nop().user_data(sent)).is_ok() {
                    open.insert(sent);
                    sent += 1;
                }
            }
            let want = u32::try_from(numbers.below(open.len() as u64) + 1)?.min(16);
            channel.submit_and_wait(want, guest.limit(5))?;
            for done in channel.completions().take(want as usize) {
                ensure!(
                    open.remove(&done.user_data()),
                    "{done:?} comes twice or from nowhere"
                );
            }
        }
        ensure!(
            channel.available() == 0,
            "{} completions too many",
            channel.available()
        );
        Ok(())
    });
}

#[test]
fn channel_batch() {
    test(|guest| {
        let context = Context::open()?;
        let entries = context.limits().max_ring_entries;
        let mut channel = Channel::builder()
            .entries(entries)
            .completions(entries)
            .build(&context)?;
        for i in 0..u64::from(entries) {
            channel.push(Entry::nop().user_data(i))?;
        }
        ensure!(channel.push(Entry::nop()) == Err(QueueFull));
        let done = channel.submit_and_wait(entries, guest.limit(10))?;
        ensure!(
            done.entries == entries && done.available == entries,
            "{done:?}"
        );
        let seen: HashSet<_> = channel.completions().map(|done| done.user_data()).collect();
        ensure!(seen.len() == entries as usize);
        Ok(())
    });
}

#[test]
fn channel_eventfd_is_signalled() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).event().build(&context)?;
        ensure!(
            channel.take_event(Duration::ZERO)? == 0,
            "signalled without a completion"
        );
        for i in 0..5 {
            channel.push(Entry::nop().user_data(i))?;
        }
        channel.submit()?;
        let mut signals = 0;
        while signals < 5 {
            let more = channel.take_event(guest.limit(5))?;
            ensure!(more > 0, "{signals} signals for 5 completions");
            signals += more;
        }
        ensure!(channel.completions().count() == 5);
        ensure!(
            channel.take_event(Duration::ZERO)? == 0,
            "more signals than completions"
        );
        Ok(())
    });
}

#[test]
fn channel_wait_honours_its_time_limit() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for limit in [
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::from_millis(120),
        ] {
            let start = Instant::now();
            let done = channel.wait(1, limit)?;
            let took = start.elapsed();
            ensure!(done.available == 0 && done.entries == 0, "{done:?}");
            ensure!(took >= limit, "{limit:?} took {took:?} only");
            ensure!(took < limit + guest.limit(2), "{limit:?} took {took:?}");
        }
        channel.push(Entry::nop())?;
        let start = Instant::now();
        let done = channel.submit_and_wait(2, Duration::from_millis(50))?;
        ensure!(done.entries == 1 && done.available == 1, "{done:?}");
        ensure!(
            start.elapsed() >= Duration::from_millis(50),
            "it waits for the second one"
        );
        Ok(())
    });
}

#[test]
fn channel_reserves_a_slot_for_each_entry() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder()
            .entries(8)
            .completions(8)
            .build(&context)?;
        let push = |channel: &mut Channel, from: u64| -> Result<()> {
            for i in from..from + 8 {
                channel.push(Entry::nop().user_data(i))?;
            }
            Ok(())
        };
        push(&mut channel, 0)?;
        let done = channel.submit_and_wait(8, guest.limit(5))?;
        ensure!(done.entries == 8 && done.available == 8, "{done:?}");
        push(&mut channel, 8)?;
        let done = channel.submit()?;
        ensure!(
            done.entries == 0 && channel.pending() == 8,
            "without a slot: {done:?}"
        );
        ensure!(
            channel
                .completions()
                .take(3)
                .map(|c| c.user_data())
                .eq(0..3)
        );
        let done = channel.submit_and_wait(8, guest.limit(5))?;
        ensure!(
            done.entries == 3 && done.available == 8,
            "with three slots: {done:?}"
        );
        let mut seen: HashSet<_> = channel.completions().map(|c| c.user_data()).collect();
        let done = channel.submit_and_wait(5, guest.limit(5))?;
        ensure!(done.entries == 5 && done.available == 5, "{done:?}");
        seen.extend(channel.completions().map(|c| c.user_data()));
        ensure!(seen == (3..16).collect(), "{seen:?}");
        Ok(())
    });
}

#[test]
fn channel_bad_sizes() {
    test(|_| {
        let context = Context::open()?;
        let most = context.limits().max_ring_entries;
        let sizes = [
            (0, 8),
            (3, 8),
            (8, 12),
            (8, 4),
            (8, 0),
            (2 * most, 2 * most),
            (8, 2 * most),
            (1 << 31, 1 << 31),
        ];
        for (entries, completions) in sizes {
            let builder = Channel::builder().entries(entries).completions(completions);
            let errno = refusal(builder.build(&context))?;
            ensure!(
                errno == Errno::INVAL,
                "{entries} and {completions}: {errno}"
            );
        }
        Channel::builder()
            .entries(1)
            .completions(1)
            .build(&context)?;
        Ok(())
    });
}

#[test]
fn channel_bad_eventfd() {
    test(|_| {
        let context = Context::open()?;
        let create = |eventfd: i32| {
            let bytes = size_of::<abi::ChannelCreate>();
            let mut raw = vec![0; bytes];
            let mut put = |at: usize, value: u32| {
                raw[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            };
            put(offset_of!(abi::ChannelCreate, size), bytes as u32);
            put(offset_of!(abi::ChannelCreate, sq_entries), 8);
            put(offset_of!(abi::ChannelCreate, cq_entries), 8);
            put(
                offset_of!(abi::ChannelCreate, eventfd),
                eventfd.cast_unsigned(),
            );
            sys::ioctl(context.as_fd(), abi::IOC_CHANNEL_CREATE, &mut raw)
        };
        let closed = create(1 << 20);
        ensure!(closed == Err(Errno::BADF), "no open descriptor: {closed:?}");
        let null = std::fs::File::open("/dev/null")?;
        let other = create(std::os::fd::AsRawFd::as_raw_fd(&null));
        ensure!(
            other == Err(Errno::BADF) || other == Err(Errno::INVAL),
            "/dev/null: {other:?}"
        );
        Ok(())
    });
}

#[test]
fn channel_refuses_entries_by_member() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(16).build(&context)?;
        let nop = abi::Sqe::default();
        let recv = abi::Sqe {
            op: abi::OP_RECV,
            ..nop
        };
        let write = abi::Sqe {
            op: abi::OP_WRITE,
            length: 1,
            ..nop
        };
        let cases = [
            (abi::Sqe { op: 200, ..nop }, Field::Op),
            (abi::Sqe { flags: 1, ..nop }, Field::Flags),
            (abi::Sqe { reserved: 1, ..nop }, Field::Reserved),
            (
                abi::Sqe {
                    reserved2: 1,
                    ..nop
                },
                Field::Reserved,
            ),
            (abi::Sqe { endpoint: 1, ..nop }, Field::Reserved),
            (abi::Sqe { length: 1, ..nop }, Field::Reserved),
            (
                abi::Sqe {
                    endpoint: 9999,
                    ..recv
                },
                Field::Endpoint,
            ),
            (
                abi::Sqe {
                    endpoint: 0,
                    ..recv
                },
                Field::Endpoint,
            ),
            (
                abi::Sqe {
                    endpoint: 9999,
                    ..write
                },
                Field::Endpoint,
            ),
        ];
        for (i, (sqe, field)) in cases.into_iter().enumerate() {
            channel.push(Entry::from_raw(sqe).user_data(i as u64))?;
            let done = complete(&mut channel, 1, guest.limit(5))?[0];
            let Err(error) = done.result() else {
                dmaplane_testkit::bail!("accepted: {sqe:?}");
            };
            ensure!(
                error.state() == State::Error && error.field() == field,
                "{sqe:?}: {error:?}"
            );
            ensure!(
                done.user_data() == i as u64 && done.raw().error > 0,
                "{done:?}"
            );
        }
        channel.push(Entry::nop())?;
        ensure!(
            complete(&mut channel, 1, guest.limit(5))?[0].is_ok(),
            "it still works"
        );
        Ok(())
    });
}

const HEADER: [usize; 4] = [
    offset_of!(abi::RingHeader, sq_head),
    offset_of!(abi::RingHeader, sq_tail),
    offset_of!(abi::RingHeader, cq_head),
    offset_of!(abi::RingHeader, cq_tail),
];

#[test]
fn channel_survives_silly_indices() {
    test(|guest| {
        let context = Context::open()?;
        for at in [HEADER[1], HEADER[2]] {
            for value in [9, 1000, 1 << 31, u32::MAX] {
                let mut channel = Channel::builder()
                    .entries(8)
                    .completions(8)
                    .build(&context)?;
                channel.push(Entry::nop())?;
                channel.corrupt_header(at, value);
                let errno = refusal(channel.enter_raw(u32::MAX, 0, Duration::ZERO))?;
                ensure!(errno == Errno::INVAL, "{value} at {at}: {errno}");
            }
        }
        let mut numbers = Numbers::new(23);
        for _ in 0..guest.pick(2_000, 100) {
            let mut channel = Channel::builder()
                .entries(8)
                .completions(8)
                .build(&context)?;
            for _ in 0..4 {
                let at = HEADER[numbers.below(4) as usize];
                channel.corrupt_header(at, numbers.next_u64() as u32);
                // Any answer will do, as long as there is one and nobody else notices.
                let _ = channel.enter_raw(numbers.next_u64() as u32, 1, Duration::from_micros(50));
            }
        }
        let mut channel = Channel::builder().entries(8).build(&context)?;
        channel.push(Entry::nop())?;
        ensure!(
            complete(&mut channel, 1, guest.limit(5))?[0].is_ok(),
            "another channel works"
        );
        Ok(())
    });
}

#[test]
fn channel_survives_random_entries() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(64).build(&context)?;
        let mut numbers = Numbers::new(29);
        for i in 0..guest.pick(20_000, 1_000) {
            let mut random = || numbers.next_u64();
            let sqe = abi::Sqe {
                op: (random() % 6) as u8,
                flags: u8::from(random() % 8 == 0),
                reserved: u16::from(random() % 8 == 0),
                endpoint: (random() % 8) as u32,
                user_data: i,
                trace_id: random(),
                buffer: (random() % 8) as u32,
                grant: (random() % 8) as u32,
                offset: random(),
                remote_offset: random(),
                length: random() as u32,
                imm: random() as u32,
                reserved2: 0,
            };
            channel.push(Entry::from_raw(sqe))?;
            let done = complete(&mut channel, 1, guest.limit(5))?[0];
            ensure!(
                done.user_data() == i && !done.is_ok(),
                "{sqe:?} gives {done:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn channel_wait_ends_when_it_is_destroyed() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let handle = channel.raw_handle();
        std::thread::scope(|scope| -> Result<()> {
            // Destroyed before or during the wait: it has to end either way.
            let waiting = scope.spawn(move || channel.wait(1, guest.limit(60)));
            let bytes = size_of::<abi::Destroy>();
            let mut destroy = vec![0; bytes];
            destroy[..4].copy_from_slice(&(bytes as u32).to_ne_bytes());
            let at = offset_of!(abi::Destroy, handle);
            destroy[at..at + 4].copy_from_slice(&handle.to_ne_bytes());
            sys::ioctl(context.as_fd(), abi::IOC_DESTROY, &mut destroy)?;
            let start = Instant::now();
            let result = waiting.join();
            ensure!(
                start.elapsed() < guest.limit(5),
                "it waits on: {:?}",
                start.elapsed()
            );
            ensure!(result.is_ok(), "the waiting thread panicked");
            Ok(())
        })
    });
}
