// SPDX-License-Identifier: MIT OR Apache-2.0

//! What transfers must not do: leave a buffer, leave a grant, or come after its end.

use std::time::Duration;

use dmaplane::{Buffer, Channel, Entry, Errno, Field, Placement, Rights, State};
use dmaplane_guest_tests::{Connection, complete, refusal};
use dmaplane_testkit::peer::protocol::Request;
use dmaplane_testkit::{bail, ensure, pattern, test};
use dmaplane_uapi as abi;

const PAGE: u64 = 4096;

#[test]
fn transfer_touches_nothing_around_a_grant() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let remote = connection
            .peer
            .create(Request::CreateBuffer { bytes: 8 * PAGE })?;
        let fill = Request::Fill {
            buffer: remote,
            offset: 0,
            length: 8 * PAGE,
            seed: 50,
        };
        connection.peer.ask(fill)?;
        // The granted range gets other data, which the writes have to put right: no more, no less.
        let (offset, length) = (2 * PAGE, PAGE + 100);
        connection.peer.ask(Request::Fill {
            buffer: remote,
            offset,
            length,
            seed: 49,
        })?;
        connection.grant_remote(remote, offset, length, 7)?;
        let grant = connection.endpoint.wait_grant(guest.limit(10))?;
        ensure!(grant.length() == length && grant.label() == 7, "{grant:?}");
        ensure!(grant.rights() == Rights::WRITE, "{grant:?}");
        let buffer = Buffer::create(&connection.context, 2 * PAGE, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, 2 * PAGE, 50, offset);
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        let half = u32::try_from(length / 2)?;
        let rest = u32::try_from(length)? - half;
        channel.push(Entry::write(
            buffer.range(half.into(), rest),
            grant.at(half.into()),
        ))?;
        channel.push(Entry::write(buffer.range(0, half), grant.at(0)))?;
        for done in complete(&mut channel, 2, guest.limit(10))? {
            done.result()?;
        }
        connection.peer.verify(remote, 8 * PAGE, 50)
    });
}

#[test]
fn transfer_bounds_are_checked_here() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let (remote, grant) = connection.remote_buffer(guest, 4 * PAGE)?;
        let bytes = 8 * PAGE;
        let buffer = Buffer::create(&connection.context, bytes, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, bytes, 51, 0);
        let good = *Entry::write(buffer.range(0, 4096), grant.at(0)).raw();
        let cases = [
            (
                abi::Sqe {
                    offset: bytes,
                    ..good
                },
                Field::Offset,
            ),
            (
                abi::Sqe {
                    offset: bytes - 4095,
                    ..good
                },
                Field::Offset,
            ),
            (
                abi::Sqe {
                    offset: u64::MAX,
                    ..good
                },
                Field::Offset,
            ),
            (
                abi::Sqe {
                    offset: u64::MAX - 4095,
                    ..good
                },
                Field::Offset,
            ),
            (
                abi::Sqe {
                    remote_offset: 4 * PAGE,
                    ..good
                },
                Field::RemoteOffset,
            ),
            (
                abi::Sqe {
                    remote_offset: 4 * PAGE - 4095,
                    ..good
                },
                Field::RemoteOffset,
            ),
            (
                abi::Sqe {
                    remote_offset: u64::MAX,
                    ..good
                },
                Field::RemoteOffset,
            ),
            (
                abi::Sqe {
                    remote_offset: u64::MAX - 4095,
                    ..good
                },
                Field::RemoteOffset,
            ),
            (abi::Sqe { length: 0, ..good }, Field::Length),
            (abi::Sqe { buffer: 0, ..good }, Field::Buffer),
            (
                abi::Sqe {
                    buffer: grant.raw_handle(),
                    ..good
                },
                Field::Buffer,
            ),
            (abi::Sqe { grant: 0, ..good }, Field::Grant),
            (
                abi::Sqe {
                    grant: buffer.raw_handle(),
                    ..good
                },
                Field::Grant,
            ),
            (
                abi::Sqe {
                    endpoint: buffer.raw_handle(),
                    ..good
                },
                Field::Endpoint,
            ),
            (abi::Sqe { imm: 1, ..good }, Field::Reserved),
        ];
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        for (sqe, field) in cases {
            channel.push(Entry::from_raw(sqe))?;
            let done = complete(&mut channel, 1, guest.limit(5))?[0];
            let Err(error) = done.result() else {
                bail!("accepted: {sqe:?}")
            };
            ensure!(
                error.state() == State::Error && error.field() == field,
                "{sqe:?}: {error:?}"
            );
        }
        // None of them has hurt the connection.
        for page in 0..4 {
            let source = buffer.range(page * PAGE, 4096);
            channel.push(Entry::write(source, grant.at(page * PAGE)))?;
        }
        for done in complete(&mut channel, 4, guest.limit(10))? {
            done.result()?;
        }
        connection.peer.verify(remote, 4 * PAGE, 51)
    });
}

