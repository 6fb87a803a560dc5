// SPDX-License-Identifier: MIT OR Apache-2.0

//! A slow link under a writer that always has more: messages do not wait behind the posted data. So the peer is not
//! taken for dead, a busy grant is taken back with the connection alive, and a death is reported at once.

use std::time::{Duration, Instant};

use dmaplane::{Buffer, Channel, EndpointState, Entry, GrantTerms, LocalGrant, Placement, State};
use dmaplane_guest_tests::{Connection, complete};
use dmaplane_testkit::guest::Topology;
use dmaplane_testkit::netem::Netem;
use dmaplane_testkit::peer::client::{Pending, unexpected};
use dmaplane_testkit::peer::protocol::{Id, Reply, Request};
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, ensure, netns, poll, test};

/// Bytes of each WRITE: more than three seconds of the link.
const BYTES: u64 = 4 << 20;
/// What the link moves.
const RATE: &str = "rate 10mbit";
/// WRITEs under way.
const DEPTH: u32 = 16;
const SEED: u64 = 99;

/// The peer writes into a grant of this side's without an end.
struct Writer {
    connection: Connection,
    mine: Buffer,
    source: Id,
}

impl Writer {
    fn new(guest: &Guest) -> Result<Self> {
        let mut connection = Connection::from_peer(guest)?;
        let mine = Buffer::create(&connection.context, BYTES, Placement::Any)?;
        let source = Request::CreateBuffer { bytes: BYTES };
        let source = connection.peer.create(source)?;
        connection.peer.ask(Request::Fill {
            buffer: source,
            offset: 0,
            length: BYTES,
            seed: SEED,
        })?;
        Ok(Self {
            connection,
            mine,
            source,
        })
    }

    /// Grants, and waits until the peer's first bytes are there.
    fn begin(&mut self, guest: &Guest) -> Result<(LocalGrant, Pending)> {
        self.mine.write_at(0, &[0; 64]);
        let Connection {
            endpoint,
            remote,
            peer,
            ..
        } = &mut self.connection;
        let terms = GrantTerms::default();
        let own = endpoint.grant_on(&self.mine, 0..BYTES, &terms, guest.limit(10))?;
        let (grant, _) = peer.wait_grant(*remote)?;
        let writing = peer.begin(Request::Send {
            buffer: self.source,
            grant,
            length: BYTES,
            chunk: u32::try_from(BYTES)?,
            order_seed: 1,
            immediates: false,
            rounds: u64::MAX,
            depth: DEPTH,
            limit_ms: u64::MAX,
        })?;
        let begun = poll::until(guest.limit(20), || {
            Ok((self.mine.to_vec(0..64) != [0; 64]).then_some(()))
        })?;
        begun.context("nothing is written")?;
        Ok((own, writing))
    }
}

/// Has a writer whose link is slow while `work` runs.
fn on_a_slow_link(
    guest: &Guest,
    work: impl FnOnce(&Guest, &mut Writer) -> Result<()>,
) -> Result<()> {
    let here = [Topology::Numa2, Topology::Numa4];
    guest.require(&here, "the peer's interface must be in reach")?;
    let mut writer = Writer::new(guest)?;
    let slow = netns::inside("dp1", || Netem::on(&Link::only()?, RATE))??;
    let done = work(guest, &mut writer);
    netns::inside("dp1", || drop(slow))?;
    done
}

#[test]
fn network_slow_link_keeps_no_message_back() {
    test(|guest| on_a_slow_link(guest, slowly));
}

