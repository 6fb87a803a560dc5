// SPDX-License-Identifier: MIT OR Apache-2.0

//! Transfers: every byte where it belongs, every operation completed once.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use dmaplane::{Buffer, Channel, Entry, Errno, Field, Placement, Rights, State};
use dmaplane_guest_tests::{Connection, complete, refusal};
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::transfer::{Receive, Send, chunk_count};
use dmaplane_testkit::{Guest, Result, bail, ensure, pattern, poll, test};
use dmaplane_uapi as abi;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Seconds that the largest transfer may take, before scaling.
const LONG: u64 = 120;

fn size(guest: &Guest) -> u64 {
    guest.pick(64 * MIB, MIB)
}

fn limit_ms(guest: &Guest, seconds: u64) -> u64 {
    u64::try_from(guest.limit(seconds).as_millis()).unwrap_or(u64::MAX)
}

/// Sends the whole to the peer by chunks in random order and lets it verify.
fn to_peer(guest: &Guest, length: u64, chunk: u32, depth: u32) -> Result<()> {
    let mut connection = Connection::to_peer(guest)?;
    let (remote, grant) = connection.remote_buffer(guest, length)?;
    let buffer = Buffer::create(&connection.context, length, Placement::Any)?;
    pattern::fill_memory(&buffer, 0, length, 42, 0);
    let count = chunk_count(length, chunk)?;
    let receive = connection.peer.begin(Request::Receive {
        endpoint: connection.remote,
        count: u64::from(count),
        depth,
        limit_ms: limit_ms(guest, LONG),
    })?;
    let mut channel = Channel::builder()
        .entries(depth)
        .completions(depth)
        .build(&connection.context)?;
    let send = Send {
        buffer: &buffer,
        grant: &grant,
        length,
        chunk,
        order_seed: 1,
        immediates: true,
        rounds: 1,
    };
    let tally = send.run(&mut channel, &AtomicU64::new(0), guest.limit(LONG))?;
    tally.all_ok()?;
    ensure!(
        tally.bytes == length,
        "{} bytes completed of {length}",
        tally.bytes
    );
    let received = connection.peer.received(receive)?;
    received.complete(count, 1)?;
    ensure!(
        received.tally.bytes == length,
        "{} bytes received",
        received.tally.bytes
    );
    connection.peer.verify(remote, length, 42)
}

#[test]
fn transfer_to_the_peer() {
    test(|guest| to_peer(guest, size(guest), 256 << 10, 16));
}

#[test]
fn transfer_in_small_chunks_with_many_in_flight() {
    test(|guest| to_peer(guest, guest.pick(2 * MIB, 128 << 10) + 100, 4096, 256));
}

#[test]
fn transfer_in_crooked_chunks() {
    test(|guest| to_peer(guest, guest.pick(MIB, 100_000) + 3, 12_347, 8));
}

#[test]
fn transfer_one_at_a_time() {
    test(|guest| to_peer(guest, guest.pick(256 << 10, 32 << 10), 4096, 1));
}

#[test]
fn transfer_from_the_peer() {
    test(|guest| {
        let length = size(guest);
        let chunk = 256 << 10;
        let mut connection = Connection::from_peer(guest)?;
        let (buffer, grant, remote_grant) = connection.local_buffer(guest, length)?;
        let source = connection
            .peer
            .create(Request::CreateBuffer { bytes: length })?;
        connection.peer.ask(Request::Fill {
            buffer: source,
            offset: 0,
            length,
            seed: 43,
        })?;
        let send = connection.peer.begin(Request::Send {
            buffer: source,
            grant: remote_grant,
            length,
            chunk,
            order_seed: 2,
            immediates: true,
            rounds: 1,
            depth: 16,
            limit_ms: limit_ms(guest, LONG),
        })?;
        let count = chunk_count(length, chunk)?;
        let receive = Receive {
            endpoint: &connection.endpoint,
            count: u64::from(count),
            depth: 16,
        };
        let mut channel = Channel::builder().entries(16).build(&connection.context)?;
        let received = receive.run(&mut channel, &AtomicU64::new(0), guest.limit(LONG))?;
        received.complete(count, 1)?;
        connection.peer.sent(send)?.all_ok()?;

        let Err(buffer) = buffer.freeze() else {
            bail!("frozen under a live grant")
        };
        grant.revoke();
        let Ok(frozen) = buffer.freeze() else {
            bail!("not frozen after the grant ended")
        };
        let wrong = pattern::mismatch(43, 0, &frozen);
        ensure!(wrong.is_none(), "byte {wrong:?} is wrong");
        Ok(())
    });
}

