// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bugs that the sweeps and points have found, a test for each.

use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, EndpointState, Entry, Errno, GrantTerms,
    Listener, Placement, State,
};
use dmaplane_guest_tests::scenario::BIG;
use dmaplane_guest_tests::swept::ordinary;
use dmaplane_guest_tests::{Loopback, complete};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::faults::{self, Point, record};
use dmaplane_testkit::{Guest, Result, anyhow, ensure, poll, test};

fn ends(guest: &Guest, endpoint: &Endpoint, who: &str) -> Result<()> {
    // The endpoint's timer, which notices it, runs with the heartbeats.
    let down = poll::until(guest.limit(5), || {
        let state = endpoint.query()?.state;
        Ok(matches!(state, EndpointState::Down(_)).then_some(()))
    })?;
    ensure!(down.is_some(), "the endpoint of the {who} side lives on");
    Ok(())
}

/// It used to leave the queue pair as it was: the peer was never notified, and receives of both sides waited for ever.
#[test]
fn found_lost_message_ends_both_sides() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let mut here = Channel::builder().entries(4).build(&local.near_context)?;
        let mut there = Channel::builder().entries(4).build(&local.far_context)?;
        here.push(Entry::recv(&local.near))?;
        here.submit()?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        // The credits have arrived: the next message is the grant.
        for endpoint in [&local.near, &local.far] {
            let seen = poll::until(guest.limit(5), || {
                let credits = endpoint.query()?.send_credits;
                Ok((credits == 1).then_some(()))
            })?;
            ensure!(seen.is_some(), "no credits");
        }
        // Heartbeats too: which message is lost does not depend on the moment.
        let lost = Point::always("post_message")?;
        let limit = guest.limit(2);
        let granted = local
            .far
            .grant_on(&theirs, 0..4096, &GrantTerms::default(), limit);
        ensure!(lost.fired()? > 0, "no message was lost");
        ends(guest, &local.far, "granting")?;
        ends(guest, &local.near, "other")?;
        drop(lost);
        for channel in [&mut here, &mut there] {
            let done = complete(channel, 1, guest.limit(5))?;
            ensure!(done[0].state() != State::Ok, "{done:?}");
        }
        drop(granted);
        record(|_| ())?;
        ordinary(guest)
    });
}

/// This side has no memory for what the peer sent. It used to say that the peer had broken the protocol.
#[test]
fn found_no_memory_for_a_message_accuses_nobody() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        for name in ["alloc_arrival", "alloc_assembly", "alloc_peer_grant"] {
            let local = Loopback::new(guest)?;
            let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
            let mut here = Channel::builder().entries(4).build(&local.near_context)?;
            let mut there = Channel::builder().entries(4).build(&local.far_context)?;
            there.push(Entry::recv(&local.far))?;
            there.submit()?;
            local.credited(guest, 1)?;
            let failing = Point::always(name)?;
            let terms = GrantTerms::default();
            let granted = match name {
                "alloc_arrival" => {
                    here.push(Entry::send(&local.near, mine.range(0, 8), 1))?;
                    here.submit()?;
                    None
                }
                _ => local
                    .near
                    .grant_on(&mine, 0..4096, &terms, guest.limit(2))
                    .ok(),
            };
            let down = poll::until(guest.limit(5), || match local.far.query()?.state {
                EndpointState::Down(why) => Ok(Some(why)),
                EndpointState::Up => Ok(None),
            })?;
            ensure!(failing.fired()? > 0, "{name}: no allocation failed");
            drop(failing);
            ensure!(down == Some(Errno::NOMEM), "{name}: its cause is {down:?}");
            let violations = local.far.query()?.violations;
            ensure!(violations == 0, "{name}: {violations} violations");
            let waiting = complete(&mut there, 1, guest.limit(5))?[0];
            let errno = waiting.result().err().map(|error| error.errno());
            ensure!(errno == Some(Errno::NOMEM), "{name}: {waiting:?}");
            drop(granted);
        }
        record(|_| ())?;
        ordinary(guest)
    });
}

/// The announced length used to stay with the peer, which reported the next operation with it.
#[test]
fn found_refused_split_does_not_lend_its_length() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let mut granted = local.granted_whole(guest, BIG)?;
        let mut there = Channel::builder().entries(4).build(&local.far_context)?;
        for _ in 0..2 {
            there.push(Entry::recv(&local.far))?;
        }
        there.submit()?;
        local.credited(guest, 2)?;
        let refused = Point::once("post_send")?;
        granted.here.push(granted.whole_imm(1)?)?;
        let done = complete(&mut granted.here, 1, limit)?;
        ensure!(done[0].state() == State::Error, "{done:?}");
        ensure!(refused.fired()? > 0, "nothing was refused");
        drop(refused);
        let small = Entry::write_imm(granted.mine.range(0, 8), granted.given.at(0), 2);
        granted.here.push(small)?;
        let next = complete(&mut granted.here, 1, limit)?;
        if next[0].is_ok() {
            let came = complete(&mut there, 1, limit)?;
            ensure!(came[0].result()? == 8, "a wrong length: {came:?}");
        }
        ends(guest, &local.near, "refused")?;
        ends(guest, &local.far, "other")?;
        record(|_| ())?;
        ordinary(guest)
    });
}

