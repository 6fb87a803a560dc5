// SPDX-License-Identifier: MIT OR Apache-2.0

//! Connections: made, refused, timed out, ended.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use dmaplane::{
    Channel, ConnectOptions, Context, Endpoint, EndpointState, Entry, Errno, Listener, State,
};
use dmaplane_guest_tests::{Connection, complete, patient_wills, refusal};
use dmaplane_testkit::peer::protocol::{Reply, Request};
use dmaplane_testkit::{Guest, Peer, Result, ensure, poll, test};

fn options(guest: &Guest, seconds: u64) -> ConnectOptions {
    ConnectOptions {
        timeout: guest.limit(seconds),
        ..Default::default()
    }
}

/// Waits until the endpoint is down and gives the reason.
fn down(guest: &Guest, endpoint: &Endpoint) -> Result<Errno> {
    let reason = poll::until(guest.limit(10), || {
        Ok(match endpoint.query()?.state {
            EndpointState::Up => None,
            EndpointState::Down(errno) => Some(errno),
        })
    })?;
    reason.ok_or_else(|| dmaplane_testkit::anyhow!("the endpoint stays up"))
}

#[test]
fn endpoint_connects_to_the_peer() {
    test(|guest| {
        let connection = Connection::to_peer(guest)?;
        let info = connection.endpoint.query()?;
        ensure!(info.state == EndpointState::Up, "{info:?}");
        ensure!(info.device.starts_with("rxe"), "{info:?}");
        ensure!(
            info.local.is_some_and(|a| a.ip() == guest.local),
            "{info:?}"
        );
        ensure!(info.peer.is_some_and(|a| a.ip() == guest.peer), "{info:?}");
        ensure!(
            info.in_flight == 0 && info.recv_posted == 0 && info.send_credits == 0,
            "{info:?}"
        );
        Ok(())
    });
}

#[test]
fn endpoint_accepts_from_the_peer() {
    test(|guest| {
        let mut connection = Connection::from_peer(guest)?;
        ensure!(
            connection.endpoint.peer().ip() == guest.peer,
            "{}",
            connection.endpoint.peer()
        );
        ensure!(connection.endpoint.query()?.state == EndpointState::Up);
        let Reply::Endpoint { up, .. } = connection.peer.ask(Request::Query {
            endpoint: connection.remote,
        })?
        else {
            dmaplane_testkit::bail!("no state");
        };
        ensure!(up, "the peer's side is down");
        Ok(())
    });
}

#[test]
fn endpoint_connects_over_ipv6() {
    test(|guest| {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let six = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2));
        let (listener, address) = peer.listen(SocketAddr::new(six, 0), 1)?;
        let limit_ms = peer.limit_ms();
        let accept = peer.begin(Request::Accept {
            listener,
            recv_depth: 8,
            limit_ms,
        })?;
        let endpoint = Endpoint::connect(&context, address, &options(guest, 10))?;
        peer.finish(accept)?;
        let info = endpoint.query()?;
        ensure!(info.peer.is_some_and(|a| a.ip() == six), "{info:?}");
        Ok(())
    });
}

#[test]
fn endpoint_takes_posted_receives_as_credits() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        connection.post_remote(guest, 5)?;
        connection.post_remote(guest, 3)?;
        let Reply::Endpoint { recv_posted, .. } = connection.peer.ask(Request::Query {
            endpoint: connection.remote,
        })?
        else {
            dmaplane_testkit::bail!("no state");
        };
        ensure!(recv_posted == 8, "{recv_posted} receives");
        Ok(())
    });
}

#[test]
fn endpoint_refuses_more_receives_than_its_depth() {
    test(|guest| {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let (listener, address) = peer.listen(guest.peer_any_port(), 1)?;
        let limit_ms = peer.limit_ms();
        let accept = peer.begin(Request::Accept {
            listener,
            recv_depth: 8,
            limit_ms,
        })?;
        let options = ConnectOptions {
            recv_depth: 4,
            ..options(guest, 10)
        };
        let endpoint = Endpoint::connect(&context, address, &options)?;
        peer.finish(accept)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for i in 0..5 {
            channel.push(Entry::recv(&endpoint).user_data(i))?;
        }
        let done = complete(&mut channel, 1, guest.limit(5))?[0];
        ensure!(
            done.user_data() == 4 && done.state() == State::Error,
            "{done:?}"
        );
        ensure!(
            endpoint.query()?.recv_posted == 4,
            "{:?}",
            endpoint.query()?
        );
        Ok(())
    });
}

