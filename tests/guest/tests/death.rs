// SPDX-License-Identifier: MIT OR Apache-2.0

//! Death in mid-transfer: of the peer, of a device, and a module that is in use. The frame of each
//! test proves that the gauges return to where they were, those of the peer's machine too.

use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, EndpointState, Entry, Errno, GrantTerms,
    Listener, Placement, Rights, State,
};
use dmaplane_guest_tests::{Connection, complete, ended_by_death, patient_wills, under_way};
use dmaplane_testkit::netem::Netem;
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::rdma::Link;
use dmaplane_testkit::transfer::{Receive, Send, Tally};
use dmaplane_testkit::{Error, Guest, Peer, Result, anyhow, bail, ensure, module, poll, test};

/// Bytes that a stream goes over again and again.
const BYTES: u64 = 1 << 20;
const CHUNK: u32 = 64 << 10;
const DEPTH: u32 = 16;

/// Seconds until a survivor must know, before scaling.
const SOON: u64 = 15;

/// The streams of these tests have no end.
const FOREVER: Duration = Duration::MAX;

/// Streams to the peer without end, runs `fault` while that is under way, and returns the stream's
/// tally. The survivor must know within seconds.
fn stream_and<T>(
    guest: &Guest,
    connection: &mut Connection,
    immediates: bool,
    fault: impl FnOnce(&mut Connection) -> Result<T>,
) -> Result<(Tally, T)> {
    let (_, grant) = connection.remote_buffer(guest, BYTES)?;
    let buffer = Buffer::create(&connection.context, BYTES, Placement::Any)?;
    let mut channel = Channel::builder()
        .entries(DEPTH)
        .build(&connection.context)?;
    if immediates {
        // Its answer never comes, or reports the same from the other side.
        let _ = connection.peer.begin(Request::Receive {
            endpoint: connection.remote,
            count: u64::MAX,
            depth: DEPTH,
            limit_ms: u64::MAX,
        })?;
    }
    let progress = AtomicU64::new(0);
    thread::scope(|scope| {
        let stream = scope.spawn(|| {
            let send = Send {
                buffer: &buffer,
                grant: &grant,
                length: BYTES,
                chunk: CHUNK,
                order_seed: 9,
                immediates,
                rounds: u64::MAX,
            };
            let tally = send.run(&mut channel, &progress, FOREVER)?;
            Ok::<_, Error>((tally, Instant::now()))
        });
        let started = under_way(&progress, u64::from(DEPTH), guest.limit(60));
        let fault_at = Instant::now();
        // In any case, because only the fault ends the stream.
        let result = fault(connection);
        let (tally, end) = stream
            .join()
            .map_err(|_| anyhow!("the stream panicked"))??;
        started?;
        let took = end.saturating_duration_since(fault_at);
        ensure!(took < guest.limit(SOON), "the survivor knew after {took:?}");
        Ok((tally, result?))
    })
}

/// A connection that works after all that.
fn works_again(guest: &Guest) -> Result<()> {
    let mut connection = Connection::to_peer(guest)?;
    let (remote, grant) = connection.remote_buffer(guest, BYTES)?;
    let buffer = Buffer::create(&connection.context, BYTES, Placement::Any)?;
    dmaplane_testkit::pattern::fill_memory(&buffer, 0, BYTES, 70, 0);
    let send = Send {
        buffer: &buffer,
        grant: &grant,
        length: BYTES,
        chunk: CHUNK,
        order_seed: 10,
        immediates: false,
        rounds: 1,
    };
    let mut channel = Channel::builder()
        .entries(DEPTH)
        .build(&connection.context)?;
    send.run(&mut channel, &AtomicU64::new(0), guest.limit(60))?
        .all_ok()?;
    connection.peer.verify(remote, BYTES, 70)
}

/// Kills the peer of a connection whose stream runs.
fn kill(connection: &mut Connection, guest: &Guest) -> Result<()> {
    // The fresh peer takes the place of the killed one, so that the connection stays whole.
    let fresh = Peer::start(guest)?;
    std::mem::replace(&mut connection.peer, fresh).kill()
}

#[test]
fn death_of_the_receiver() {
    test(|guest| {
        for _ in 0..guest.pick(3, 1) {
            let mut connection = Connection::to_peer(guest)?;
            let fault = |connection: &mut Connection| kill(connection, guest);
            let (tally, ()) = stream_and(guest, &mut connection, false, fault)?;
            ended_by_death(&tally)?;
        }
        Ok(())
    });
}

