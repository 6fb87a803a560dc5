// SPDX-License-Identifier: MIT OR Apache-2.0

//! Transfers: every byte where it belongs, every operation completed once.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use dmaplane::{Buffer, Channel, Entry, Placement};
use dmaplane_guest_tests::{Connection, complete};
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::transfer::{Receive, Send, chunk_count};
use dmaplane_testkit::{Guest, Result, bail, ensure, pattern, poll, test};

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
