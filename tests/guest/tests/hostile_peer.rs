// SPDX-License-Identifier: MIT OR Apache-2.0

//! A peer whose kernel lies: fault points make this driver lie. The victim notices, counts and traces it, and ends that
//! one connection with everything that waits on it, and nothing else.

use std::time::Duration;

use dmaplane::{Buffer, Channel, EndpointState, Entry, Errno, GrantTerms, Placement, State};
use dmaplane_guest_tests::scenario::BIG;
use dmaplane_guest_tests::swept::ordinary;
use dmaplane_guest_tests::{Loopback, complete, destroy};
use dmaplane_observe::trace::Event;
use dmaplane_observe::tracefs::Recording;
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::faults::{self, Point, record};
use dmaplane_testkit::{ErrorContext as _, Guest, Result, ensure, poll, test};
use dmaplane_uapi as abi;

/// Two connections: one with a liar, and one that must not notice.
struct Beside {
    local: Loopback,
    bystander: Loopback,
    recording: Recording,
}

impl Beside {
    fn new(guest: &Guest) -> Result<Self> {
        faults::require()?;
        faults::quiet()?;
        Ok(Self {
            local: Loopback::new(guest)?,
            bystander: Loopback::new(guest)?,
            recording: Recording::start(&["endpoint_violation"])?,
        })
    }

    fn spares_the_bystander(&self) -> Result<()> {
        for side in [&self.bystander.near, &self.bystander.far] {
            let info = side.query()?;
            let well = info.state == EndpointState::Up && info.violations == 0;
            ensure!(well, "the bystander is hit: {info:?}");
        }
        Ok(())
    }

    /// Waits until the far side has found out, and checks that nothing else is affected.
    fn found_out(&self, guest: &Guest) -> Result<()> {
        let victim = &self.local.far;
        let down = poll::until(guest.limit(5), || match victim.query()?.state {
            EndpointState::Down(why) => Ok(Some(why)),
            EndpointState::Up => Ok(None),
        })?;
        ensure!(down == Some(Errno::PROTO), "its cause is {down:?}");
        let count = victim.query()?.violations;
        ensure!(count == 1, "{count} violations");
        self.spares_the_bystander()?;
        let events = self.recording.events()?;
        let violations = |event: &&Event| event.name == "endpoint_violation";
        let events = events.iter().filter(violations).count();
        ensure!(events == 1, "{events} events");
        record(|_| ())?;
        ordinary(guest)
    }
}

#[test]
fn hostile_peer_sends_what_it_has_no_credit_for() {
    test(|guest| {
        let both = Beside::new(guest)?;
        let local = &both.local;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let (_theirs, _own, given) = local.granted(guest, &GrantTerms::default())?;
        let mut here = Channel::builder().entries(4).build(&local.near_context)?;
        // In whatever thread: an operation whose memory is still being registered is posted by another.
        let forged = Point::always("credit_forged")?;
        here.push(Entry::write_imm(mine.range(0, 8), given.at(0), 1))?;
        // It may have been carried out: the provider knows nothing of credits.
        complete(&mut here, 1, guest.limit(10))?;
        ensure!(forged.fired()? > 0, "no credit was forged");
        drop(forged);
        both.found_out(guest)
    });
}

/// A grant ends with its last byte, and not with that byte's page: the peer's kernel could reach the rest of the page.
#[test]
fn hostile_peer_reaches_beyond_its_grant() {
    const GRANTED: u64 = 100;
    test(|guest| {
        let both = Beside::new(guest)?;
        let (local, limit) = (&both.local, guest.limit(10));
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        theirs.write_at(0, &[7; 4096]);
        let terms = GrantTerms::default();
        let own = local.far.grant_on(&theirs, 0..GRANTED, &terms, limit)?;
        let given = local.near.wait_grant(limit)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = Channel::builder().entries(4).build(&local.near_context)?;
        here.push(Entry::write(mine.range(0, 8), given.at(GRANTED - 8)))?;
        complete(&mut here, 1, limit)?[0].result()?;
        let forged = Point::always("range_forged")?;
        here.push(Entry::write(mine.range(0, 8), given.at(GRANTED)))?;
        let done = complete(&mut here, 1, limit)?[0];
        ensure!(forged.fired()? > 0, "nothing was forged");
        drop(forged);
        ensure!(done.state() == State::Error, "{done:?}");
        let bytes = theirs.to_vec(GRANTED - 9..GRANTED + 8);
        ensure!(bytes[..9] == [7, 0, 0, 0, 0, 0, 0, 0, 0], "{bytes:?}");
        ensure!(bytes[9..] == [7; 8], "beyond the grant: {bytes:?}");
        both.spares_the_bystander()?;
        drop(own);
        record(|_| ())?;
        ordinary(guest)
    });
}