#[test]
fn death_of_the_receiver_of_immediates() {
    test(|guest| {
        for _ in 0..guest.pick(3, 1) {
            let mut connection = Connection::to_peer(guest)?;
            let fault = |connection: &mut Connection| kill(connection, guest);
            let (tally, ()) = stream_and(guest, &mut connection, true, fault)?;
            ended_by_death(&tally)?;
        }
        Ok(())
    });
}

#[test]
fn death_of_the_sender() {
    test(|guest| {
        for _ in 0..guest.pick(3, 1) {
            let mut connection = Connection::from_peer(guest)?;
            let (_buffer, _grant, remote_grant) = connection.local_buffer(guest, BYTES)?;
            let source = connection
                .peer
                .create(Request::CreateBuffer { bytes: BYTES })?;
            // Its answer never comes.
            let _ = connection.peer.begin(Request::Send {
                buffer: source,
                grant: remote_grant,
                length: BYTES,
                chunk: CHUNK,
                order_seed: 11,
                immediates: true,
                rounds: u64::MAX,
                depth: DEPTH,
                limit_ms: u64::MAX,
            })?;
            let Connection {
                endpoint,
                context,
                peer,
                ..
            } = connection;
            let mut channel = Channel::builder().entries(DEPTH).build(&context)?;
            let progress = AtomicU64::new(0);
            let received = thread::scope(|scope| {
                let stream = scope.spawn(|| {
                    let receive = Receive {
                        endpoint: &endpoint,
                        count: u64::MAX,
                        depth: DEPTH,
                    };
                    receive.run(&mut channel, &progress, FOREVER)
                });
                let started = under_way(&progress, u64::from(DEPTH), guest.limit(60));
                let killed_at = Instant::now();
                peer.kill()?;
                let received = stream
                    .join()
                    .map_err(|_| anyhow!("the stream panicked"))??;
                started?;
                let took = killed_at.elapsed();
                ensure!(took < guest.limit(SOON), "the survivor knew after {took:?}");
                Ok::<_, Error>(received)
            })?;
            ended_by_death(&received.tally)?;
        }
        Ok(())
    });
}

/// Where nothing may be posted behind a READ, its last will used to wait for all of the READ, and was lost.
#[test]
fn death_of_a_reader_is_reported_at_once() {
    const LONG: u32 = 4 << 20;
    test(|guest| {
        let _patience = patient_wills(guest)?;
        let mut connection = Connection::from_peer(guest)?;
        let memory = Buffer::create(&connection.context, LONG.into(), Placement::Any)?;
        let terms = GrantTerms {
            rights: Rights::READ,
            ..GrantTerms::default()
        };
        let (whole, limit) = (0..u64::from(LONG), guest.limit(10));
        let _own = connection
            .endpoint
            .grant_on(&memory, whole, &terms, limit)?;
        let (endpoint, limit_ms) = (connection.remote, connection.peer.limit_ms());
        let given = match connection
            .peer
            .ask(Request::WaitGrant { endpoint, limit_ms })?
        {
            Reply::Granted { id, .. } => id,
            other => bail!("{other:?}"),
        };
        let target = connection
            .peer
            .create(Request::CreateBuffer { bytes: LONG.into() })?;
        // The READ takes seconds.
        let slow = Netem::on(&Link::only()?, guest.pick("rate 8mbit", "rate 4mbit"))?;
        connection.peer.ask(Request::BeginRead {
            buffer: target,
            grant: given,
            bytes: LONG,
        })?;
        let Connection {
            endpoint,
            peer,
            context: _context,
            ..
        } = connection;
        peer.kill()?;
        let down = poll::until(guest.limit(SOON), || match endpoint.query()?.state {
            EndpointState::Up => Ok(None),
            EndpointState::Down(errno) => Ok(Some(errno)),
        })?;
        drop(slow);
        ensure!(down == Some(Errno::OWNERDEAD), "{down:?}");
        Ok(())
    });
}

#[test]
fn death_while_waiting_for_credits() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let (_, grant) = connection.remote_buffer(guest, 4096)?;
        let buffer = Buffer::create(&connection.context, 4096, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        for imm in 0..4 {
            channel.push(Entry::write_imm(buffer.range(0, 64), grant.at(0), imm))?;
        }
        let done = channel.submit()?;
        ensure!(done.entries == 4, "{done:?}");
        let Connection { endpoint, peer, .. } = connection;
        peer.kill()?;
        for done in complete(&mut channel, 4, guest.limit(SOON))? {
            ensure!(done.state() == State::PeerDead, "{done:?}");
        }
        ensure!(endpoint.query()?.state != EndpointState::Up);
        Ok(())
    });
}

