// SPDX-License-Identifier: MIT OR Apache-2.0

//! Taking memory away by its owner: operations under way end, holders are notified, the connection lives on.

use std::time::Duration;

use dmaplane::{
    Buffer, Channel, Completion, Context, EndpointState, Entry, Errno, GrantTerms, Placement,
    RevokeCause, Rights, Standing, State,
};
use dmaplane_guest_tests::race::{against, at_delay_points, once_each};
use dmaplane_guest_tests::{Loopback, complete, refusal};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::{ErrorContext as _, Result, ensure, sys, test};
use dmaplane_uapi as abi;

const PAGE: u64 = 4096;

/// Fails unless a completion says that the memory was revoked.
fn is_revoked(done: &Completion) -> Result<()> {
    let errno = done.result().err().map(|error| error.errno());
    ensure!(
        done.state() == State::Revoked && errno == Some(Errno::STALE),
        "{done:?}"
    );
    Ok(())
}

fn is_up(local: &Loopback) -> Result<()> {
    for endpoint in [&local.near, &local.far] {
        let info = endpoint.query()?;
        ensure!(info.state == EndpointState::Up, "{info:?}");
    }
    Ok(())
}

#[test]
fn revoke_memory_ends_what_waits_on_it() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let context = &local.near_context;
        let mine = Buffer::create(context, PAGE, Placement::Any)?;
        let other = Buffer::create(context, PAGE, Placement::Any)?;
        let mut channel = Channel::builder().entries(32).build(context)?;
        // Without the peer's receives the first kind waits, without its SENDs the second.
        for name in 0..4 {
            let write = Entry::write_imm(mine.range(0, 64), given.at(0), 1);
            channel.push(write.user_data(name))?;
            let receive = Entry::recv_into(&local.near, mine.range(0, 64));
            channel.push(receive.user_data(4 + name))?;
        }
        channel.push(Entry::watch_buffer(&mine).user_data(8))?;
        // Nothing of this concerns the other buffer.
        channel.push(Entry::write_imm(other.range(0, 64), given.at(0), 2).user_data(9))?;
        channel.push(Entry::watch_buffer(&other).user_data(10))?;
        channel.submit()?;
        let before = mine.memory()?;
        ensure!(
            before.standing == Standing::Live && before.cause.is_none(),
            "{before:?}"
        );
        mine.revoke()?;
        let info = mine.memory()?;
        ensure!(info.standing == Standing::Revoked, "{info:?}");
        ensure!(info.cause == Some(RevokeCause::Owner), "{info:?}");
        // All of them had ended when the call returned.
        let done = complete(&mut channel, 9, Duration::ZERO)?;
        once_each(&done, 9, &[State::Revoked, State::Ok])?;
        for done in done {
            if done.user_data() == 8 {
                ensure!(
                    done.result()? == 0 && done.imm() == abi::REVOKE_OWNER,
                    "{done:?}"
                );
            } else {
                is_revoked(&done)?;
            }
        }
        // Again changes nothing.
        mine.revoke()?;
        is_up(&local)?;
        // The credits that the receives left behind are good for the next ones.
        let mut there = Channel::builder().entries(8).build(&local.far_context)?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(done.user_data() == 9 && done.is_ok(), "{done:?}");
        channel.push(Entry::cancel_watch(&other, 10).user_data(11))?;
        let done = complete(&mut channel, 2, guest.limit(10))?;
        ensure!(
            done[0].user_data() == 10 && done[0].state() == State::Canceled,
            "{done:?}"
        );
        ensure!(done[1].result()? == 1, "{done:?}");
        Ok(())
    });
}

