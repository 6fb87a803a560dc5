// SPDX-License-Identifier: MIT OR Apache-2.0

//! Races, each with a delay at one of its delay points, and without: whoever wins, every operation has exactly one
//! completion, and nothing that arrives is lost.

use std::time::Duration;

use dmaplane::{
    Buffer, Channel, Completion, EndpointState, Entry, Errno, GrantTerms, Placement, State,
};
use dmaplane_guest_tests::race::{at_delay_points, once_each};
use dmaplane_guest_tests::{Connection, Loopback, asleep, complete, one, patient_wills};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::{ErrorContext as _, Peer, Result, ensure, poll, test};
use dmaplane_uapi as abi;

#[test]
fn delay_point_cancel_against_completion() {
    test(|guest| {
        at_delay_points(
            guest,
            &["work_completed", "dequeued", "entry_accepted"],
            guest.pick(20, 3),
            |_| {
                let local = Loopback::new(guest)?;
                let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
                let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
                let builder = || Channel::builder().entries(64);
                let mut here = builder().build(&local.near_context)?;
                let mut other = builder().build(&local.near_context)?;
                for name in 0..32 {
                    here.push(Entry::write(mine.range(0, 4096), given.at(0)).user_data(name))?;
                }
                std::thread::scope(|scope| -> Result<()> {
                    let canceler = scope.spawn(|| -> Result<()> {
                        other.push(Entry::cancel_endpoint(&local.near))?;
                        complete(&mut other, 1, guest.limit(10)).map(drop)
                    });
                    here.submit()?;
                    let joined = canceler.join();
                    joined.map_err(|_| dmaplane_testkit::anyhow!("the canceler panicked"))?
                })?;
                let done = complete(&mut here, 32, guest.limit(10))?;
                once_each(&done, 32, &[State::Ok, State::Canceled])
            },
        )
    });
}

#[test]
fn delay_point_deadline_against_arrival() {
    test(|guest| {
        at_delay_points(
            guest,
            &["receive_completed", "dequeued"],
            guest.pick(20, 3),
            |round| {
                let local = Loopback::new(guest)?;
                let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
                let mut here = Channel::builder().entries(64).build(&local.near_context)?;
                let mut there = Channel::builder().entries(64).build(&local.far_context)?;
                let limit = Duration::from_millis(4 + round % 4);
                for name in 0..16 {
                    there.push(Entry::recv(&local.far).user_data(name).time_limit(limit))?;
                }
                there.submit()?;
                // On a slow machine some end before the last is posted: that one takes over their credits.
                let count = poll::until(guest.limit(10), || {
                    let posted = local.far.query()?.recv_posted;
                    let credits = local.near.query()?.send_credits;
                    Ok((posted > 0 && credits == posted).then_some(posted))
                })?;
                let count = count.context("the credits never come")?;
                for imm in 0..count {
                    here.push(Entry::send(&local.near, mine.range(0, 0), imm))?;
                }
                for done in complete(&mut here, count, guest.limit(10))? {
                    done.result()?;
                }
                let done = complete(&mut there, 16, guest.limit(10))?;
                once_each(&done, 16, &[State::Ok, State::Timeout])?;
                // Sends that found no receive take the next ones, so that all of them arrive, in order.
                let mut came: Vec<u32> = arrivals(&done);
                let missing = count - u32::try_from(came.len())?;
                for _ in 0..missing {
                    there.push(Entry::recv(&local.far))?;
                }
                came.extend(arrivals(&complete(&mut there, missing, guest.limit(10))?));
                ensure!(came == (0..count).collect::<Vec<u32>>(), "{came:?}");
                Ok(())
            },
        )
    });
}

fn arrivals(done: &[Completion]) -> Vec<u32> {
    let ok = done.iter().filter(|done| done.is_ok());
    ok.map(Completion::imm).collect()
}

