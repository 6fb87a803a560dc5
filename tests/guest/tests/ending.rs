// SPDX-License-Identifier: MIT OR Apache-2.0

//! Operations that end before their time, and grants that end by themselves.

use std::time::{Duration, Instant};

use dmaplane::{Buffer, Channel, EndpointState, Entry, Errno, GrantTerms, Placement, State};
use dmaplane_guest_tests::{Loopback, complete, patient_answers, patient_wills, refusal};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::{Result, ensure, poll, test};
use dmaplane_uapi as abi;

fn channel(context: &dmaplane::Context) -> Result<Channel> {
    Ok(Channel::builder().entries(64).build(context)?)
}

fn is_up(local: &Loopback) -> Result<bool> {
    Ok(local.near.query()?.state == EndpointState::Up)
}

#[test]
fn cancel_one_that_waits() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        let mut other = channel(&local.near_context)?;
        for name in 1..=3 {
            here.push(Entry::send(&local.near, mine.range(0, 0), 0).user_data(name))?;
        }
        here.submit()?;
        // Another channel's names are its own.
        other.push(Entry::cancel(&local.near, 2))?;
        let done = complete(&mut other, 1, guest.limit(10))?[0];
        let errno = done.result().err().map(|error| error.errno());
        ensure!(errno == Some(Errno::NOENT), "{done:?}");
        here.push(Entry::cancel(&local.near, 2).user_data(9))?;
        let done = complete(&mut here, 2, guest.limit(10))?;
        ensure!(done[0].user_data() == 2, "{done:?}");
        ensure!(done[0].state() == State::Canceled, "{done:?}");
        ensure!(
            done[1].user_data() == 9 && done[1].result()? == 1,
            "{done:?}"
        );
        here.push(Entry::cancel_all())?;
        let done = complete(&mut here, 3, guest.limit(10))?;
        ensure!(done[2].result()? == 2, "{done:?}");
        ensure!(is_up(&local)?, "the endpoint ended");
        Ok(())
    });
}

#[test]
fn cancel_ends_the_endpoint_only_when_it_may() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4 << 20, Placement::Any)?;
        let big = Buffer::create(&local.far_context, 4 << 20, Placement::Any)?;
        drop(given);
        let limit = guest.limit(10);
        let terms = GrantTerms::default();
        let _own = local.far.grant_on(&big, 0..4 << 20, &terms, limit)?;
        let given = local.near.wait_grant(limit)?;
        let mut here = channel(&local.near_context)?;
        // Registers the buffer, so that the next operations are posted at once.
        here.push(Entry::write(mine.range(0, 8), given.at(0)))?;
        complete(&mut here, 1, limit)?[0].result()?;
        // The provider has not given back the first of them yet, nor those behind it.
        let delay = DelayPoint::open(
            "work_completed",
            Duration::from_millis(guest.pick(300, 1000)),
        )?;
        for name in 0..8 {
            here.push(Entry::write(mine.range(0, 512 << 10), given.at(0)).user_data(name))?;
        }
        here.submit()?;
        here.push(Entry::cancel(&local.near, 7).queued_only().user_data(8))?;
        here.push(Entry::cancel(&local.near, 7).user_data(9))?;
        let mut states = [State::Ok; 10];
        let mut errnos = [None; 10];
        for done in complete(&mut here, 10, guest.limit(20))? {
            let name = usize::try_from(done.user_data())?;
            states[name] = done.state();
            errnos[name] = done.result().err().map(|error| error.errno());
        }
        drop(delay);
        ensure!(errnos[8] == Some(Errno::BUSY), "{errnos:?}");
        ensure!(states[9] == State::Ok, "{states:?} {errnos:?}");
        ensure!(states[7] == State::Canceled, "{states:?}");
        ensure!(
            states[..8]
                .iter()
                .all(|state| matches!(state, State::Ok | State::Canceled)),
            "{states:?}"
        );
        ensure!(!is_up(&local)?, "the endpoint lives on");
        Ok(())
    });
}

#[test]
fn deadline_ends_what_waits() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        let limit = Duration::from_millis(30);
        let start = Instant::now();
        here.push(Entry::send(&local.near, mine.range(0, 0), 0).time_limit(limit))?;
        here.push(Entry::fence(&local.near).time_limit(guest.limit(10)))?;
        here.push(Entry::recv(&local.near).time_limit(limit * 3))?;
        here.push(Entry::watch(&local.near, 0, 0, 1).time_limit(limit * 4))?;
        let done = complete(&mut here, 4, guest.limit(10))?;
        ensure!(start.elapsed() >= limit * 4, "{:?}", start.elapsed());
        // The fence has nothing to wait for once the operation before it has ended.
        let ended = |op| done.iter().find(|done| done.op() == op);
        for op in [abi::OP_SEND, abi::OP_RECV, abi::OP_WATCH] {
            let done = ended(op).map(|done| (done.state(), done.latency() >= limit));
            ensure!(done == Some((State::Timeout, true)), "{op}: {done:?}");
        }
        let fence = ended(abi::OP_FENCE).map(|done| done.state());
        ensure!(fence == Some(State::Ok), "{fence:?}");
        ensure!(is_up(&local)?, "the endpoint ended");
        Ok(())
    });
}

