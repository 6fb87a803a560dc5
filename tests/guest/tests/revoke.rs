// SPDX-License-Identifier: MIT OR Apache-2.0

//! Taking grants back: the peer is notified, and the connection lives on.

use std::time::Duration;

use dmaplane::{Buffer, Channel, EndpointState, Entry, GrantTerms, Placement, State};
use dmaplane_guest_tests::{Connection, Loopback, complete, patient_answers, patient_wills};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::peer::protocol::{Id, Request};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, anyhow, ensure, poll, test};
use dmaplane_uapi as abi;

/// What the driver shows of grants.
const GRANTS: &str = "/sys/kernel/debug/dmaplane/state/grants";

const PAGE: u64 = 4096;
const CHUNK: u32 = 4096;
const DEPTH: u32 = 8;

/// An endless stream of the peer's into a grant of this side's, which ends with the grant.
fn stream(guest: &Guest, source: Id, grant: Id, length: u64) -> Request {
    Request::Send {
        buffer: source,
        grant,
        length,
        chunk: CHUNK,
        order_seed: 5,
        immediates: false,
        rounds: u64::MAX,
        depth: DEPTH,
        limit_ms: u64::try_from(guest.limit(60).as_millis()).unwrap_or(u64::MAX),
    }
}

fn is_up(connection: &Connection) -> Result<bool> {
    Ok(connection.endpoint.query()?.state == EndpointState::Up)
}

#[test]
fn revoke_ends_operations_that_wait_for_credits() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let remote = connection
            .peer
            .create(Request::CreateBuffer { bytes: PAGE })?;
        let remote_grant = connection.grant_remote(remote, 0, PAGE, 0)?;
        let grant = connection.endpoint.wait_grant(guest.limit(10))?;
        let buffer = Buffer::create(&connection.context, PAGE, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        // Nobody posts receives: all of them wait.
        for imm in 0..8 {
            channel.push(Entry::write_imm(buffer.range(0, 64), grant.at(0), imm))?;
        }
        channel.submit()?;
        connection.peer.ask(Request::Close { id: remote_grant })?;
        for done in complete(&mut channel, 8, guest.limit(10))? {
            ensure!(done.state() == State::Revoked, "{done:?}");
        }
        // Later operations end the same way at once.
        channel.push(Entry::write(buffer.range(0, 64), grant.at(0)))?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(done.state() == State::Revoked, "{done:?}");
        ensure!(is_up(&connection)?, "the connection ended");
        Ok(())
    });
}

#[test]
fn revoke_many_grants_one_after_the_other() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        for round in 0..guest.pick(500, 50) {
            let (_buffer, grant, remote) = connection
                .local_buffer(guest, PAGE)
                .with_context(|| format!("round {round}"))?;
            drop(grant);
            connection.peer.ask(Request::Close { id: remote })?;
        }
        ensure!(is_up(&connection)?, "the connection ended");
        Ok(())
    });
}

#[test]
fn revoke_both_sides_at_once() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let length = 16 * PAGE;
        for round in 0..guest.pick(50, 5) {
            let there = connection
                .peer
                .create(Request::CreateBuffer { bytes: length })?;
            let there_grant = connection.grant_remote(there, 0, length, 0)?;
            let there_handle = connection.endpoint.wait_grant(guest.limit(10))?;
            let (here, here_grant, remote) = connection.local_buffer(guest, length)?;
            let sending = connection
                .peer
                .begin(stream(guest, there, remote, length))?;
            let context = &connection.context;
            let mut channel = Channel::builder().entries(DEPTH).build(context)?;
            for _ in 0..DEPTH {
                channel.push(Entry::write(here.range(0, CHUNK), there_handle.at(0)))?;
            }
            channel.submit()?;
            let closing = connection.peer.begin(Request::Close { id: there_grant })?;
            drop(here_grant);
            for done in complete(&mut channel, DEPTH, guest.limit(10))? {
                let state = done.state();
                ensure!(
                    state == State::Ok || state == State::Revoked,
                    "{round}: {done:?}"
                );
            }
            connection.peer.sent(sending)?;
            connection.peer.finish(closing)?;
            ensure!(is_up(&connection)?, "round {round}: the connection ended");
        }
        Ok(())
    });
}

/// An endpoint that ends wakes whoever takes a grant back. The access used to end at once then, in mid-write, and the peer's
/// operations in an error, because the last will was still queued behind the data that this side was sending.
#[test]
fn revoke_lets_the_last_will_go_first() {
    const BYTES: u32 = 1 << 20;
    const WRITES: u32 = 16;
    test(|guest| {
        let _patient = (patient_wills(guest)?, patient_answers(guest)?);
        for round in 0..guest.pick(5, 2) {
            let Loopback {
                near,
                far,
                near_context,
                far_context,
            } = Loopback::new(guest)?;
            let (terms, limit) = (GrantTerms::default(), guest.limit(10));
            let near_memory = Buffer::create(&near_context, BYTES.into(), Placement::Any)?;
            let far_memory = Buffer::create(&far_context, BYTES.into(), Placement::Any)?;
            let own = near.grant_on(&near_memory, 0..BYTES.into(), &terms, limit)?;
            let _other = far.grant_on(&far_memory, 0..BYTES.into(), &terms, limit)?;
            let (given, taken) = (far.wait_grant(limit)?, near.wait_grant(limit)?);
            let mut here = Channel::builder().entries(64).build(&near_context)?;
            let mut there = Channel::builder().entries(64).build(&far_context)?;
            for _ in 0..WRITES {
                here.push(Entry::write(near_memory.range(0, BYTES), taken.at(0)))?;
                there.push(Entry::write(far_memory.range(0, BYTES), given.at(0)))?;
            }
            let late = DelayPoint::open(
                "message_received",
                Duration::from_millis(guest.pick(300, 1000)),
            )?;
            here.submit()?;
            there.submit()?;
            std::thread::scope(|scope| -> Result<()> {
                let taker = scope.spawn(|| drop(own));
                let asked = poll::until(limit, || {
                    let grants = std::fs::read_to_string(GRANTS)?;
                    Ok(grants.contains("state=waits-for-peer").then_some(()))
                })?;
                drop(near);
                taker.join().map_err(|_| anyhow!("a thread panicked"))?;
                asked.context("the grant is not taken back")
            })?;
            drop(late);
            for done in complete(&mut there, WRITES, guest.limit(20))? {
                let well = [State::Ok, State::Revoked, State::PeerDead].contains(&done.state());
                ensure!(well, "round {round}: {done:?}");
            }
            // The last will arrives in another queue than the one that flushes the operations under way.
            let end = poll::until(limit, || {
                let end = far.query()?.peer_end;
                Ok((end != abi::PEER_END_NONE).then_some(end))
            })?;
            ensure!(end == Some(abi::PEER_END_CLOSED), "{round}: {end:?}");
        }
        Ok(())
    });
}