#[test]
fn delay_point_receives_after_the_end_come_last() {
    const COUNT: u32 = 32;
    const LATE: u32 = 4;
    test(|guest| {
        at_delay_points(
            guest,
            &["receive_completed", "disconnect_event"],
            guest.pick(20, 3),
            |_| {
                let Loopback {
                    near,
                    far,
                    near_context,
                    far_context,
                } = Loopback::new(guest)?;
                let mine = Buffer::create(&near_context, 4096, Placement::Any)?;
                let mut here = Channel::builder().entries(64).build(&near_context)?;
                let mut there = Channel::builder().entries(64).build(&far_context)?;
                for name in 0..COUNT {
                    there.push(Entry::recv(&far).user_data(name.into()))?;
                    here.push(Entry::send(&near, mine.range(0, 0), name))?;
                }
                there.submit()?;
                let limit = guest.limit(10);
                for done in complete(&mut here, COUNT, limit)? {
                    done.result()?;
                }
                // All of it has arrived, but the far kernel may not have looked yet, and may see the end first.
                drop(near);
                let down = poll::until(limit, || {
                    let up = far.query()?.state == EndpointState::Up;
                    Ok((!up).then_some(()))
                })?;
                ensure!(down.is_some(), "the far side never saw the end");
                for name in COUNT..COUNT + LATE {
                    there.push(Entry::recv(&far).user_data(name.into()))?;
                }
                let done = complete(&mut there, COUNT + LATE, limit)?;
                let order: Vec<_> = done
                    .iter()
                    .map(|done| (done.user_data(), done.is_ok()))
                    .collect();
                let right = (0..COUNT + LATE).map(|name| (u64::from(name), name < COUNT));
                ensure!(order == right.collect::<Vec<_>>(), "{order:?}");
                Ok(())
            },
        )
    });
}

#[test]
fn delay_point_destroy_against_submission() {
    test(|guest| {
        let delay_points = ["entry_accepted", "work_completed", "ending"];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let Loopback {
                near,
                far,
                near_context,
                far_context: _far_context,
            } = Loopback::new(guest)?;
            let theirs = Buffer::create(&_far_context, 4096, Placement::Any)?;
            let limit = guest.limit(10);
            let _grant = far.grant_on(&theirs, 0..4096, &GrantTerms::default(), limit)?;
            let given = near.wait_grant(limit)?;
            let mine = Buffer::create(&near_context, 4096, Placement::Any)?;
            let mut here = Channel::builder().entries(64).build(&near_context)?;
            let name = near.raw_handle();
            for at in 0..32 {
                here.push(
                    match at % 4 {
                        0 => Entry::recv(&near),
                        1 => Entry::send(&near, mine.range(0, 8), 0),
                        2 => Entry::fence(&near),
                        _ => Entry::write(mine.range(0, 4096), given.at(0)),
                    }
                    .user_data(at),
                )?;
            }
            let done = std::thread::scope(|scope| -> Result<Vec<Completion>> {
                scope.spawn(move || drop(near));
                complete(&mut here, 32, limit)
            })?;
            // Entries taken after the handle was gone report so.
            let states = [State::Ok, State::Canceled, State::Error];
            once_each(&done, 32, &states)?;
            for late in done.iter().filter(|done| done.state() == State::Error) {
                let errno = late.result().err().map(|error| error.errno());
                ensure!(errno == Some(Errno::NOENT), "{name}: {late:?}");
            }
            Ok(())
        })
    });
}

#[test]
fn delay_point_revocation_against_writes() {
    test(|guest| {
        let delay_points = ["grant_returned", "work_completed", "entry_accepted"];
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        mine.write_at(0, &[0xee; 4096]);
        at_delay_points(guest, &delay_points, guest.pick(40, 5), |_| {
            let (theirs, own, given) = local.granted(guest, &GrantTerms::default())?;
            let mut here = Channel::builder().entries(64).build(&local.near_context)?;
            for name in 0..32 {
                here.push(Entry::write(mine.range(0, 4096), given.at(0)).user_data(name))?;
            }
            std::thread::scope(|scope| -> Result<()> {
                let writer = scope.spawn(|| here.submit());
                drop(own);
                // From here on the memory is this side's alone.
                theirs.write_at(0, &[0x11; 4096]);
                let joined = writer.join();
                joined.map_err(|_| dmaplane_testkit::anyhow!("the writer panicked"))??;
                Ok(())
            })?;
            let done = complete(&mut here, 32, guest.limit(10))?;
            once_each(&done, 32, &[State::Ok, State::Revoked])?;
            ensure!(theirs.to_vec(0..4096) == [0x11; 4096], "a late write");
            Ok(())
        })
    });
}