#[test]
fn endpoint_many_one_after_the_other() {
    test(|guest| {
        for _ in 0..guest.pick(20, 3) {
            let connection = Connection::to_peer(guest)?;
            ensure!(connection.endpoint.query()?.state == EndpointState::Up);
        }
        Ok(())
    });
}

#[test]
fn endpoint_many_at_once() {
    test(|guest| {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let (listener, address) = peer.listen(guest.peer_any_port(), 16)?;
        let mut endpoints = Vec::new();
        for _ in 0..guest.pick(16, 4) {
            let limit_ms = peer.limit_ms();
            let accept = peer.begin(Request::Accept {
                listener,
                recv_depth: 8,
                limit_ms,
            })?;
            endpoints.push(Endpoint::connect(&context, address, &options(guest, 10))?);
            peer.finish(accept)?;
        }
        for endpoint in &endpoints {
            ensure!(endpoint.query()?.state == EndpointState::Up);
        }
        Ok(())
    });
}

#[test]
fn endpoint_connection_is_refused() {
    test(|guest| {
        let context = Context::open()?;
        let nobody = SocketAddr::new(guest.peer, 9);
        let start = Instant::now();
        let errno = refusal(Endpoint::connect(&context, nobody, &options(guest, 20)))?;
        ensure!(errno == Errno::CONNREFUSED, "{errno}");
        ensure!(
            start.elapsed() < guest.limit(5),
            "it took {:?}",
            start.elapsed()
        );
        Ok(())
    });
}

#[test]
fn endpoint_wrong_addresses() {
    test(|guest| {
        let context = Context::open()?;
        let silent: SocketAddr = "10.77.0.99:7471".parse()?;
        let start = Instant::now();
        let errno = refusal(Endpoint::connect(&context, silent, &options(guest, 20)))?;
        ensure!(
            errno == Errno::HOSTUNREACH,
            "an address that does not answer: {errno}"
        );
        ensure!(
            start.elapsed() < guest.limit(15),
            "it took {:?}",
            start.elapsed()
        );

        let elsewhere: SocketAddr = "192.0.2.1:7471".parse()?;
        let errno = refusal(Endpoint::connect(&context, elsewhere, &options(guest, 20)))?;
        ensure!(
            errno == Errno::ADDRNOTAVAIL,
            "an address without a route: {errno}"
        );
        Ok(())
    });
}

#[test]
fn endpoint_connect_gives_up_when_nobody_accepts() {
    test(|guest| {
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let (_, address) = peer.listen(guest.peer_any_port(), 4)?;
        let options = options(guest, 1);
        let start = Instant::now();
        let errno = refusal(Endpoint::connect(&context, address, &options))?;
        ensure!(errno == Errno::TIMEDOUT, "{errno}");
        ensure!(
            start.elapsed() >= options.timeout,
            "it took {:?} only",
            start.elapsed()
        );
        ensure!(
            start.elapsed() < options.timeout + guest.limit(2),
            "it took {:?}",
            start.elapsed()
        );
        Ok(())
    });
}

#[test]
fn endpoint_bad_depths() {
    test(|guest| {
        let context = Context::open()?;
        let remote = SocketAddr::new(guest.peer, 9);
        let most = context.limits().max_recv_depth;
        let listener = Listener::bind(&context, guest.local_any_port(), 1)?;
        for recv_depth in [0, most + 1, u32::MAX] {
            let options = ConnectOptions {
                recv_depth,
                ..Default::default()
            };
            let errno = refusal(Endpoint::connect(&context, remote, &options))?;
            ensure!(errno == Errno::INVAL, "connect with {recv_depth}: {errno}");
            let errno = refusal(listener.accept(recv_depth, Duration::ZERO))?;
            ensure!(errno == Errno::INVAL, "accept with {recv_depth}: {errno}");
        }
        Ok(())
    });
}

