// SPDX-License-Identifier: MIT OR Apache-2.0

//! Things that happen at the same time: arrivals and a close, a backlog and a peer that gives up in it, grants of
//! several messages.

use std::time::Duration;

use dmaplane::{
    Buffer, Channel, Context, EndpointState, Entry, Errno, Listener, Placement, Rights,
};
use dmaplane_guest_tests::{Connection, complete, refusal};
use dmaplane_testkit::peer::protocol::Request;
use dmaplane_testkit::{Peer, Result, Skip, ensure, test};

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

#[test]
fn race_arrivals_come_before_the_close() {
    test(|guest| {
        const COUNT: u32 = 64;
        for round in 0..guest.pick(30, 3) {
            let mut connection = Connection::from_peer(guest)?;
            let length = u64::from(COUNT) * PAGE;
            let (_buffer, _grant, remote) = connection.local_buffer(guest, length)?;
            let source = connection
                .peer
                .create(Request::CreateBuffer { bytes: length })?;
            let mut channel = Channel::builder()
                .entries(COUNT)
                .build(&connection.context)?;
            for _ in 0..COUNT {
                channel.push(Entry::recv(&connection.endpoint))?;
            }
            channel.submit()?;
            let limit_ms = connection.peer.limit_ms();
            let sending = connection.peer.begin(Request::Send {
                buffer: source,
                grant: remote,
                length,
                chunk: u32::try_from(PAGE)?,
                order_seed: round,
                immediates: true,
                rounds: 1,
                depth: 64,
                limit_ms,
            })?;
            connection.peer.sent(sending)?.all_ok()?;
            // The peer has all its completions: everything is here, though this side may not have looked yet.
            let id = connection.remote;
            connection.peer.ask(Request::Close { id })?;
            for done in complete(&mut channel, COUNT, guest.limit(10))? {
                ensure!(done.is_ok(), "round {round}: {done:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn race_accept_passes_over_who_gave_up() {
    test(|guest| {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let listener = Listener::bind(&context, guest.local_any_port(), 4)?;
        let address = listener.local();
        let connect = |limit_ms| Request::Connect {
            address,
            recv_depth: 16,
            limit_ms,
        };
        // Nobody accepts it, so it gives up and stays in the backlog as a dead request.
        let gave_up = peer.begin(connect(500))?;
        ensure!(peer.finish(gave_up).is_err(), "connected without an accept");
        let mut errno = refusal(listener.accept(16, guest.limit(1)))?;
        if errno == Errno::CONNABORTED {
            // On a busy machine the notice that it gave up may arrive while it is accepted. Once: it is the only one.
            errno = refusal(listener.accept(16, guest.limit(1)))?;
        }
        ensure!(
            errno == Errno::TIMEDOUT,
            "a dead request was accepted: {errno}"
        );
        let waiting = peer.begin(connect(peer.limit_ms()))?;
        let endpoint = listener.accept(16, guest.limit(20))?;
        peer.finish(waiting)?;
        ensure!(
            endpoint.query()?.state == EndpointState::Up,
            "the second is up"
        );
        Ok(())
    });
}

#[test]
fn race_grants_of_several_messages_at_once() {
    test(|guest| {
        if guest.pick(false, true) {
            return Err(Skip::new("a checking kernel takes minutes to register so much").into());
        }
        let mut connection = Connection::to_peer(guest)?;
        let limit = guest.limit(20);
        // Several messages for each of the large ones: a message holds the keys of 96 MiB.
        let large = Buffer::create(&connection.context, 100 * MIB, Placement::Any)?;
        let small = Buffer::create(&connection.context, PAGE, Placement::Any)?;
        let endpoint = &connection.endpoint;
        let grants = std::thread::scope(|scope| -> Result<Vec<_>> {
            let give = |buffer, label| {
                endpoint.grant(buffer, 0..Buffer::len(buffer), Rights::WRITE, label, limit)
            };
            let threads = [(&large, 1), (&small, 2), (&large, 3), (&small, 4)]
                .map(|(buffer, label)| scope.spawn(move || give(buffer, label)));
            let mut grants = Vec::new();
            for thread in threads {
                let given = thread
                    .join()
                    .map_err(|_| dmaplane_testkit::anyhow!("a thread panicked"))?;
                grants.push(given?);
            }
            Ok(grants)
        })?;
        for _ in 0..4 {
            let (_, length) = connection.peer.wait_grant(connection.remote)?;
            ensure!(
                length == PAGE || length == 100 * MIB,
                "{length} bytes granted"
            );
        }
        ensure!(grants.len() == 4, "four grants were given");
        ensure!(
            connection.endpoint.query()?.state == EndpointState::Up,
            "the connection ended"
        );
        let errno = refusal(connection.endpoint.wait_grant(Duration::from_millis(1)))?;
        ensure!(
            errno == Errno::TIMEDOUT,
            "a grant that nobody gave: {errno}"
        );
        Ok(())
    });
}