#[test]
fn canceled_receive_leaves_its_credit_and_loses_nothing() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        mine.write_at(0, b"kept");
        let mut here = channel(&local.near_context)?;
        let mut there = channel(&local.far_context)?;
        there.push(Entry::recv(&local.far).user_data(1))?;
        there.push(Entry::recv(&local.far).user_data(2))?;
        there.submit()?;
        local.credited(guest, 2)?;
        there.push(Entry::cancel_endpoint(&local.far))?;
        let done = complete(&mut there, 3, guest.limit(10))?;
        ensure!(done[0].state() == State::Canceled && done[1].state() == State::Canceled);
        // The peer has both credits still, and spends one.
        here.push(Entry::send(&local.near, mine.range(0, 4), 77))?;
        complete(&mut here, 1, guest.limit(10))?[0].result()?;
        // The next receive gets what came, whenever it came; the one after it takes the other credit over.
        there.push(Entry::recv_into(&local.far, theirs.range(0, 4)).user_data(3))?;
        let done = complete(&mut there, 1, guest.limit(10))?[0];
        ensure!((done.user_data(), done.imm()) == (3, 77), "{done:?}");
        ensure!(theirs.to_vec(0..4) == b"kept");
        there.push(Entry::recv(&local.far).user_data(4))?;
        there.submit()?;
        ensure!(local.far.query()?.recv_posted == 1);
        here.push(Entry::send(&local.near, mine.range(0, 0), 78))?;
        complete(&mut here, 1, guest.limit(10))?[0].result()?;
        let done = complete(&mut there, 1, guest.limit(10))?[0];
        ensure!((done.user_data(), done.imm()) == (4, 78), "{done:?}");
        Ok(())
    });
}

#[test]
fn canceled_receive_keeps_what_came_beyond_the_end() {
    test(|guest| {
        let Loopback {
            near,
            far,
            near_context,
            far_context,
        } = Loopback::new(guest)?;
        let mine = Buffer::create(&near_context, 4096, Placement::Any)?;
        let theirs = Buffer::create(&far_context, 4096, Placement::Any)?;
        mine.write_at(0, b"kept");
        let (mut here, mut there) = (channel(&near_context)?, channel(&far_context)?);
        there.push(Entry::recv(&far))?;
        there.submit()?;
        let credited = poll::until(guest.limit(10), || {
            Ok((near.query()?.send_credits == 1).then_some(()))
        })?;
        ensure!(credited.is_some(), "the credit never comes");
        there.push(Entry::cancel_endpoint(&far))?;
        complete(&mut there, 2, guest.limit(10))?;
        here.push(Entry::send(&near, mine.range(0, 4), 77))?;
        complete(&mut here, 1, guest.limit(10))?[0].result()?;
        drop(near);
        let down = poll::until(guest.limit(10), || {
            Ok((far.query()?.state != EndpointState::Up).then_some(()))
        })?;
        ensure!(down.is_some(), "the far side never saw the end");
        there.push(Entry::recv_into(&far, theirs.range(0, 4)).user_data(1))?;
        let done = complete(&mut there, 1, guest.limit(10))?[0];
        ensure!((done.is_ok(), done.imm()) == (true, 77), "{done:?}");
        ensure!(theirs.to_vec(0..4) == b"kept");
        there.push(Entry::recv(&far).user_data(2))?;
        let done = complete(&mut there, 1, guest.limit(10))?[0];
        ensure!(!done.is_ok(), "{done:?}");
        Ok(())
    });
}

#[test]
fn grant_ends_with_its_time_to_live() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let terms = GrantTerms {
            // It must not be over before the near side has taken the grant.
            time_to_live: Some(guest.pick(Duration::from_millis(500), Duration::from_secs(2))),
            ..Default::default()
        };
        let (_theirs, own, given) = local.granted(guest, &terms)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        let mut there = channel(&local.far_context)?;
        there.push(Entry::watch_grant(&local.far, &own))?;
        let done = complete(&mut there, 1, guest.limit(10))?[0];
        ensure!(done.imm() == abi::GRANT_END_EXPIRED, "{done:?}");
        here.push(Entry::write(mine.range(0, 8), given.at(0)))?;
        let done = complete(&mut here, 1, guest.limit(10))?[0];
        ensure!(done.state() == State::Revoked, "{done:?}");
        // A later watch ends at once.
        there.push(Entry::watch_grant(&local.far, &own))?;
        let done = complete(&mut there, 1, guest.limit(10))?[0];
        ensure!(done.imm() == abi::GRANT_END_EXPIRED, "{done:?}");
        ensure!(is_up(&local)?, "the endpoint ended");
        Ok(())
    });
}

