// SPDX-License-Identifier: MIT OR Apache-2.0

//! Very many objects, in one context and in many, and the end of all of them at once.

use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, DEFAULT_RECV_DEPTH, Endpoint, Entry, Placement, State,
};
use dmaplane_guest_tests::complete;
use dmaplane_testkit::peer::client::settle;
use dmaplane_testkit::peer::protocol::{Id, Request};
use dmaplane_testkit::processors::{Processors, Stopwatch};
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Guest, Peer, Result, anyhow, ensure, gauges, poll, test,
};

/// Connects once more to a listener of the peer's.
fn connect(
    guest: &Guest,
    context: &Context,
    peer: &mut Peer,
    (listener, address): (Id, std::net::SocketAddr),
) -> Result<Endpoint> {
    let limit_ms = peer.limit_ms();
    let accept = peer.begin(Request::Accept {
        listener,
        recv_depth: DEFAULT_RECV_DEPTH,
        limit_ms,
    })?;
    let options = ConnectOptions {
        timeout: guest.limit(10),
        ..Default::default()
    };
    let endpoint = Endpoint::connect(context, address, &options)?;
    peer.finish(accept)?;
    Ok(endpoint)
}

/// How long the end of many objects at once may wait, for timeouts or one object after the other. It is no limit for the
/// work that it takes, which `cargo xtask bench` measures.
fn at_once(guest: &Guest) -> Duration {
    guest.limit(1)
}

/// Readings of the machines that take part, the second only on two.
fn machines(guest: &Guest, observer: &mut Peer) -> Result<Vec<Processors>> {
    let mut machines = vec![Processors::read()?];
    if guest.topology.is_pair() {
        machines.push(observer.processors()?);
    }
    Ok(machines)
}

/// Unless a test checks the second guest's gauges at its end, the next one still sees these objects.
#[test]
fn many_objects_of_a_peer_are_gone_before_the_next_test() {
    test(|guest| {
        let (buffers, channels) = guest.pick((4000, 200), (200, 30));
        for round in 0..5 {
            let mut peer = Peer::start(guest)?;
            peer.ask(Request::CreateMany { buffers, channels })?;
            drop(peer);
            settle(guest, guest.limit(5))?;
            let left = Peer::observer(guest)?.gauges()?;
            let left = left.differences(&Gauges::default());
            ensure!(left.is_empty(), "round {round}: {}", left.join(", "));
        }
        Ok(())
    });
}

#[test]
fn many_objects_of_one_context_end_at_once() {
    test(|guest| {
        let (endpoints, channels, buffers) = guest.pick((400_u32, 400, 8000), (20, 30, 200));
        let mut observer = Peer::start(guest)?;
        let before = observer.gauges()?;
        let context = Context::open()?;
        let mut peer = Peer::start(guest)?;
        let listener = peer.listen(guest.peer_any_port(), 8)?;
        let started = Instant::now();
        let made: Vec<_> = (0..endpoints)
            .map(|number| {
                connect(guest, &context, &mut peer, listener)
                    .with_context(|| format!("endpoint {number}"))
            })
            .collect::<Result<_>>()?;
        let connecting = started.elapsed();
        peer.ask(Request::CreateMany { buffers, channels })?;
        // On one machine both sides are counted.
        let own = u64::from(!guest.topology.is_pair());
        let lives = observer.gauges()?;
        let sides = 1 + own;
        ensure!(
            lives.get("endpoints") == sides * u64::from(endpoints)
                && lives.get("channels") == u64::from(channels)
                && lives.get("buffers") == u64::from(buffers),
            "{lives}"
        );
        let count = u32::try_from(made.len())?;
        let mut channel = Channel::builder()
            .entries(count.next_power_of_two())
            .build(&context)?;
        for endpoint in &made {
            channel.push(Entry::recv(endpoint))?;
        }
        channel.submit()?;

        let ending = Stopwatch::start(machines(guest, &mut observer)?);
        let killed = peer.start_kill()?;
        for done in complete(&mut channel, count, guest.limit(20))? {
            ensure!(done.state() == State::PeerDead, "{done:?}");
        }
        let seen = killed.elapsed();
        let gone = poll::until(guest.limit(20), || {
            let now = observer.gauges()?;
            let left = now.get("contexts") - before.get("contexts") - own;
            let names = ["buffers", "endpoints"];
            let others = names.map(|name| now.get(name) - before.get(name));
            let wanted = [0, own * u64::from(endpoints)];
            Ok((left == 0 && others == wanted).then(|| killed.elapsed()))
        })?;
        let gone = gone.context("the peer's context is not gone")?;
        let gone_waited = ending.waited(ending.elapsed(), &machines(guest, &mut observer)?);

        let closing = Stopwatch::start(machines(guest, &mut observer)?);
        drop((made, channel, context));
        let closed = closing.elapsed();
        let closed_waited = closing.waited(closed, &machines(guest, &mut observer)?);
        println!(
            "{endpoints} endpoints (connected in {connecting:?}), {channels} channels, {buffers} buffers of one context: \
             gone {gone:?} after kill -9 ({gone_waited:?} of it waiting); the survivor knew of all after {seen:?} and \
             closed its own in {closed:?} ({closed_waited:?} waiting)"
        );
        ensure!(
            gone_waited < at_once(guest),
            "{gone_waited:?} of {gone:?} waiting"
        );
        ensure!(
            closed_waited < at_once(guest),
            "{closed_waited:?} of {closed:?} waiting"
        );
        Ok(())
    });
}

