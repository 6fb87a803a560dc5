// SPDX-License-Identifier: MIT OR Apache-2.0

//! Accepting: a peer that asks for a connection and then stays silent does not block the others, and frequent signals
//! do not keep calls from connecting, accepting and granting.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, ConnectOptions, Context, Endpoint, EndpointState, Errno, GrantTerms, Listener,
    Placement,
};
use dmaplane_guest_tests::refusal;
use dmaplane_testkit::faults::{self, Point};
use dmaplane_testkit::sys::process::Profiler;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, anyhow, ensure, poll, test};

/// Receives of each endpoint.
const DEPTH: u32 = 16;
/// What a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

fn connect(guest: &Guest, context: &Context, address: SocketAddr) -> Result<Endpoint> {
    let options = ConnectOptions {
        recv_depth: DEPTH,
        timeout: guest.limit(10),
        ..Default::default()
    };
    Ok(Endpoint::connect(context, address, &options)?)
}

/// A peer that asks for a connection and never finishes the handshake: the accepting side does not see it.
fn silent(guest: &Guest, context: &Context, address: SocketAddr) -> Result<Endpoint> {
    let lost = Point::once("cm_established")?;
    let endpoint = connect(guest, context, address)?;
    let fired = poll::until(guest.limit(5), || Ok((lost.fired()? > 0).then_some(())))?;
    fired.context("the handshake was finished")?;
    Ok(endpoint)
}

#[test]
fn endpoint_accept_is_not_blocked_by_silent_peers() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let (near, far) = (Context::open()?, Context::open()?);
        let listener = Listener::bind(&far, guest.local_any_port(), 8)?;
        let address = listener.local();
        thread::scope(|scope| -> Result<()> {
            let accepting = scope.spawn(|| {
                let accepted = listener.accept(DEPTH, guest.limit(20));
                accepted.map(|accepted| (accepted, Instant::now()))
            });
            let mute = [
                silent(guest, &near, address)?,
                silent(guest, &near, address)?,
            ];
            let begun = Instant::now();
            let honest = connect(guest, &near, address)?;
            let accepted = accepting
                .join()
                .map_err(|_| anyhow!("the acceptor panicked"))?;
            let (accepted, when) = accepted?;
            let took = when.saturating_duration_since(begun);
            ensure!(took < HANDSHAKE / 2 * guest.time_scale, "it took {took:?}");
            let local = honest.query()?.local;
            ensure!(Some(accepted.peer()) == local, "somebody else was accepted");
            // The silent ones are given up in time, and accept() never returns them.
            let limit = HANDSHAKE + guest.limit(2);
            let refused = refusal(listener.accept(DEPTH, limit))?;
            ensure!(refused == Errno::TIMEDOUT, "{refused}");
            for endpoint in &mute {
                let down = poll::until(guest.limit(5), || {
                    Ok(matches!(endpoint.query()?.state, EndpointState::Down(_)).then_some(()))
                })?;
                down.context("a silent peer is still connected")?;
            }
            ensure!(accepted.query()?.state == EndpointState::Up);
            Ok(())
        })
    });
}

/// Each request used to extend the call by a second.
#[test]
fn endpoint_accept_ends_whoever_goes_on_asking() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let (near, far) = (Context::open()?, Context::open()?);
        let listener = Listener::bind(&far, guest.local_any_port(), 64)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let asking = scope.spawn(|| -> Result<usize> {
                let mut mute = Vec::new();
                while !over.load(Ordering::Acquire) && mute.len() < 100 {
                    match silent(guest, &near, listener.local()) {
                        Ok(endpoint) => mute.push(endpoint),
                        // Nobody accepts any more.
                        Err(_) if over.load(Ordering::Acquire) => break,
                        Err(error) => return Err(error),
                    }
                }
                Ok(mute.len())
            });
            // Below what a handshake may take, so that none is over.
            let limit = HANDSHAKE / 5;
            let begun = Instant::now();
            let refused = refusal(listener.accept(DEPTH, limit));
            let took = begun.elapsed();
            over.store(true, Ordering::Release);
            let asked = asking
                .join()
                .map_err(|_| anyhow!("whoever asks panicked"))??;
            println!("{asked} asked in {took:?}");
            let refused = refused?;
            ensure!(refused == Errno::TIMEDOUT, "{refused}, {asked} asked");
            ensure!(asked > 1, "nobody went on asking");
            let most = 4 * limit * guest.time_scale;
            ensure!(took < most, "a limit of {limit:?} took {took:?}");
            Ok(())
        })
    });
}

/// Destroying a listener ends the handshakes that have begun.
#[test]
fn endpoint_accept_ends_handshakes_with_the_listener() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let (near, far) = (Context::open()?, Context::open()?);
        let listener = Listener::bind(&far, guest.local_any_port(), 8)?;
        let mute = thread::scope(|scope| -> Result<_> {
            let accepting = scope.spawn(|| listener.accept(DEPTH, HANDSHAKE / 5));
            let mute = silent(guest, &near, listener.local())?;
            let accepted = accepting
                .join()
                .map_err(|_| anyhow!("the acceptor panicked"))?;
            ensure!(refusal(accepted)? == Errno::TIMEDOUT);
            Ok(mute)
        })?;
        ensure!(mute.query()?.state == EndpointState::Up);
        drop(listener);
        let down = poll::until(guest.limit(5), || {
            Ok(matches!(mute.query()?.state, EndpointState::Down(_)).then_some(()))
        })?;
        down.context("it is still connected")
    });
}

/// A profiler's timer used to interrupt each of these calls before its end, however often it was tried.
#[test]
fn endpoint_calls_get_through_frequent_signals() {
    test(|guest| {
        let (near, far) = (Context::open()?, Context::open()?);
        let listener = Listener::bind(&far, guest.local_any_port(), 8)?;
        let address = listener.local();
        let memory = Buffer::create(&far, 4096, Placement::Any)?;
        let profiler = || Profiler::start(Duration::from_millis(guest.pick(2, 20)), true);
        for round in 0..guest.pick(20, 4) {
            let connected = thread::scope(|scope| -> Result<_> {
                let accepting = scope.spawn(|| -> Result<_> {
                    let _signals = profiler()?;
                    let accepted = listener.accept(DEPTH, guest.limit(10))?;
                    let terms = GrantTerms::default();
                    let own = accepted.grant_on(&memory, 0..4096, &terms, guest.limit(10))?;
                    Ok((accepted, own))
                });
                let signals = profiler()?;
                let endpoint = connect(guest, &near, address)?;
                let given = endpoint.wait_grant(guest.limit(10))?;
                let seen = signals.handled();
                let accepted = accepting
                    .join()
                    .map_err(|_| anyhow!("the acceptor panicked"))?;
                drop((given, endpoint, accepted?));
                Ok(seen)
            });
            let seen = connected.with_context(|| format!("round {round}"))?;
            println!("round {round}: {seen} signals");
        }
        // The time limit holds, however often the call restarts.
        let signals = profiler()?;
        let (limit, begun) = (guest.limit(1), Instant::now());
        let refused = refusal(listener.accept(DEPTH, limit))?;
        let (took, seen) = (begun.elapsed(), signals.handled());
        ensure!(
            refused == Errno::TIMEDOUT && seen > 10,
            "{refused}, {seen} signals"
        );
        ensure!(took < 2 * limit, "a limit of {limit:?} took {took:?}");
        Ok(())
    });
}