fn slowly(guest: &Guest, writer: &mut Writer) -> Result<()> {
    let mut channel = Channel::builder()
        .entries(8)
        .build(&writer.connection.context)?;
    // Longer than a silent peer lives: it sends heartbeats all the while, which are heard.
    let (own, writing) = writer.begin(guest)?;
    let endpoint = &writer.connection.endpoint;
    let long = Duration::from_secs(12);
    channel.push(Entry::watch(endpoint, 0, 0, 1).time_limit(long))?;
    let done = complete(&mut channel, 1, long + guest.limit(5))?[0];
    ensure!(done.state() == State::Timeout, "{done:?}");
    let state = endpoint.query()?.state;
    ensure!(state == EndpointState::Up, "{state:?}");

    // Taken back in mid-write, by the peer's answer and not by the end of the connection.
    let begun = Instant::now();
    drop(own);
    let took = begun.elapsed();
    println!("taken back after {took:?}");
    ensure!(took < guest.limit(1), "it was taken back after {took:?}");
    let state = endpoint.query()?.state;
    ensure!(state == EndpointState::Up, "{state:?}");
    match writer.connection.peer.finish(writing) {
        // It says how its operations ended, or fails with the first of them.
        Ok(Reply::Sent(_)) | Err(_) => {}
        Ok(other) => return Err(unexpected(&other)),
    }
    let remote = writer.connection.remote;
    let there = writer
        .connection
        .peer
        .ask(Request::Query { endpoint: remote })?;
    let up = matches!(there, Reply::Endpoint { up: true, .. });
    ensure!(up, "{there:?}");

    // The death of a writer is reported at once.
    let (_own, _writing) = writer.begin(guest)?;
    channel.push(Entry::watch(&writer.connection.endpoint, 0, 0, 1))?;
    channel.submit()?;
    let killed = writer.connection.peer.start_kill()?;
    let done = complete(&mut channel, 1, guest.limit(20))?[0];
    let took = killed.elapsed();
    println!("its death was reported after {took:?}");
    ensure!(done.state() == State::PeerDead, "{done:?}");
    ensure!(took < guest.limit(1) / 2, "it was reported after {took:?}");
    Ok(())
}

/// Bytes of the small WRITE that follows an abandoned one.
const SMALL: u32 = 64;

/// The peer announces a length, and its grant is revoked between two steps: what was announced will not come, and must
/// count neither as the next one's length nor against the receives.
#[test]
fn network_slow_link_keeps_lengths_and_credits_apart() {
    test(|guest| on_a_slow_link(guest, given_up_between_steps));
}

fn given_up_between_steps(guest: &Guest, writer: &mut Writer) -> Result<()> {
    let mut channel = Channel::builder()
        .entries(8)
        .build(&writer.connection.context)?;
    let write = |grant, source, length: u64, rounds| Request::Send {
        buffer: source,
        grant,
        length,
        chunk: length as u32,
        order_seed: 1,
        immediates: rounds == 1,
        rounds,
        depth: 1,
        limit_ms: 120_000,
    };
    let terms = GrantTerms::default();
    let limit = guest.limit(10);
    // From the first ones the driver learns the link's speed: later ones go in steps.
    let Writer {
        connection,
        mine,
        source,
    } = writer;
    let own = connection
        .endpoint
        .grant_on(mine, 0..BYTES, &terms, limit)?;
    let (grant, _) = connection.peer.wait_grant(connection.remote)?;
    connection.peer.ask(write(grant, *source, BYTES, 2))?;
    drop(own);
    // More rounds than there are receives at a time: so a lost credit would be noticed.
    for round in 0..4 {
        channel.push(Entry::recv(&connection.endpoint))?;
        channel.submit()?;
        mine.write_at(0, &[0; 64]);
        let own = connection
            .endpoint
            .grant_on(mine, 0..BYTES, &terms, limit)?;
        let (grant, _) = connection.peer.wait_grant(connection.remote)?;
        let writing = connection.peer.begin(write(grant, *source, BYTES, 1))?;
        let begun = poll::until(guest.limit(20), || {
            Ok((mine.to_vec(0..64) != [0; 64]).then_some(()))
        })?;
        begun.context("nothing is written")?;
        let begun = Instant::now();
        drop(own);
        let took = begun.elapsed();
        ensure!(took < guest.limit(1), "it was taken back after {took:?}");
        match connection.peer.finish(writing) {
            Ok(Reply::Sent(_)) | Err(_) => {}
            Ok(other) => return Err(unexpected(&other)),
        }
        let _own = connection
            .endpoint
            .grant_on(mine, 0..BYTES, &terms, limit)?;
        let (grant, _) = connection.peer.wait_grant(connection.remote)?;
        connection
            .peer
            .ask(write(grant, *source, SMALL.into(), 1))?;
        let came = complete(&mut channel, 1, limit)?[0];
        came.result().with_context(|| format!("round {round}"))?;
        ensure!(came.length() == u64::from(SMALL), "round {round}: {came:?}");
    }
    Ok(())
}