#[test]
fn death_during_connect_and_accept() {
    test(|guest| {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let (_, address) = peer.listen(guest.peer_any_port(), 4)?;
        thread::scope(|scope| {
            let options = ConnectOptions {
                timeout: guest.limit(SOON),
                ..Default::default()
            };
            let connect = scope.spawn({
                let context = &context;
                move || Endpoint::connect(context, address, &options)
            });
            peer.kill()?;
            let result = connect.join().map_err(|_| anyhow!("connect panicked"))?;
            ensure!(result.is_err(), "connected to the dead");
            Ok(())
        })?;

        let listener = Listener::bind(&context, guest.local_any_port(), 4)?;
        let mut peer = Peer::start(guest)?;
        // Its answer never comes.
        let _ = peer.begin(Request::Connect {
            address: listener.local(),
            recv_depth: 8,
            limit_ms: u64::MAX,
        })?;
        peer.kill()?;
        // Killed before, while or after it asked: an endpoint may come, but it must end.
        if let Ok(endpoint) = listener.accept(8, guest.limit(2)) {
            let down = poll::until(guest.limit(SOON), || {
                Ok((endpoint.query()?.state != EndpointState::Up).then_some(()))
            })?;
            ensure!(down.is_some(), "connected to the dead");
        }
        Ok(())
    });
}

#[test]
fn death_of_the_own_rdma_device() {
    test(|guest| {
        for _ in 0..guest.pick(3, 1) {
            let link = Link::only()?;
            let mut connection = Connection::to_peer(guest)?;
            let result = stream_and(guest, &mut connection, false, |_| link.delete());
            let state = connection.endpoint.query()?.state;
            link.add()?;
            let (tally, ()) = result?;
            ended_by_death(&tally)?;
            ensure!(state == EndpointState::Down(Errno::NODEV), "{state:?}");
            drop(connection);
            works_again(guest)?;
        }
        Ok(())
    });
}

#[test]
fn death_of_the_peers_rdma_device() {
    test(|guest| {
        for _ in 0..guest.pick(3, 1) {
            let mut connection = Connection::to_peer(guest)?;
            let result = stream_and(guest, &mut connection, false, |connection| {
                connection.peer.ask(Request::RdmaLink { present: false })
            });
            let state = connection.endpoint.query()?.state;
            let there = connection.peer.ask(Request::Query {
                endpoint: connection.remote,
            })?;
            connection.peer.ask(Request::RdmaLink { present: true })?;
            let (tally, _) = result?;
            ended_by_death(&tally)?;
            ensure!(state != EndpointState::Up, "{state:?}");
            let nodev = Errno::NODEV.raw_os_error();
            ensure!(
                matches!(there, Reply::Endpoint { up: false, error, .. } if error == nodev),
                "the peer's side: {there:?}"
            );
            drop(connection);
            works_again(guest)?;
        }
        Ok(())
    });
}

#[test]
fn death_of_a_listeners_device() {
    test(|guest| {
        let link = Link::only()?;
        let context = Context::open()?;
        let listener = Listener::bind(&context, guest.local_any_port(), 4)?;
        thread::scope(|scope| {
            let accept = scope.spawn(|| listener.accept(8, guest.limit(60)));
            let deleted = link.delete();
            let start = Instant::now();
            let result = accept.join().map_err(|_| anyhow!("accept panicked"))?;
            let added = if deleted.is_ok() { link.add() } else { Ok(()) };
            deleted?;
            added?;
            ensure!(
                start.elapsed() < guest.limit(SOON),
                "it took {:?}",
                start.elapsed()
            );
            match result {
                Ok(endpoint) => bail!("a connection from nowhere: {endpoint:?}"),
                Err(error) => ensure!(error.errno() == Some(Errno::NODEV), "{error}"),
            }
            Ok(())
        })?;
        drop(listener);
        works_again(guest)
    });
}

#[test]
fn death_of_the_module_is_refused_while_in_use() {
    test(|guest| {
        let context = Context::open()?;
        let refused = |what: &str| -> Result<()> {
            let result = module::try_unload();
            ensure!(result == Err(Errno::AGAIN), "with {what}: {result:?}");
            Ok(())
        };
        refused("an open file")?;
        let mapping = Buffer::create(&context, 4096, Placement::Any)?.into_mapping();
        drop(context);
        refused("a mapping")?;
        drop(mapping);
        let mut connection = Connection::to_peer(guest)?;
        let (tally, ()) = stream_and(guest, &mut connection, false, |connection| {
            refused("a transfer")?;
            kill(connection, guest)
        })?;
        ended_by_death(&tally)?;
        ensure!(module::is_loaded());
        Ok(())
    });
}
