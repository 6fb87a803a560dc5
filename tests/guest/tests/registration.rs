// SPDX-License-Identifier: MIT OR Apache-2.0

//! Slow registrations: those who wait for one wait by a time limit, and nobody else waits.

use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, ConnectOptions, Endpoint, Entry, Errno, GrantTerms, Listener, Placement, State,
};
use dmaplane_guest_tests::{Loopback, asleep, complete, refusal};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::{Gauges, Guest, Result, anyhow, ensure, gauges, poll, test};

/// How long the provider's answer takes: the longest delay of a delay point.
const LONG: Duration = Duration::from_secs(1);
/// The limit of what waits for it.
const SHORT: Duration = Duration::from_millis(300);

/// Another connection between the same contexts.
fn second(guest: &Guest, local: &Loopback) -> Result<(Endpoint, Endpoint)> {
    let listener = Listener::bind(&local.far_context, guest.local_any_port(), 4)?;
    let limit = guest.limit(10);
    let options = ConnectOptions {
        recv_depth: 64,
        timeout: limit,
        ..Default::default()
    };
    thread::scope(|scope| {
        let accepting = scope.spawn(|| listener.accept(64, limit));
        let near = Endpoint::connect(&local.near_context, listener.local(), &options)?;
        let far = accepting
            .join()
            .map_err(|_| anyhow!("the acceptor panicked"))?;
        Ok((near, far?))
    })
}

/// Submission used to wait for the registration, with the locks of channel and buffer, past every time limit and
/// uninterruptibly.
#[test]
fn registration_under_way_delays_nobody_else() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let other = second(guest, &local)?;
        let bytes = 1 << 20;
        let terms = GrantTerms::default();
        let theirs = Buffer::create(&local.far_context, bytes, Placement::Any)?;
        let limit = guest.limit(10);
        let _own = local.far.grant_on(&theirs, 0..bytes, &terms, limit)?;
        let given = local.near.wait_grant(limit)?;
        let _other_own = other.1.grant_on(&theirs, 0..bytes, &terms, limit)?;
        let other_given = other.0.wait_grant(limit)?;
        let known = Buffer::create(&local.near_context, bytes, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&local.near_context)?;
        channel.push(Entry::write(known.range(0, 4096), other_given.at(0)))?;
        complete(&mut channel, 1, limit)?[0].result()?;

        let fresh = Buffer::create(&local.near_context, bytes, Placement::Any)?;
        let delay = DelayPoint::open("registration_done", LONG)?;
        let begun = Instant::now();
        // One with a limit, which is kept, and one that waits for its turn.
        let write = |offset| Entry::write(fresh.range(offset, 4096), given.at(offset));
        channel.push(write(0).user_data(1).time_limit(SHORT))?;
        channel.push(write(4096).user_data(2))?;
        // Another endpoint, whose memory is registered, and the same memory through another endpoint.
        let through = Entry::write(known.range(0, 4096), other_given.at(8192));
        channel.push(through.user_data(3))?;
        channel.submit()?;
        let submitted = begun.elapsed();
        ensure!(submitted < LONG, "submission took {submitted:?}");
        let first = complete(&mut channel, 1, limit)?[0];
        ensure!(first.user_data() == 3, "{first:?}");
        first.result()?;
        let took = begun.elapsed();
        ensure!(took < LONG, "another endpoint's took {took:?}");
        let late = complete(&mut channel, 1, limit)?[0];
        ensure!(
            late.user_data() == 1 && late.state() == State::Timeout,
            "{late:?}"
        );
        let took = begun.elapsed();
        ensure!(took < LONG, "a limit of {SHORT:?} took {took:?}");
        // A grant over other memory waits for the same provider, as long as its limit says.
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let asked = Instant::now();
        let refused = refusal(local.near.grant_on(&mine, 0..4096, &terms, SHORT))?;
        ensure!(refused == Errno::TIMEDOUT, "{refused}");
        ensure!(asked.elapsed() < LONG, "it took {:?}", asked.elapsed());
        drop(delay);
        let done = complete(&mut channel, 1, limit)?[0];
        ensure!(done.user_data() == 2, "{done:?}");
        done.result()?;
        ensure!(begun.elapsed() >= LONG, "the registration was not delayed");
        Ok(())
    });
}