/// An operation of several pieces used to be posted even if its length could not be announced: the peer's receive ended
/// well, with the length of the last piece.
#[test]
fn found_lost_announcement_is_no_shorter_operation() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let mut granted = local.granted_whole(guest, BIG)?;
        let mut there = Channel::builder().entries(4).build(&local.far_context)?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        local.credited(guest, 1)?;
        // The endpoint's timer ends a broken endpoint: not before everything sent has arrived.
        let late = Point::always("timer_late")?;
        let lost = Point::always("post_message")?;
        granted.here.push(granted.whole_imm(1)?)?;
        let done = complete(&mut granted.here, 1, limit)?;
        ensure!(done[0].state() != State::Ok, "{done:?}");
        ensure!(lost.fired()? > 0, "no message was lost");
        drop(lost);
        drop(late);
        let came = complete(&mut there, 1, limit)?;
        ensure!(came[0].state() != State::Ok, "{came:?}");
        ends(guest, &local.near, "announcing")?;
        ends(guest, &local.far, "other")?;
        record(|_| ())?;
        ordinary(guest)
    });
}

/// The provider took the first request of an operation and refused the second: the operation, and every fence behind
/// it, used to wait until its user destroyed the endpoint.
#[test]
fn found_operation_taken_in_part_ends_by_itself() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let mut granted = local.granted_whole(guest, BIG)?;
        let part = Point::once("post_part")?;
        granted.here.push(granted.whole()?.user_data(1))?;
        granted.here.push(Entry::fence(&local.near).user_data(2))?;
        for done in complete(&mut granted.here, 2, limit)? {
            ensure!(done.state() != State::Ok, "{done:?}");
        }
        ensure!(part.fired()? == 1, "nothing was refused");
        drop(part);
        ends(guest, &local.near, "refused")?;
        ends(guest, &local.far, "other")?;
        record(|_| ())?;
        ordinary(guest)
    });
}

/// It used to end in ENOTCONN, which no operation may, if the endpoint was not down yet.
#[test]
fn found_refused_registration_is_a_failed_transfer() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let (_theirs, _own, given) = local.granted(guest, &GrantTerms::default())?;
        let fresh = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = Channel::builder().entries(4).build(&local.near_context)?;
        // The operation that waits for the registration goes on before the failure brings the endpoint down.
        let late = Point::always("complete_delay")?;
        let refused = Point::once("complete_register")?;
        here.push(Entry::write(fresh.range(0, 4096), given.at(0)))?;
        let done = complete(&mut here, 1, guest.limit(10))?[0];
        ensure!(refused.fired()? == 1, "nothing was refused");
        drop((late, refused));
        let error = done.result().err();
        let error = error.ok_or_else(|| anyhow!("it ended well"))?;
        let end = (error.state(), error.errno());
        ensure!(end == (State::Error, Errno::IO), "{done:?}");
        ends(guest, &local.near, "near")
    });
}

/// A message that arrives before the connection manager reports the connection as up, and is lost here, is this side's
/// fault. The reported cause used to depend on which event came first.
#[test]
fn found_loss_while_connecting_has_one_cause() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let near_context = Context::open()?;
        let far_context = Context::open()?;
        let listener = Listener::bind(&far_context, guest.local_any_port(), 4)?;
        let limit = guest.limit(10);
        let options = ConnectOptions {
            recv_depth: 64,
            timeout: limit,
            ..Default::default()
        };
        let late = DelayPoint::open("established", Duration::from_millis(guest.pick(300, 1000)))?;
        let far = std::thread::scope(|scope| -> Result<_> {
            let accept = scope.spawn(|| listener.accept(64, limit));
            let near = Endpoint::connect(&near_context, listener.local(), &options)?;
            let lost = Point::once("post_receive")?;
            let mine = Buffer::create(&near_context, 4096, Placement::Any)?;
            let granted = near.grant_on(&mine, 0..4096, &GrantTerms::default(), limit);
            let far = accept.join();
            ensure!(lost.fired()? == 1, "no receive was refused");
            ends(guest, &near, "granting")?;
            drop(granted);
            far.map_err(|_| anyhow!("the accepting thread panicked"))
        })?;
        drop(late);
        let cause = match far {
            Ok(far) => match far.query()?.state {
                EndpointState::Down(why) => Some(why),
                EndpointState::Up => None,
            },
            Err(error) => error.errno(),
        };
        ensure!(cause == Some(Errno::IO), "its cause is {cause:?}");
        record(|_| ())?;
        ordinary(guest)
    });
}

/// A message of the peer's kernel that makes no sense is counted, and ends the connection for both sides.
#[test]
fn found_nonsense_of_a_peer_is_counted_and_ends_the_connection() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let sides = [&local.near, &local.far];
        let counted = || -> Result<u64> {
            let counts = sides.map(|side| side.query().map(|info| info.violations));
            counts
                .into_iter()
                .try_fold(0, |sum, count| Ok(sum + count?))
        };
        ensure!(counted()? == 0, "counted before");
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let nonsense = Point::always("message_corrupt")?;
        // A wrong bit may give another valid message: repeats until it does not.
        let mut grants = Vec::new();
        let started = Instant::now();
        while local.far.query()?.state == EndpointState::Up && started.elapsed() < guest.limit(20) {
            let (terms, limit) = (GrantTerms::default(), guest.limit(1));
            grants.push(local.far.grant_on(&theirs, 0..4096, &terms, limit));
        }
        for side in sides {
            ends(guest, side, "one")?;
        }
        ensure!(nonsense.fired()? > 0, "nothing was corrupted");
        drop(nonsense);
        let violations = counted()?;
        ensure!(violations > 0, "{} grants and no violation", grants.len());
        println!("{violations} violations, {} grants", grants.len());
        drop(grants);
        record(|_| ())?;
        ordinary(guest)
    });
}