/// One of many contexts, with a bit of everything.
#[expect(dead_code, reason = "they are held until they are dropped")]
struct Little {
    endpoints: Vec<Endpoint>,
    channels: Vec<Channel>,
    buffers: Vec<Buffer>,
    context: Context,
}

#[test]
fn many_contexts_end_at_once() {
    test(|guest| {
        const THREADS: usize = 4;
        let contexts = guest.pick(100, 12);
        let mut observer = Peer::observer(guest)?;
        let before = Gauges::read()?;
        let mut peer = Peer::start(guest)?;
        let listener = peer.listen(guest.peer_any_port(), 8)?;
        let mut all = Vec::new();
        for number in 0..contexts {
            let context = Context::open()?;
            let endpoints = (0..2).map(|_| connect(guest, &context, &mut peer, listener));
            let endpoints = endpoints
                .collect::<Result<Vec<_>>>()
                .with_context(|| format!("context {number}"))?;
            let channel = |_| Channel::builder().entries(8).build(&context);
            let channels: Vec<_> = (0..3).map(channel).collect::<Result<_, _>>()?;
            let buffer = |_| Buffer::create(&context, 1, Placement::Any);
            let buffers = (0..20).map(buffer).collect::<Result<_, _>>()?;
            all.push((
                Little {
                    endpoints,
                    channels,
                    buffers,
                    context,
                },
                number,
            ));
        }
        let lives = Gauges::read()?;
        let buffers = lives.get("buffers") - before.get("buffers");
        ensure!(buffers == 20 * contexts, "{lives}");
        let mut shares: Vec<Vec<_>> = (0..THREADS).map(|_| Vec::new()).collect();
        for (little, number) in all {
            shares[usize::try_from(number)? % THREADS].push(little);
        }
        let closing = Stopwatch::start(machines(guest, &mut observer)?);
        std::thread::scope(|scope| {
            let threads: Vec<_> = shares
                .into_iter()
                .map(|share| scope.spawn(move || drop(share)))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a drop panicked")))
        })?;
        let closed = closing.elapsed();
        let waited = closing.waited(closed, &machines(guest, &mut observer)?);
        drop(peer);
        gauges::settle(&before, guest.limit(5))?;
        let settled = closing.elapsed();
        println!(
            "{contexts} contexts of 2 endpoints, 3 channels and 20 buffers closed in {closed:?} ({waited:?} of \
             it waiting), all gone, the peer's too, after {settled:?}"
        );
        ensure!(waited < at_once(guest), "{waited:?} of {closed:?} waiting");
        Ok(())
    });
}