#[test]
fn delay_point_last_will_against_disconnect() {
    test(|guest| {
        let _patient = patient_wills(guest)?;
        // The last will is acknowledged when it arrives: during the delay the connection manager reports the end,
        // without a reason.
        let length = Duration::from_millis(guest.pick(100, 300));
        let rounds = guest.pick(5, 2);
        for (point, round) in (0..2 * rounds).map(|turn| {
            (
                ["message_received", "last_will_received"][turn % 2],
                turn / 2,
            )
        }) {
            let mut connection = Connection::to_peer(guest)?;
            let (_, grant) = connection.remote_buffer(guest, 4096)?;
            let mine = Buffer::create(&connection.context, 4096, Placement::Any)?;
            let mut here = Channel::builder().entries(16).build(&connection.context)?;
            for name in 0..12 {
                let endpoint = &connection.endpoint;
                here.push(
                    match name % 3 {
                        0 => Entry::recv(endpoint),
                        1 => Entry::write_imm(mine.range(0, 8), grant.at(0), 0),
                        _ => Entry::watch(endpoint, 0, 0, 1),
                    }
                    .user_data(name),
                )?;
            }
            here.submit()?;
            let fresh = Peer::start(guest)?;
            let delay = DelayPoint::open(point, length)?;
            std::mem::replace(&mut connection.peer, fresh).kill()?;
            let done = complete(&mut here, 12, guest.limit(15))?;
            drop(delay);
            once_each(&done, 12, &[State::PeerDead])?;
            for done in done {
                let errno = done.result().err().map(|error| error.errno());
                ensure!(
                    errno == Some(Errno::OWNERDEAD),
                    "{point}, round {round}: {done:?}"
                );
            }
            let info = connection.endpoint.query()?;
            let died = info.state == EndpointState::Down(Errno::OWNERDEAD);
            ensure!(died && info.peer_end == abi::PEER_END_DIED, "{info:?}");
        }
        Ok(())
    });
}

/// A fence does not overtake the completion of an operation before it that has left its queue already.
#[test]
fn delay_point_fence_behind_what_times_out() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = Channel::builder().entries(128).build(&local.near_context)?;
        let _window = DelayPoint::open("dequeued", guest.limit(1) / 5)?;
        // Without a receive of the peer's, only its time limit ends it.
        let limit = Duration::from_millis(30);
        here.push(Entry::send(&local.near, mine.range(0, 0), 0).time_limit(limit))?;
        let mut pushed = 0;
        let mut seen = Vec::new();
        let over = poll::until(guest.limit(10), || {
            // Each makes the endpoint look at its queue again.
            if pushed < 100 {
                here.push(Entry::fence(&local.near))?;
                pushed += 1;
            }
            here.submit()?;
            seen.extend(here.completions().map(|done| (done.op(), done.state())));
            Ok((seen.len() > pushed).then_some(()))
        })?;
        ensure!(over.is_some(), "{pushed} fences: {seen:?}");
        ensure!(seen[0] == (abi::OP_SEND, State::Timeout), "{seen:?}");
        let fences = &seen[1..];
        ensure!(
            fences
                .iter()
                .all(|done| *done == (abi::OP_FENCE, State::Ok)),
            "{seen:?}"
        );
        Ok(())
    });
}

/// A thread that is about to watch a grant refers to it. Destroying the grant used to return all the same, with the peer's
/// access left until that thread was done.
#[test]
fn delay_point_destroyed_grant_under_a_watch() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (theirs, own, given) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        mine.write_at(0, &[0xff; 4096]);
        let mut here = Channel::builder().entries(4).build(&local.near_context)?;
        let mut there = Channel::builder().entries(4).build(&local.far_context)?;
        there.push(Entry::watch_grant(&local.far, &own))?;
        let limit = guest.limit(10);
        let _window = DelayPoint::open("grant_watched", guest.limit(1) / 4)?;
        std::thread::scope(|scope| -> Result<()> {
            let watch = move || Ok(complete(&mut there, 1, limit)?[0]);
            let watcher = asleep(scope, limit, watch)?;
            drop(own);
            let done = one(
                &mut here,
                guest,
                Entry::write(mine.range(0, 4096), given.at(0)),
            )?;
            ensure!(!done.is_ok(), "the peer still reaches the memory: {done:?}");
            ensure!(theirs.to_vec(0..4096) == [0; 4096], "the peer wrote");
            let watched = watcher.join();
            let watched =
                watched.map_err(|_| dmaplane_testkit::anyhow!("the watcher panicked"))??;
            ensure!(watched.imm() == abi::GRANT_END_REVOKED, "{watched:?}");
            Ok(())
        })
    });
}