#[test]
fn transfer_grants_are_checked() {
    test(|guest| {
        let connection = Connection::to_peer(guest)?;
        let buffer = Buffer::create(&connection.context, 4 * PAGE, Placement::Any)?;
        let grant = |start: u64, end: u64, rights| {
            connection
                .endpoint
                .grant(&buffer, start..end, rights, 0, guest.limit(5))
        };
        let write = Rights::WRITE;
        for (start, end, rights, wanted) in [
            (0, 0, write, Errno::INVAL),
            (PAGE, PAGE, write, Errno::INVAL),
            (100, PAGE, write, Errno::INVAL),
            (0, PAGE, Rights::from_bits(0), Errno::INVAL),
            (0, PAGE, Rights::from_bits(1 << 31 | 1), Errno::INVAL),
            (0, 4 * PAGE + 1, write, Errno::RANGE),
            (4 * PAGE, 5 * PAGE, write, Errno::RANGE),
            (1 << 60, (1 << 60) + 1, write, Errno::RANGE),
        ] {
            let errno = refusal(grant(start, end, rights))?;
            ensure!(errno == wanted, "{start}..{end} {rights:?}: {errno}");
        }
        let first = grant(0, 4 * PAGE, write)?;
        let second = grant(PAGE, PAGE + 1, write)?;
        ensure!(
            first.generation() != second.generation(),
            "a generation repeats"
        );
        Ok(())
    });
}

#[test]
fn transfer_grants_come_in_order_with_their_labels() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let buffer = connection
            .peer
            .create(Request::CreateBuffer { bytes: 64 * PAGE })?;
        for label in 0..16 {
            connection.grant_remote(buffer, label * PAGE, PAGE + label, label)?;
        }
        for label in 0..16 {
            let grant = connection.endpoint.wait_grant(guest.limit(10))?;
            ensure!(
                grant.label() == label && grant.length() == PAGE + label,
                "{grant:?}"
            );
        }
        let errno = refusal(connection.endpoint.wait_grant(Duration::from_millis(50)))?;
        ensure!(errno == Errno::TIMEDOUT, "a grant too many: {errno}");
        Ok(())
    });
}

#[test]
fn transfer_nothing_lands_after_a_revocation() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let length = 16 * PAGE;
        let remote = connection
            .peer
            .create(Request::CreateBuffer { bytes: length })?;
        let remote_grant = connection.grant_remote(remote, 0, length, 0)?;
        let grant = connection.endpoint.wait_grant(guest.limit(10))?;
        let buffer = Buffer::create(&connection.context, length, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, length, 60, 0);
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        let write = Entry::write(buffer.range(0, u32::try_from(length)?), grant.at(0));
        channel.push(write)?;
        complete(&mut channel, 1, guest.limit(10))?[0].result()?;
        connection.peer.verify(remote, length, 60)?;

        connection.peer.ask(Request::Close { id: remote_grant })?;
        connection.peer.ask(Request::Fill {
            buffer: remote,
            offset: 0,
            length,
            seed: 61,
        })?;
        channel.push(write)?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(!done.is_ok(), "a write into a revoked grant: {done:?}");
        connection.peer.verify(remote, length, 61)
    });
}

#[test]
fn transfer_reports_the_whole_length_across_segments() {
    test(|guest| {
        let mut connection = Connection::from_peer(guest)?;
        // Larger than what one memory region of any device at hand holds.
        let length = 8 << 20;
        let (buffer, _grant, remote) = connection.local_buffer(guest, length)?;
        let source = connection
            .peer
            .create(Request::CreateBuffer { bytes: length })?;
        connection.peer.ask(Request::Fill {
            buffer: source,
            offset: 0,
            length,
            seed: 62,
        })?;
        // Chunks of 12 KiB cross every 2 MiB, and the last is short.
        let chunk: u32 = 12 << 10;
        let count = u32::try_from(length.div_ceil(u64::from(chunk)))?;
        let mut channel = Channel::builder()
            .entries(1024)
            .build(&connection.context)?;
        for _ in 0..256 {
            channel.push(Entry::recv(&connection.endpoint))?;
        }
        channel.submit()?;
        let limit_ms = connection.peer.limit_ms();
        let sending = connection.peer.begin(Request::Send {
            buffer: source,
            grant: remote,
            length,
            chunk,
            order_seed: 9,
            immediates: true,
            rounds: 1,
            depth: 32,
            limit_ms,
        })?;
        let mut arrived = 0;
        while arrived < count {
            let done = channel.submit_and_wait(1, guest.limit(20))?;
            ensure!(done.available > 0, "{arrived} of {count} arrived");
            let batch: Vec<_> = channel.completions().collect();
            for done in batch {
                let (imm, bytes) = (done.imm(), done.result()?);
                let left = length - u64::from(imm) * u64::from(chunk);
                ensure!(
                    bytes == left.min(chunk.into()),
                    "chunk {imm} came with {bytes} bytes"
                );
                arrived += 1;
                if arrived + 256 <= count {
                    channel.push(Entry::recv(&connection.endpoint))?;
                }
            }
        }
        connection.peer.sent(sending)?.all_ok()?;
        let wrong = pattern::mismatch_in_memory(&buffer, 0, length, 62, 0);
        ensure!(wrong.is_none(), "byte {wrong:?} is wrong");
        Ok(())
    });
}