#[test]
fn revoke_memory_refuses_use_after() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let context = &local.near_context;
        let mine = Buffer::create(context, PAGE, Placement::Any)?;
        let other = Buffer::create(context, PAGE, Placement::Any)?;
        mine.revoke()?;
        let mut channel = Channel::builder().entries(8).build(context)?;
        for entry in [
            Entry::write(mine.range(0, 64), given.at(0)),
            Entry::write_imm(mine.range(0, 64), given.at(0), 1),
            Entry::read(mine.range(0, 64), given.at(0)),
            Entry::send(&local.near, mine.range(0, 64), 1),
            Entry::recv_into(&local.near, mine.range(0, 64)),
            Entry::copy(mine.range(0, 64), &other, 0),
            Entry::copy(other.range(0, 64), &mine, 0),
        ] {
            // A READ needs a right that the grant does not have, which is reported first.
            channel.push(entry)?;
            let done = complete(&mut channel, 1, guest.limit(10))?[0];
            if entry.raw().op == abi::OP_READ {
                ensure!(done.state() == State::Error, "{done:?}");
            } else {
                is_revoked(&done).with_context(|| format!("{entry:?}"))?;
            }
        }
        channel.push(Entry::watch_buffer(&mine))?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(done.is_ok() && done.imm() == abi::REVOKE_OWNER, "{done:?}");
        let limit = guest.limit(10);
        let granted = local
            .near
            .grant_on(&mine, 0..PAGE, &GrantTerms::default(), limit);
        ensure!(refusal(granted)? == Errno::STALE, "another errno");
        ensure!(refusal(mine.map(0..PAGE))? == Errno::STALE, "another errno");
        is_up(&local)
    });
}

#[test]
fn revoke_memory_watch_ends_with_the_name() {
    test(|guest| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let timed = Entry::watch_buffer(&buffer).time_limit(Duration::from_secs(1));
        channel.push(timed)?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        let field = done.result().err().map(|error| error.field());
        ensure!(field == Some(dmaplane::Field::Timeout), "{done:?}");
        for name in 0..3 {
            channel.push(Entry::watch_buffer(&buffer).user_data(name))?;
        }
        channel.submit()?;
        channel.push(Entry::cancel_all().user_data(9))?;
        let done = complete(&mut channel, 4, guest.limit(10))?;
        ensure!(done[3].result()? == 3, "{done:?}");
        channel.push(Entry::watch_buffer(&buffer))?;
        channel.submit()?;
        // What is mapped keeps the memory, but nobody can name it any more.
        let _mapping = buffer.into_mapping();
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(done.state() == State::Canceled, "{done:?}");
        Ok(())
    });
}

#[test]
fn revoke_memory_takes_mappings_away() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 8 * PAGE, Placement::Any)?;
        let flag = Buffer::create(&context, PAGE, Placement::Any)?;
        buffer.write_at(0, &[7; 8 * PAGE as usize]);
        let second = buffer.map(PAGE..3 * PAGE)?;
        let mut seen = [0; 2 * PAGE as usize];
        second.read_at(0, &mut seen);
        ensure!(seen == [7; 2 * PAGE as usize], "another page is mapped");
        // The child has the pages that its parent has touched, and sees the revocation by its parent.
        let child = sys::fork(|| {
            let mut word = [0; 8];
            while word == [0; 8] {
                flag.read_at(0, &mut word);
            }
            buffer.write_at(0, &[1]);
            true
        })?;
        buffer.revoke()?;
        flag.write_at(0, &[1; 8]);
        ensure!(child.wait_signal()? == 7, "not SIGBUS");
        sys::replace_taken_pages()?;
        for mapping in 0..2 {
            let taken = sys::taken_pages();
            let mut seen = [7; 8];
            match mapping {
                0 => buffer.read_at(4 * PAGE, &mut seen),
                _ => second.read_at(0, &mut seen),
            }
            ensure!(seen == [0; 8], "the memory shows through: {seen:?}");
            ensure!(sys::taken_pages() == taken + 1, "no SIGBUS");
        }
        let residency = buffer.residency()?;
        ensure!(residency.bytes == 8 * PAGE, "{residency:?}");
        Ok(())
    });
}