/// The grant used to be announced to the peer after it had been taken back: the peer then knew one that nobody took
/// back.
#[test]
fn grant_that_is_over_before_its_announcement_is_refused() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let mut there = channel(&local.far_context)?;
        let terms = GrantTerms {
            time_to_live: Some(Duration::from_millis(1)),
            ..Default::default()
        };
        // The endpoint's timer runs for this receive while the grant is not announced yet.
        let soon = Duration::from_millis(guest.pick(50, 200));
        there.push(Entry::recv(&local.far).time_limit(soon))?;
        there.submit()?;
        let delay = DelayPoint::open(
            "grant_unannounced",
            Duration::from_millis(guest.pick(300, 1000)),
        )?;
        let limit = guest.limit(10);
        let granted = local.far.grant_on(&theirs, 0..4096, &terms, limit);
        drop(delay);
        let errno = refusal(granted)?;
        ensure!(errno == Errno::STALE, "{errno:?}");
        let done = complete(&mut there, 1, limit)?[0];
        ensure!(done.state() == State::Timeout, "{done:?}");
        // The next grant is the first that the peer learns of.
        let terms = GrantTerms {
            label: 7,
            ..Default::default()
        };
        let _own = local.far.grant_on(&theirs, 0..4096, &terms, limit)?;
        let given = local.near.wait_grant(limit)?;
        ensure!(
            given.label() == 7,
            "the peer has the grant {}",
            given.label()
        );
        ensure!(is_up(&local)?, "the endpoint ended");
        Ok(())
    });
}

/// Time limits used to be checked only when the peer had answered, or when the limit for its answer was over.
#[test]
fn time_limits_do_not_wait_for_a_peers_answer() {
    test(|guest| {
        let _patient = patient_answers(guest)?;
        let local = Loopback::new(guest)?;
        let terms = GrantTerms {
            time_to_live: Some(Duration::from_millis(50)),
            ..Default::default()
        };
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let mut there = channel(&local.far_context)?;
        let limit = guest.limit(10);
        let delay = DelayPoint::open("message_received", Duration::from_secs(1))?;
        let own = local.far.grant_on(&theirs, 0..4096, &terms, limit)?;
        there.push(Entry::watch_grant(&local.far, &own).user_data(1))?;
        let soon = Duration::from_millis(100);
        there.push(Entry::recv(&local.far).time_limit(soon).user_data(2))?;
        let done = complete(&mut there, 2, limit)?;
        drop(delay);
        ensure!(done[0].user_data() == 2, "{done:?}");
        ensure!(done[0].state() == State::Timeout, "{done:?}");
        ensure!(done[1].imm() == abi::GRANT_END_EXPIRED, "{done:?}");
        ensure!(is_up(&local)?, "the endpoint ended");
        Ok(())
    });
}

#[test]
fn grant_ends_with_its_uses() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let terms = GrantTerms {
            max_uses: 3,
            ..Default::default()
        };
        for round in 0..20 {
            let (theirs, own, given) = local.granted(guest, &terms)?;
            let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
            mine.write_at(0, b"abcde");
            let mut here = channel(&local.near_context)?;
            let mut there = channel(&local.far_context)?;
            for at in 0..5 {
                here.push(Entry::write(mine.range(at, 1), given.at(at)))?;
            }
            let states: Vec<State> = complete(&mut here, 5, guest.limit(10))?
                .iter()
                .map(|done| done.state())
                .collect();
            let ok = states.iter().filter(|state| **state == State::Ok).count();
            let revoked = states
                .iter()
                .filter(|state| **state == State::Revoked)
                .count();
            ensure!((ok, revoked) == (3, 2), "{round}: {states:?}");
            there.push(Entry::watch_grant(&local.far, &own))?;
            let done = complete(&mut there, 1, guest.limit(10))?[0];
            ensure!(done.imm() == abi::GRANT_END_USED, "{round}: {done:?}");
            ensure!(theirs.to_vec(0..5) == b"abc\0\0", "{round}");
        }
        ensure!(is_up(&local)?, "the endpoint ended");
        Ok(())
    });
}

#[test]
fn peer_says_why_it_ends() {
    test(|guest| {
        let _patient = patient_wills(guest)?;
        let local = Loopback::new(guest)?;
        let mut here = channel(&local.near_context)?;
        here.push(Entry::watch(&local.near, 0, 0, 1))?;
        here.submit()?;
        let Loopback {
            near,
            far,
            near_context: _here,
            far_context: _there,
        } = local;
        drop(far);
        let done = complete(&mut here, 1, guest.limit(10))?[0];
        ensure!(done.state() == State::PeerDead, "{done:?}");
        let end = near.query()?.peer_end;
        ensure!(end == abi::PEER_END_CLOSED, "{end}");
        Ok(())
    });
}
