// SPDX-License-Identifier: MIT OR Apache-2.0

//! A peer whose kernel lies: fault points make this driver that kernel. What it lies to notices, counts and traces it, ends
//! that one connection with everything that waits on it, and nothing else.

use std::time::Duration;

use dmaplane::observe::trace::Event;
use dmaplane::observe::tracefs::Recording;
use dmaplane::{Buffer, Channel, EndpointState, Entry, Errno, GrantTerms, Placement, State};
use dmaplane_guest_tests::scenario::BIG;
use dmaplane_guest_tests::swept::ordinary;
use dmaplane_guest_tests::{Local, complete, destroy};
use dmaplane_testkit::faults::{self, Point, record};
use dmaplane_testkit::window::Window;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, ensure, poll, test};
use dmaplane_uapi as abi;

/// Two connections: one with a liar, and one that must not notice.
struct Beside {
    local: Local,
    bystander: Local,
    recording: Recording,
}

impl Beside {
    fn new(guest: &Guest) -> Result<Self> {
        faults::require()?;
        faults::quiet()?;
        Ok(Self {
            local: Local::new(guest)?,
            bystander: Local::new(guest)?,
            recording: Recording::start(&["endpoint_violation"])?,
        })
    }

    /// Waits until the far side has found out, and looks whether that is all there is to it.
    fn found_out(&self, guest: &Guest) -> Result<()> {
        let victim = &self.local.far;
        let down = poll::until(guest.limit(5), || match victim.query()?.state {
            EndpointState::Down(why) => Ok(Some(why)),
            EndpointState::Up => Ok(None),
        })?;
        ensure!(down == Some(Errno::PROTO), "its cause is {down:?}");
        let told = victim.query()?.violations;
        ensure!(told == 1, "{told} violations");
        for side in [&self.bystander.near, &self.bystander.far] {
            let told = side.query()?;
            let well = told.state == EndpointState::Up && told.violations == 0;
            ensure!(well, "the bystander is hit: {told:?}");
        }
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
        let forged = Point::once_here("credit_forged")?;
        here.push(Entry::write_imm(mine.range(0, 8), given.at(0), 1))?;
        // It may have been carried out: the provider asks nobody.
        complete(&mut here, 1, guest.limit(10))?;
        ensure!(forged.fired()? > 0, "no credit was forged");
        drop(forged);
        both.found_out(guest)
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

/// The near side has the far one's provider invalidate a key with a message, which no honest kernel does: of its own grant,
/// or of one that the bystander has, which rxe does not refuse. It used to be taken for an ordinary message, and the grant was
/// dead without a word.
fn invalidates(guest: &Guest, of_bystander: bool) -> Result<()> {
    let both = Beside::new(guest)?;
    let liar = &both.local;
    let granted_to = match of_bystander {
        true => &both.bystander,
        false => liar,
    };
    // The last one that any peer gave.
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
    // The honest side was asked to give it back, and may have another.
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

/// It lies and hangs up. The connection manager, which knows no reasons, is faster than the lie, and used to have the last
/// word.
#[test]
fn hostile_peer_lies_and_hangs_up() {
    test(|guest| {
        let both = Beside::new(guest)?;
        let (near, victim) = (&both.local.near, &both.local.far);
        let mine = Buffer::create(&both.local.near_context, 4096, Placement::Any)?;
        let late = Window::open("mailed", Duration::from_millis(guest.pick(300, 1000)))?;
        let forged = Point::once_here("generation_forged")?;
        let (terms, limit) = (GrantTerms::default(), guest.limit(2));
        let granted = near.grant_on(&mine, 0..4096, &terms, limit);
        ensure!(forged.fired()? > 0, "nothing was forged");
        drop(forged);
        destroy(&both.local.near_context, near.raw_handle())?;
        drop(granted);
        let gone = poll::until(guest.limit(5), || {
            let told = victim.query()?;
            let early = told.state == EndpointState::Down(Errno::CONNRESET);
            Ok((early || told.violations > 0).then_some(early))
        })?;
        println!("told first that the peer has gone: {gone:?}");
        let noticed = poll::until(guest.limit(5), || {
            Ok((victim.query()?.violations > 0).then_some(()))
        })?;
        noticed.context("the lie is not noticed")?;
        drop(late);
        both.found_out(guest)
    });
}

/// The announcement of an operation's length is not believed. What follows it used to be delivered all the same, with the
/// length of its last piece.
#[test]
fn hostile_peer_spoils_an_announcement() {
    test(|guest| {
        let both = Beside::new(guest)?;
        let local = &both.local;
        let limit = guest.limit(10);
        let mut primed = local.primed(guest, BIG)?;
        let mut there = Channel::builder().entries(4).build(&local.far_context)?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        local.credited(guest, 1)?;
        // The victim reads what it is told when all of it has arrived.
        let late = Window::open("mailed", Duration::from_millis(guest.pick(200, 1000)))?;
        let forged = Point::once_here("totals_forged")?;
        primed.here.push(primed.whole_imm(1)?)?;
        complete(&mut primed.here, 1, limit)?;
        ensure!(forged.fired()? > 0, "no totals were forged");
        drop(late);
        let came = complete(&mut there, 1, limit)?;
        ensure!(came[0].state() == State::Error, "{came:?}");
        drop(forged);
        both.found_out(guest)
    });
}

/// The liar uses up every receive while its victim is busy, and then the victim's provider takes none back: nothing is left to
/// be flushed, which is what used to tell receives that wait of the end. They waited until their owner destroyed the endpoint.
#[test]
fn hostile_peer_leaves_no_receive_to_be_flushed() {
    /// More than the receives of a queue pair, which has a depth of 64 and those for messages.
    const FLOOD: u32 = 200;
    /// Enough for the victim to be busy until the others have run out.
    const RECEIVES: u32 = 32;
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Local::new(guest)?;
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
        let busy = Window::open("arrived", Duration::from_secs(1))?;
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
        // Of the flood too, each has its one completion.
        complete(&mut here, FLOOD, guest.limit(20))?;
        record(|_| ())?;
        ordinary(guest)
    });
}
