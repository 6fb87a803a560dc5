// SPDX-License-Identifier: MIT OR Apache-2.0

//! Channels in hostile hands: refusals that name the member, silly indices, random entries.

use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::time::Duration;

use dmaplane::{Channel, Context, Entry, Errno, Field, State};
use dmaplane_guest_tests::{complete, refusal};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{ensure, sys, test};
use dmaplane_uapi as abi;

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
                    timeout_ns: 1,
                    ..nop
                },
                Field::Timeout,
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
        // A submission tail or a completion head that claims more entries than the ring has. A head that is a
        // little behind cannot be distinguished from a correct one; it harms its owner only.
        for (at, values) in [
            (HEADER[1], [9, 1000, 1 << 31, u32::MAX]),
            (HEADER[2], [9, 1000, 1 << 31, u32::MAX - 9]),
        ] {
            for value in values {
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
                timeout_ns: 0,
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