#[test]
fn transfer_in_both_directions_at_once() {
    test(|guest| {
        let length = guest.pick(8 * MIB, 256 << 10);
        let mut connection = Connection::to_peer(guest)?;
        let (remote, grant) = connection.remote_buffer(guest, length)?;
        let (here, _local_grant, remote_grant) = connection.local_buffer(guest, length)?;
        let there = connection
            .peer
            .create(Request::CreateBuffer { bytes: length })?;
        connection.peer.ask(Request::Fill {
            buffer: there,
            offset: 0,
            length,
            seed: 44,
        })?;
        let pending = connection.peer.begin(Request::Send {
            buffer: there,
            grant: remote_grant,
            length,
            chunk: 64 << 10,
            order_seed: 3,
            immediates: false,
            rounds: 2,
            depth: 16,
            limit_ms: limit_ms(guest, LONG),
        })?;
        let buffer = Buffer::create(&connection.context, length, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, length, 45, 0);
        let mut channel = Channel::builder().entries(16).build(&connection.context)?;
        let send = Send {
            buffer: &buffer,
            grant: &grant,
            length,
            chunk: 64 << 10,
            order_seed: 4,
            immediates: false,
            rounds: 2,
        };
        send.run(&mut channel, &AtomicU64::new(0), guest.limit(LONG))?
            .all_ok()?;
        connection.peer.sent(pending)?.all_ok()?;
        connection.peer.verify(remote, length, 45)?;
        let wrong = pattern::mismatch_in_memory(&here, 0, length, 44, 0);
        ensure!(wrong.is_none(), "byte {wrong:?} from the peer is wrong");
        Ok(())
    });
}

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
fn transfer_waits_for_credits() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let (_, grant) = connection.remote_buffer(guest, PAGE)?;
        let buffer = Buffer::create(&connection.context, PAGE, Placement::Any)?;
        let mut channel = Channel::builder().entries(16).build(&connection.context)?;
        for i in 0..8 {
            channel
                .push(Entry::write_imm(buffer.range(0, 64), grant.at(0), i).user_data(i.into()))?;
        }
        let done = channel.submit_and_wait(1, Duration::from_millis(300))?;
        ensure!(
            done.entries == 8 && done.available == 0,
            "without a receive: {done:?}"
        );
        let info = connection.endpoint.query()?;
        ensure!(info.in_flight == 8 && info.send_credits == 0, "{info:?}");

        let endpoint = connection.remote;
        let receives = |connection: &mut Connection, count| -> Result<Vec<u32>> {
            connection
                .peer
                .ask(Request::PostReceives { endpoint, count })?;
            let limit_ms = connection.peer.limit_ms();
            match connection
                .peer
                .ask(Request::WaitReceives { count, limit_ms })?
            {
                Reply::Received(received) => Ok(received.immediates),
                other => bail!("{other:?}"),
            }
        };
        ensure!(
            receives(&mut connection, 3)? == [0, 1, 2],
            "the first three, in order"
        );
        for (i, done) in complete(&mut channel, 3, guest.limit(10))?
            .into_iter()
            .enumerate()
        {
            ensure!(done.is_ok() && done.user_data() == i as u64, "{done:?}");
        }
        let done = channel.wait(1, Duration::from_millis(300))?;
        ensure!(done.available == 0, "a fourth without a receive");
        ensure!(
            receives(&mut connection, 5)? == [3, 4, 5, 6, 7],
            "the rest, in order"
        );
        for done in complete(&mut channel, 5, guest.limit(10))? {
            ensure!(done.is_ok(), "{done:?}");
        }
        Ok(())
    });
}

#[test]
fn transfer_plain_writes_pass_without_credits() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let (remote, grant) = connection.remote_buffer(guest, PAGE)?;
        let buffer = Buffer::create(&connection.context, PAGE, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, PAGE, 52, 0);
        let mut channel = Channel::builder().entries(4).build(&connection.context)?;
        channel.push(Entry::write(buffer.range(0, 4096), grant.at(0)).trace_id(99))?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(done.result()? == PAGE && done.trace_id() == 99, "{done:?}");
        ensure!(done.latency() > Duration::ZERO, "{done:?}");
        connection.peer.verify(remote, PAGE, 52)
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
fn transfer_outlives_the_handle_of_its_buffer() {
    test(|guest| {
        let length = guest.pick(4 * MIB, 256 << 10);
        let mut connection = Connection::to_peer(guest)?;
        let (remote, grant) = connection.remote_buffer(guest, length)?;
        let buffer = Buffer::create(&connection.context, length, Placement::Any)?;
        pattern::fill_memory(&buffer, 0, length, 62, 0);
        let mut channel = Channel::builder().entries(64).build(&connection.context)?;
        let chunk = length / 64;
        for i in 0..64 {
            let source = buffer.range(i * chunk, u32::try_from(chunk)?);
            channel.push(Entry::write(source, grant.at(i * chunk)))?;
        }
        let done = channel.submit()?;
        ensure!(done.entries == 64, "{done:?}");
        drop(buffer);
        for done in complete(&mut channel, 64, guest.limit(60))? {
            done.result()?;
        }
        connection.peer.verify(remote, length, 62)
    });
}

#[test]
fn transfer_registrations_stay_warm_and_go_with_the_buffer() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let (_, grant) = connection.remote_buffer(guest, PAGE)?;
        let buffer = Buffer::create(&connection.context, PAGE, Placement::Any)?;
        ensure!(
            buffer.residency()?.regions == 0,
            "registered before its first use"
        );
        let mut channel = Channel::builder().entries(4).build(&connection.context)?;
        for _ in 0..3 {
            channel.push(Entry::write(buffer.range(0, 64), grant.at(0)))?;
            complete(&mut channel, 1, guest.limit(10))?[0].result()?;
            let regions = buffer.residency()?.regions;
            ensure!(regions <= 1, "{regions} registrations on one device");
        }
        let gone = poll::until(guest.limit(5), || {
            Ok((connection.endpoint.query()?.in_flight == 0).then_some(()))
        })?;
        ensure!(gone.is_some(), "operations stay in flight");
        Ok(())
    });
}