/// The near side grants, and lies in the message that says so.
fn lies_with_a_grant(guest: &Guest, point: &str) -> Result<()> {
    let both = Beside::new(guest)?;
    let local = &both.local;
    let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    let forged = Point::once_here(point)?;
    let (terms, limit) = (GrantTerms::default(), guest.limit(2));
    let granted = local.near.grant_on(&mine, 0..4096, &terms, limit);
    ensure!(forged.fired()? > 0, "nothing was forged");
    drop(forged);
    both.found_out(guest)?;
    drop(granted);
    Ok(())
}

#[test]
fn hostile_peer_claims_receives_that_cannot_be() {
    test(|guest| lies_with_a_grant(guest, "totals_forged"));
}

#[test]
fn hostile_peer_lies_about_a_generation() {
    test(|guest| lies_with_a_grant(guest, "generation_forged"));
}

/// Two grants of one number: what ended one of them used to end the other, and to free its keys under a spinlock.
#[test]
fn hostile_peer_repeats_the_number_of_a_grant() {
    test(|guest| {
        let both = Beside::new(guest)?;
        let local = &both.local;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let (terms, limit) = (GrantTerms::default(), guest.limit(5));
        let first = local.near.grant_on(&mine, 0..4096, &terms, limit)?;
        local.far.wait_grant(limit)?;
        let repeated = Point::once_here("number_repeated")?;
        let second = local.near.grant_on(&mine, 0..4096, &terms, limit);
        ensure!(repeated.fired()? > 0, "no number was repeated");
        drop(repeated);
        both.found_out(guest)?;
        drop((first, second));
        Ok(())
    });
}

/// The near side sends a message that has the far one's provider invalidate a key, which no honest kernel does: that of
/// its own grant, or of one that the bystander has, which rxe does not refuse. It used to be taken for an ordinary
/// message, and nobody reported that the grant was dead.
fn invalidates(guest: &Guest, of_bystander: bool) -> Result<()> {
    let both = Beside::new(guest)?;
    let liar = &both.local;
    let granted_to = match of_bystander {
        true => &both.bystander,
        false => liar,
    };
    // The latest grant of all.
    let (theirs, own, given) = granted_to.granted(guest, &GrantTerms::default())?;
    let mut there = Channel::builder()
        .entries(4)
        .build(&granted_to.far_context)?;
    there.push(Entry::watch_grant(&granted_to.far, &own))?;
    there.submit()?;
    let mine = Buffer::create(&liar.near_context, 4096, Placement::Any)?;
    let forged = Point::once_here("send_invalidates")?;
    let (terms, limit) = (GrantTerms::default(), guest.limit(2));
    let granted = liar.near.grant_on(&mine, 0..4096, &terms, limit);
    ensure!(forged.fired()? > 0, "nothing was forged");
    drop(forged);
    let done = complete(&mut there, 1, guest.limit(5))?[0];
    let ended = done.is_ok() && done.imm() == abi::GRANT_END_INVALIDATED;
    ensure!(ended, "{done:?}");
    both.found_out(guest)?;
    drop(granted);
    if !of_bystander {
        return Ok(());
    }
    // The honest side was asked to give it back, and may get another.
    let gone = poll::until(guest.limit(5), || {
        let grants = std::fs::read_to_string("/sys/kernel/debug/dmaplane/state/grants")?;
        Ok((!grants.contains("side=peer")).then_some(()))
    })?;
    gone.context("the peer still has the grant")?;
    let near_context = &granted_to.near_context;
    let source = Buffer::create(near_context, 4096, Placement::Any)?;
    let mut here = Channel::builder().entries(4).build(near_context)?;
    here.push(Entry::write(source.range(0, 8), given.at(0)))?;
    let done = complete(&mut here, 1, guest.limit(10))?[0];
    ensure!(done.state() == State::Revoked, "{done:?}");
    let (_again, _own, given) = granted_to.granted(guest, &GrantTerms::default())?;
    here.push(Entry::write(source.range(0, 8), given.at(0)))?;
    complete(&mut here, 1, guest.limit(10))?[0].result()?;
    drop(theirs);
    Ok(())
}