#[test]
fn revoke_memory_takes_grants_back() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, PAGE, Placement::Any)?;
        for round in 0..guest.pick(200, 20) {
            let (theirs, grant, given) = local.granted(guest, &GrantTerms::default())?;
            let mut here = Channel::builder().entries(64).build(&local.near_context)?;
            let mut there = Channel::builder().entries(8).build(&local.far_context)?;
            there.push(Entry::watch_grant(&local.far, &grant))?;
            there.submit()?;
            for name in 0..32 {
                here.push(Entry::write(mine.range(0, 4096), given.at(0)).user_data(name))?;
            }
            here.submit()?;
            theirs.revoke()?;
            let done = complete(&mut there, 1, Duration::ZERO)?[0];
            ensure!(
                done.is_ok() && done.imm() == abi::GRANT_END_MEMORY,
                "round {round}: {done:?}"
            );
            let done = complete(&mut here, 32, guest.limit(10))?;
            once_each(&done, 32, &[State::Ok, State::Revoked])?;
            is_up(&local)?;
        }
        Ok(())
    });
}

#[test]
fn revoke_delay_point_enter() {
    test(|guest| {
        let context = Context::open()?;
        let delay_points = ["entry_accepted", "use_begun", "revocation_begun", "drained"];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
            let other = Buffer::create(&context, PAGE, Placement::Any)?;
            let mut channel = Channel::builder().entries(64).build(&context)?;
            for name in 0..32 {
                channel.push(Entry::copy(other.range(0, 4096), &buffer, 0).user_data(name))?;
            }
            let done = against(&buffer, || complete(&mut channel, 32, guest.limit(10)))?;
            once_each(&done, 32, &[State::Ok, State::Revoked])
        })
    });
}

#[test]
fn revoke_delay_point_fault() {
    test(|guest| {
        let context = Context::open()?;
        sys::replace_taken_pages()?;
        let delay_points = ["use_begun", "revocation_begun", "drained"];
        let bytes = 256 * PAGE;
        let nines = Buffer::create(&context, bytes, Placement::Any)?;
        for page in 0..bytes / PAGE {
            nines.write_at(page * PAGE, &[9; PAGE as usize]);
        }
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let buffer = Buffer::create(&context, bytes, Placement::Any)?;
            let mut channel = Channel::builder().entries(8).build(&context)?;
            let length = u32::try_from(bytes)?;
            channel.push(Entry::copy(nines.range(0, length), &buffer, 0))?;
            complete(&mut channel, 1, guest.limit(10))?[0].result()?;
            against(&buffer, || {
                for page in 0..bytes / PAGE {
                    buffer.write_at(page * PAGE, &[1]);
                }
                Ok(())
            })?;
            // A page that a fault put back behind the revocation would show what the memory holds.
            for page in 0..bytes / PAGE {
                let seen = buffer.to_vec(page * PAGE + 8..page * PAGE + 9);
                ensure!(seen == [0], "page {page} shows {seen:?}");
            }
            Ok(())
        })
    });
}

#[test]
fn revoke_delay_point_post() {
    test(|guest| {
        let delay_points = [
            "entry_accepted",
            "use_begun",
            "work_completed",
            "revocation_begun",
            "dequeued",
            "drained",
        ];
        let local = Loopback::new(guest)?;
        let (theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let buffer = Buffer::create(&local.near_context, PAGE, Placement::Any)?;
            buffer.write_at(0, &[3; 4096]);
            let mut channel = Channel::builder().entries(64).build(&local.near_context)?;
            for name in 0..32 {
                channel.push(
                    match name % 4 {
                        0 => Entry::recv_into(&local.near, buffer.range(0, 64)),
                        1 => Entry::write_imm(buffer.range(0, 64), given.at(0), 0),
                        _ => Entry::write(buffer.range(0, 4096), given.at(0)),
                    }
                    .user_data(name),
                )?;
            }
            let done = against(&buffer, || complete(&mut channel, 32, guest.limit(10)))?;
            once_each(&done, 32, &[State::Ok, State::Revoked])?;
            let seen = theirs.to_vec(0..4096);
            let whole = seen.iter().all(|byte| *byte == 3 || *byte == 0);
            ensure!(whole, "something else was sent");
            is_up(&local)
        })
    });
}

