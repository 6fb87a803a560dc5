// SPDX-License-Identifier: MIT OR Apache-2.0

//! COPY: bytes between buffers in the kernel, overlaps included, and what it refuses.

use dmaplane::{Buffer, Channel, Context, Entry, Errno, Field, Placement};
use dmaplane_guest_tests::complete;
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{ensure, test};
use dmaplane_uapi as abi;

#[test]
fn copy_is_what_memmove_is() {
    test(|guest| {
        const BYTES: usize = 64 << 10;
        let context = Context::open()?;
        let one = Buffer::create(&context, BYTES as u64, Placement::Any)?;
        let other = Buffer::create(&context, BYTES as u64, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let mut numbers = Numbers::new(11);
        let mut model = [vec![0u8; BYTES], vec![0u8; BYTES]];
        for side in &mut model {
            side.fill_with(|| numbers.next_u64() as u8);
        }
        one.write_at(0, &model[0]);
        other.write_at(0, &model[1]);
        for round in 0..guest.pick(2_000, 200) {
            let pick = |numbers: &mut Numbers, most: usize| (numbers.next_u64() as usize) % most;
            let length = 1 + pick(&mut numbers, BYTES / 2);
            let from = pick(&mut numbers, BYTES - length + 1);
            let to = pick(&mut numbers, BYTES - length + 1);
            let same = round % 2 == 0;
            let target = if same { &one } else { &other };
            let source = one.range(from as u64, u32::try_from(length)?);
            channel.push(Entry::copy(source, target, to as u64))?;
            let done = complete(&mut channel, 1, guest.limit(10))?[0];
            ensure!(done.result()? == length as u64, "{done:?}");
            if same {
                model[0].copy_within(from..from + length, to);
            } else {
                let bytes = model[0][from..from + length].to_vec();
                model[1][to..to + length].copy_from_slice(&bytes);
            }
            ensure!(
                one.to_vec(0..BYTES as u64) == model[0]
                    && other.to_vec(0..BYTES as u64) == model[1],
                "round {round}: {length} bytes from {from} to {to}, same buffer: {same}"
            );
        }
        Ok(())
    });
}

#[test]
fn copy_refuses_by_member() {
    test(|guest| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 4096, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let good = *Entry::copy(buffer.range(0, 8), &buffer, 100).raw();
        let most = u32::try_from(context.limits().max_op_bytes)?;
        let cases = [
            (abi::Sqe { buffer: 0, ..good }, Field::Buffer, Errno::NOENT),
            (abi::Sqe { grant: 0, ..good }, Field::Grant, Errno::NOENT),
            (abi::Sqe { length: 0, ..good }, Field::Length, Errno::INVAL),
            (
                abi::Sqe {
                    length: most + 1,
                    ..good
                },
                Field::Length,
                Errno::MSGSIZE,
            ),
            (
                abi::Sqe {
                    offset: 4089,
                    ..good
                },
                Field::Offset,
                Errno::INVAL,
            ),
            (
                abi::Sqe {
                    remote_offset: u64::MAX,
                    ..good
                },
                Field::RemoteOffset,
                Errno::INVAL,
            ),
            (abi::Sqe { imm: 1, ..good }, Field::Reserved, Errno::INVAL),
            (
                abi::Sqe {
                    endpoint: 1,
                    ..good
                },
                Field::Reserved,
                Errno::INVAL,
            ),
            (
                abi::Sqe {
                    timeout_ns: 1,
                    ..good
                },
                Field::Timeout,
                Errno::INVAL,
            ),
        ];
        for (sqe, field, errno) in cases {
            channel.push(Entry::from_raw(sqe))?;
            let done = complete(&mut channel, 1, guest.limit(10))?[0];
            let error = done
                .result()
                .err()
                .map(|error| (error.field(), error.errno()));
            ensure!(error == Some((field, errno)), "{sqe:?}: {done:?}");
        }
        Ok(())
    });
}