#[test]
fn hostile_peer_invalidates_its_grant() {
    test(|guest| invalidates(guest, false));
}

#[test]
fn hostile_peer_invalidates_the_grant_of_another() {
    test(|guest| invalidates(guest, true));
}

/// The victim is being destroyed when the key of another endpoint's grant goes: its timer, which used to find out whose
/// key it was, runs no more. Nobody reported that the grant was dead.
#[test]
fn hostile_peer_invalidates_during_a_teardown() {
    test(|guest| {
        let both = Beside::new(guest)?;
        let (liar, honest) = (&both.local, &both.bystander);
        let mine = Buffer::create(&liar.near_context, 4096, Placement::Any)?;
        let terms = GrantTerms::default();
        let lent = liar.near.grant_on(&mine, 0..4096, &terms, guest.limit(5))?;
        // The latest grant of all.
        let (theirs, own, _given) = honest.granted(guest, &terms)?;
        let mut there = Channel::builder().entries(4).build(&honest.far_context)?;
        there.push(Entry::watch_grant(&honest.far, &own))?;
        there.submit()?;
        // The liar does not hear that its victim goes.
        let deaf = Point::always("message_lost")?;
        let ending = DelayPoint::open("ending", Duration::from_secs(1))?;
        std::thread::scope(|scope| -> Result<()> {
            let victim = (&liar.far_context, liar.far.raw_handle());
            let destroying = scope.spawn(move || destroy(victim.0, victim.1));
            let down = poll::until(guest.limit(5), || {
                let endpoints =
                    std::fs::read_to_string("/sys/kernel/debug/dmaplane/state/endpoints")?;
                Ok(endpoints.contains("state=down").then_some(()))
            })?;
            down.context("the victim does not go down")?;
            let forged = Point::once_here("send_invalidates")?;
            // Takes its grant back, which sends a message at once.
            lent.revoke();
            ensure!(forged.fired()? > 0, "nothing was forged");
            let destroyed = destroying.join();
            destroyed.map_err(|_| dmaplane_testkit::anyhow!("a thread panicked"))?
        })?;
        drop(ending);
        drop(deaf);
        let done = complete(&mut there, 1, guest.limit(5))?[0];
        let ended = done.is_ok() && done.imm() == abi::GRANT_END_INVALIDATED;
        ensure!(ended, "{done:?}");
        both.spares_the_bystander()?;
        drop(theirs);
        record(|_| ())?;
        ordinary(guest)
    });
}

/// It lies and disconnects. The disconnect event, which has no reason, is faster than the lie, and used to determine
/// the cause.
#[test]
fn hostile_peer_lies_and_hangs_up() {
    test(|guest| {
        let both = Beside::new(guest)?;
        let (near, victim) = (&both.local.near, &both.local.far);
        let mine = Buffer::create(&both.local.near_context, 4096, Placement::Any)?;
        let late = DelayPoint::open(
            "message_received",
            Duration::from_millis(guest.pick(300, 1000)),
        )?;
        let forged = Point::once_here("generation_forged")?;
        let (terms, limit) = (GrantTerms::default(), guest.limit(2));
        let granted = near.grant_on(&mine, 0..4096, &terms, limit);
        ensure!(forged.fired()? > 0, "nothing was forged");
        drop(forged);
        destroy(&both.local.near_context, near.raw_handle())?;
        drop(granted);
        let gone = poll::until(guest.limit(5), || {
            let info = victim.query()?;
            let early = info.state == EndpointState::Down(Errno::CONNRESET);
            Ok((early || info.violations > 0).then_some(early))
        })?;
        println!("the disconnect was reported first: {gone:?}");
        let noticed = poll::until(guest.limit(5), || {
            Ok((victim.query()?.violations > 0).then_some(()))
        })?;
        noticed.context("the lie is not noticed")?;
        drop(late);
        both.found_out(guest)
    });
}