#[test]
fn endpoint_listen_refusals() {
    test(|guest| {
        let context = Context::open()?;
        let listener = Listener::bind(&context, guest.local_any_port(), 1)?;
        ensure!(
            listener.local().port() != 0,
            "the chosen port is not reported"
        );
        let errno = refusal(Listener::bind(&context, listener.local(), 1))?;
        ensure!(errno == Errno::ADDRINUSE, "the same address again: {errno}");
        let address = listener.local();
        drop(listener);
        Listener::bind(&context, address, 1)?;

        let foreign = SocketAddr::new(guest.peer, 0);
        let errno = refusal(Listener::bind(&context, foreign, 1))?;
        ensure!(
            errno == Errno::ADDRNOTAVAIL,
            "another machine's address: {errno}"
        );
        for backlog in [0, 129, u32::MAX] {
            let errno = refusal(Listener::bind(&context, guest.local_any_port(), backlog))?;
            ensure!(errno == Errno::INVAL, "a backlog of {backlog}: {errno}");
        }
        Ok(())
    });
}

#[test]
fn endpoint_accept_honours_its_time_limit() {
    test(|guest| {
        let context = Context::open()?;
        let listener = Listener::bind(&context, guest.local_any_port(), 1)?;
        for limit in [Duration::ZERO, Duration::from_millis(150)] {
            let start = Instant::now();
            let errno = refusal(listener.accept(8, limit))?;
            let took = start.elapsed();
            ensure!(errno == Errno::TIMEDOUT, "{errno}");
            ensure!(
                took >= limit && took < limit + guest.limit(2),
                "{limit:?} took {took:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn endpoint_sees_the_peer_close() {
    test(|guest| {
        let mut connection = Connection::to_peer(guest)?;
        let mut channel = Channel::builder().entries(8).build(&connection.context)?;
        for i in 0..4 {
            channel.push(Entry::recv(&connection.endpoint).user_data(i))?;
        }
        channel.submit()?;
        connection.peer.ask(Request::Close {
            id: connection.remote,
        })?;
        let errno = down(guest, &connection.endpoint)?;
        ensure!(errno == Errno::CONNRESET, "{errno}");
        for done in complete(&mut channel, 4, guest.limit(5))? {
            ensure!(done.state() == State::PeerDead, "{done:?}");
        }
        let errno = refusal(connection.endpoint.wait_grant(guest.limit(5)))?;
        ensure!(errno == Errno::NOTCONN, "waiting for a grant: {errno}");
        channel.push(Entry::recv(&connection.endpoint))?;
        let done = complete(&mut channel, 1, guest.limit(5))?[0];
        ensure!(!done.is_ok(), "a receive on a dead endpoint: {done:?}");
        Ok(())
    });
}

#[test]
fn endpoint_sees_the_peer_die() {
    test(|guest| {
        let _patient = patient_wills(guest)?;
        let Connection {
            endpoint,
            context,
            peer,
            ..
        } = Connection::from_peer(guest)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        channel.push(Entry::recv(&endpoint))?;
        channel.submit()?;
        let start = Instant::now();
        peer.kill()?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(done.state() == State::PeerDead, "{done:?}");
        let errno = down(guest, &endpoint)?;
        ensure!(errno == Errno::OWNERDEAD, "{errno}");
        ensure!(
            start.elapsed() < guest.limit(5),
            "it took {:?}",
            start.elapsed()
        );
        Ok(())
    });
}

#[test]
fn endpoint_close_cancels_what_is_open() {
    test(|guest| {
        let Connection {
            endpoint,
            context,
            peer: _peer,
            ..
        } = Connection::to_peer(guest)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for i in 0..6 {
            channel.push(Entry::recv(&endpoint).user_data(i))?;
        }
        channel.submit()?;
        drop(endpoint);
        for done in complete(&mut channel, 6, guest.limit(5))? {
            ensure!(done.state() == State::Canceled, "{done:?}");
        }
        Ok(())
    });
}