/// A READ in steps is given up between two of them. It ends as flushed, which is no failure of the queue pair: the
/// endpoint used to go down for it.
#[test]
fn revoke_between_the_steps_of_a_read_leaves_the_connection() {
    test(|guest| {
        const LENGTH: u32 = 4 << 20;
        let local = Loopback::new(guest)?;
        let terms = GrantTerms {
            rights: Rights::READ,
            ..Default::default()
        };
        let (_theirs, _grant, given) = local.granted_bytes(guest, LENGTH.into(), &terms)?;
        let limit = guest.limit(10);
        for round in 0..guest.pick(5, 2) {
            let buffer = Buffer::create(&local.near_context, LENGTH.into(), Placement::Any)?;
            let mut channel = Channel::builder().entries(4).build(&local.near_context)?;
            // Registers the buffer, so that the next ones are posted at once.
            channel.push(Entry::read(buffer.range(0, 8), given.at(0)))?;
            complete(&mut channel, 1, limit)?[0].result()?;
            for name in 0..2 {
                channel.push(Entry::read(buffer.range(0, LENGTH), given.at(0)).user_data(name))?;
            }
            channel.submit()?;
            // Revoked, and nobody notified yet: a step that is over meanwhile is the last one.
            let delay = DelayPoint::open("revocation_begun", Duration::from_millis(300))?;
            buffer.revoke()?;
            drop(delay);
            let done = complete(&mut channel, 2, limit)?;
            once_each(&done, 2, &[State::Ok, State::Revoked])?;
            let last = done.iter().find(|done| done.user_data() == 1);
            is_revoked(last.context("the second READ")?)?;
            is_up(&local).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    });
}

#[test]
fn revoke_delay_point_grant() {
    test(|guest| {
        let delay_points = ["use_begun", "revocation_begun", "grant_returned", "drained"];
        let local = Loopback::new(guest)?;
        let mine = Buffer::create(&local.near_context, PAGE, Placement::Any)?;
        let limit = guest.limit(10);
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let theirs = Buffer::create(&local.far_context, PAGE, Placement::Any)?;
            let terms = GrantTerms::default();
            let granted = against(&theirs, || {
                Ok(local.far.grant_on(&theirs, 0..PAGE, &terms, limit))
            })?;
            match granted {
                // It came first: the peer got it, and it has ended.
                Ok(grant) => {
                    let mut there = Channel::builder().entries(8).build(&local.far_context)?;
                    there.push(Entry::watch_grant(&local.far, &grant))?;
                    let done = complete(&mut there, 1, limit)?[0];
                    ensure!(done.imm() == abi::GRANT_END_MEMORY, "{done:?}");
                }
                Err(error) => ensure!(error.errno() == Some(Errno::STALE), "{error}"),
            }
            // Whether or not the peer knew of it, a write through it ends in REVOKED.
            while let Ok(given) = local.near.wait_grant(Duration::ZERO) {
                let mut here = Channel::builder().entries(8).build(&local.near_context)?;
                here.push(Entry::write(mine.range(0, 64), given.at(0)))?;
                let done = complete(&mut here, 1, limit)?[0];
                ensure!(done.state() == State::Revoked, "{done:?}");
            }
            is_up(&local)
        })
    });
}

#[test]
fn revoke_delay_point_both_revokers() {
    test(|guest| {
        let delay_points = ["revocation_begun", "drained", "use_begun"];
        let context = Context::open()?;
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
            // The second caller must find the revocation done as well.
            let standing = against(&buffer, || {
                buffer.revoke()?;
                Ok(buffer.memory()?.standing)
            })?;
            ensure!(standing == Standing::Revoked, "{standing:?}");
            Ok(())
        })
    });
}