/// The announcement of an operation's length is rejected. The operation used to be delivered all the same, with the
/// length of its last piece.
#[test]
fn hostile_peer_spoils_an_announcement() {
    test(|guest| {
        let both = Beside::new(guest)?;
        let local = &both.local;
        let limit = guest.limit(10);
        let mut granted = local.granted_whole(guest, BIG)?;
        // The memory is registered from here on. Otherwise the end of the registration, in another thread, would post
        // the operation below and announce it.
        granted.here.push(granted.whole()?)?;
        complete(&mut granted.here, 1, limit)?[0].result()?;
        let mut there = Channel::builder().entries(4).build(&local.far_context)?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        local.credited(guest, 1)?;
        // The victim reads its messages after all of the data has arrived.
        let late = DelayPoint::open(
            "message_received",
            Duration::from_millis(guest.pick(200, 1000)),
        )?;
        let forged = Point::once_here("totals_forged")?;
        granted.here.push(granted.whole_imm(1)?)?;
        complete(&mut granted.here, 1, limit)?;
        ensure!(forged.fired()? > 0, "no totals were forged");
        drop(late);
        let came = complete(&mut there, 1, limit)?;
        ensure!(came[0].state() == State::Error, "{came:?}");
        drop(forged);
        both.found_out(guest)
    });
}

/// The liar uses up every receive while its victim is busy, and then the victim's provider takes no new ones: nothing
/// is left to be flushed. Only the flush used to end waiting receives: they waited until their owner destroyed the
/// endpoint.
#[test]
fn hostile_peer_leaves_no_receive_to_be_flushed() {
    /// More than the receives of a queue pair, which has a depth of 64 and those for messages.
    const FLOOD: u32 = 200;
    /// Enough for the victim to be busy until the others have run out.
    const RECEIVES: u32 = 32;
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let (_theirs, _own, given) = local.granted(guest, &GrantTerms::default())?;
        let builder = || Channel::builder().entries(256);
        let mut here = builder().build(&local.near_context)?;
        let mut there = builder().build(&local.far_context)?;
        for _ in 0..RECEIVES {
            there.push(Entry::recv(&local.far))?;
        }
        there.submit()?;
        local.credited(guest, RECEIVES)?;
        let forged = Point::always("credit_forged")?;
        let busy = DelayPoint::open("receive_completed", Duration::from_secs(1))?;
        for imm in 0..FLOOD {
            here.push(Entry::write_imm(mine.range(0, 8), given.at(0), imm))?;
        }
        here.submit()?;
        let empty = poll::until(guest.limit(20), || {
            Ok((local.near.query()?.not_ready > 0).then_some(()))
        })?;
        empty.context("the receives never ran out")?;
        let refused = Point::always("post_receive")?;
        drop(busy);
        let done = complete(&mut there, RECEIVES, guest.limit(10))?;
        ensure!(refused.fired()? > 0, "no receive was refused");
        drop(refused);
        drop(forged);
        let well = done.iter().filter(|done| done.is_ok()).count();
        ensure!(well > 0 && well < done.len(), "{well} ended well: {done:?}");
        let state = local.far.query()?.state;
        ensure!(matches!(state, EndpointState::Down(_)), "{state:?}");
        // Each operation of the flood has its one completion as well.
        complete(&mut here, FLOOD, guest.limit(20))?;
        record(|_| ())?;
        ordinary(guest)
    });
}