/// The channel and the buffer are destroyed before the provider has answered: the answer must not touch freed memory.
#[test]
fn registration_under_way_outlives_who_wanted_it() {
    test(|guest| {
        let before = Gauges::read()?;
        let local = Loopback::new(guest)?;
        let (theirs, own, given) = local.granted(guest, &GrantTerms::default())?;
        for round in 0..guest.pick(5, 2) {
            let delay = DelayPoint::open("registration_done", SHORT)?;
            let buffer = Buffer::create(&local.near_context, 4096, Placement::Any)?;
            let mut channel = Channel::builder().entries(8).build(&local.near_context)?;
            channel.push(Entry::write(buffer.range(0, 8), given.at(0)).user_data(1))?;
            channel.submit()?;
            channel.push(Entry::cancel_all().user_data(2))?;
            let ended = complete(&mut channel, 2, guest.limit(10))?;
            let canceled = ended.iter().find(|done| done.user_data() == 1);
            ensure!(
                canceled.is_some_and(|done| done.state() == State::Canceled),
                "round {round}: {ended:?}"
            );
            drop(channel);
            // Revoking waits for the provider, and returns when it is done.
            match round % 2 {
                0 => buffer.revoke()?,
                _ => drop(buffer),
            }
            drop(delay);
        }
        // The connection lives.
        let buffer = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&local.near_context)?;
        channel.push(Entry::write(buffer.range(0, 8), given.at(0)))?;
        complete(&mut channel, 1, guest.limit(10))?[0].result()?;
        drop((channel, buffer, given, own, theirs));
        drop(local);
        gauges::settle(&before, guest.limit(10))?;
        Ok(())
    });
}

/// A burst of first uses exceeds the places that the provider has for registrations.
#[test]
fn registration_of_many_at_once() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let bytes = 64 * 4096;
        let (theirs, _own, given) = local.granted_bytes(guest, bytes, &GrantTerms::default())?;
        let mut channel = Channel::builder().entries(64).build(&local.near_context)?;
        let mut buffers = Vec::new();
        for page in 0..64u32 {
            let buffer = Buffer::create(&local.near_context, 4096, Placement::Any)?;
            buffer.write_at(0, &[page as u8 + 1; 4096]);
            let write = Entry::write(buffer.range(0, 4096), given.at(u64::from(page) * 4096));
            channel.push(write)?;
            buffers.push(buffer);
        }
        for done in complete(&mut channel, 64, guest.limit(20))? {
            done.result()?;
        }
        let found = theirs.to_vec(0..bytes);
        let right = found
            .chunks(4096)
            .zip(1u8..)
            .all(|(page, value)| page.iter().all(|byte| *byte == value));
        ensure!(right, "wrong bytes");
        let known = poll::until(guest.limit(5), || {
            Ok((Gauges::read()?.get("regions") >= 65).then_some(()))
        })?;
        ensure!(known.is_some(), "registrations were not kept");
        Ok(())
    });
}

/// A grant whose registration waits for a place uses the memory. Its revocation used to wait until something else woke the
/// grant's thread.
#[test]
fn registration_that_waits_for_a_place_is_revoked() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let bytes = 64 * 4096;
        let terms = GrantTerms::default();
        let (_theirs, _own, given) = local.granted_bytes(guest, bytes, &terms)?;
        let mut channel = Channel::builder().entries(64).build(&local.near_context)?;
        let memory = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let first_uses = (0..32)
            .map(|_| Buffer::create(&local.near_context, 4096, Placement::Any))
            .collect::<Result<Vec<_>, _>>()?;
        let delay = DelayPoint::open("registration_done", LONG)?;
        let begun = Instant::now();
        for (page, buffer) in (0..).zip(&first_uses) {
            channel.push(Entry::write(buffer.range(0, 4096), given.at(page * 4096)))?;
        }
        channel.submit()?;
        thread::scope(|scope| -> Result<()> {
            let (near, memory) = (&local.near, &memory);
            let limit = guest.limit(20);
            let grant = move || refusal(near.grant_on(memory, 0..4096, &terms, limit));
            let granting = asleep(scope, limit, grant)?;
            let revoking = Instant::now();
            memory.revoke()?;
            let took = revoking.elapsed();
            // Nothing else happens on this endpoint before the provider's first answer, a long time after `begun`.
            ensure!(
                took < LONG / 2,
                "it took {took:?}, {:?} since then",
                begun.elapsed()
            );
            let granted = granting
                .join()
                .map_err(|_| anyhow!("the grant panicked"))??;
            ensure!(granted == Errno::STALE, "{granted:?}");
            Ok(())
        })?;
        drop(delay);
        for done in complete(&mut channel, 32, guest.limit(40))? {
            done.result()?;
        }
        Ok(())
    });
}
