// SPDX-License-Identifier: MIT OR Apache-2.0

//! READ, SEND, FENCE and WATCH: what they do, and what they refuse.

use std::time::Duration;

use dmaplane::{Buffer, Channel, Entry, Errno, Field, GrantTerms, Placement, Rights, State};
use dmaplane_guest_tests::{Loopback, complete};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::{Result, ensure, poll, test};

const READABLE: GrantTerms = GrantTerms {
    rights: Rights::READ,
    label: 0,
    time_to_live: None,
    max_uses: 0,
};

fn channel(context: &dmaplane::Context) -> Result<Channel> {
    Ok(Channel::builder().entries(64).build(context)?)
}

#[test]
fn read_brings_the_peers_bytes() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (theirs, _grant, given) = local.granted(guest, &READABLE)?;
        theirs.write_at(100, b"read me");
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut channel = channel(&local.near_context)?;
        channel.push(Entry::read(mine.range(8, 7), given.at(100)))?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(done.result()? == 7, "{done:?}");
        ensure!(mine.to_vec(8..15) == b"read me");
        Ok(())
    });
}

#[test]
fn read_and_write_need_their_rights() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_one, _grant, readable) = local.granted(guest, &READABLE)?;
        let (_other, _grant2, writable) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut channel = channel(&local.near_context)?;
        channel.push(Entry::write(mine.range(0, 8), readable.at(0)))?;
        channel.push(Entry::read(mine.range(0, 8), writable.at(0)))?;
        for done in complete(&mut channel, 2, guest.limit(10))? {
            let error = done.result().err();
            let cause = error.map(|error| (error.errno(), error.field()));
            ensure!(cause == Some((Errno::PERM, Field::Grant)), "{done:?}");
        }
        Ok(())
    });
}

#[test]
fn send_brings_bytes_and_immediate() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let most = local.near_context.limits().max_send_bytes;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let text: Vec<u8> = (0..most).map(|at| at as u8 ^ 0x5a).collect();
        mine.write_at(0, &text);
        let mut here = channel(&local.near_context)?;
        let mut there = channel(&local.far_context)?;
        there.push(Entry::recv_into(&local.far, theirs.range(4000, 96)))?;
        there.push(Entry::recv_into(&local.far, theirs.range(0, most)))?;
        there.submit()?;
        here.push(Entry::send(&local.near, mine.range(0, 5), 7))?;
        here.push(Entry::send(&local.near, mine.range(0, most), 8))?;
        for done in complete(&mut here, 2, guest.limit(10))? {
            done.result()?;
        }
        let came = complete(&mut there, 2, guest.limit(10))?;
        ensure!((came[0].imm(), came[0].result()?) == (7, 5), "{came:?}");
        ensure!(
            (came[1].imm(), came[1].result()?) == (8, most.into()),
            "{came:?}"
        );
        ensure!(theirs.to_vec(4000..4005) == text[..5]);
        ensure!(theirs.to_vec(0..most.into()) == text);
        Ok(())
    });
}

#[test]
fn send_refuses_what_is_too_long_on_either_side() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let most = local.near_context.limits().max_send_bytes;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        let mut there = channel(&local.far_context)?;
        here.push(Entry::send(&local.near, mine.range(0, most + 1), 0))?;
        let done = complete(&mut here, 1, guest.limit(10))?[0];
        let error = done
            .result()
            .err()
            .map(|error| (error.errno(), error.field()));
        ensure!(error == Some((Errno::MSGSIZE, Field::Length)), "{done:?}");
        // A receive with less room, and one with none.
        there.push(Entry::recv_into(&local.far, theirs.range(0, 4)))?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        here.push(Entry::send(&local.near, mine.range(0, 5), 1))?;
        here.push(Entry::send(&local.near, mine.range(0, 5), 2))?;
        for done in complete(&mut here, 2, guest.limit(10))? {
            done.result()?;
        }
        for done in complete(&mut there, 2, guest.limit(10))? {
            let error = done.result().err().map(|error| error.errno());
            ensure!(error == Some(Errno::MSGSIZE), "{done:?}");
        }
        // The endpoint lives on, and an immediate alone needs no room.
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        here.push(Entry::send(&local.near, mine.range(0, 0), 3))?;
        complete(&mut here, 1, guest.limit(10))?[0].result()?;
        let came = complete(&mut there, 1, guest.limit(10))?[0];
        ensure!(came.is_ok() && came.imm() == 3, "{came:?}");
        Ok(())
    });
}

#[test]
fn fence_comes_after_what_was_before() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        for round in 0..50 {
            for at in 0..8 {
                here.push(Entry::write(mine.range(0, 4096), given.at(0)).user_data(at))?;
            }
            here.push(Entry::fence(&local.near).user_data(8))?;
            here.push(Entry::write(mine.range(0, 64), given.at(0)).user_data(9))?;
            let order: Vec<u64> = complete(&mut here, 10, guest.limit(10))?
                .iter()
                .map(|done| done.result().map(|_| done.user_data()))
                .collect::<std::result::Result<_, _>>()?;
            ensure!(order == (0..10).collect::<Vec<u64>>(), "{round}: {order:?}");
        }
        // Behind nothing it is done at once.
        here.push(Entry::fence(&local.near))?;
        complete(&mut here, 1, guest.limit(10))?[0].result()?;
        Ok(())
    });
}

#[test]
fn fence_waits_for_what_waits_for_credits() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let mut here = channel(&local.near_context)?;
        let mut there = channel(&local.far_context)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        here.push(Entry::send(&local.near, mine.range(0, 0), 1).user_data(1))?;
        here.push(Entry::fence(&local.near).user_data(2))?;
        let nothing = here.submit_and_wait(1, Duration::from_millis(50))?;
        ensure!(nothing.available == 0, "{nothing:?}");
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        let done = complete(&mut here, 2, guest.limit(10))?;
        ensure!(
            done[0].user_data() == 1 && done[1].user_data() == 2,
            "{done:?}"
        );
        let info = local.near.query()?;
        ensure!(
            info.stalls == 1 && info.stalled.as_millis() >= 50,
            "{info:?}"
        );
        ensure!(info.not_ready == 0, "{info:?}");
        Ok(())
    });
}

#[test]
fn watch_counts_what_matches() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let mut here = channel(&local.near_context)?;
        let mut there = channel(&local.far_context)?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        there.push(Entry::watch(&local.far, 0x0200, 0xff00, 3).user_data(100))?;
        for at in 0..8 {
            there.push(Entry::recv(&local.far).user_data(at))?;
        }
        there.submit()?;
        for imm in [0x0100, 0x0201, 0x0203, 0x0300, 0x0202, 0x0204] {
            here.push(Entry::send(&local.near, mine.range(0, 0), imm))?;
        }
        complete(&mut here, 6, guest.limit(10))?;
        let done = complete(&mut there, 7, guest.limit(10))?;
        let order: Vec<u64> = done.iter().map(|done| done.user_data()).collect();
        // Behind the receive of the third one that matches.
        ensure!(order == [0, 1, 2, 3, 4, 100, 5], "{order:?}");
        for (mask, imm, count, field) in
            [(0xff, 0x100, 1, Field::Imm), (0xff, 0x01, 0, Field::Length)]
        {
            there.push(Entry::watch(&local.far, imm, mask, count))?;
            let done = complete(&mut there, 1, guest.limit(10))?[0];
            let named = done.result().err().map(|error| error.field());
            ensure!(named == Some(field), "{done:?}");
        }
        Ok(())
    });
}

/// The receive of an arrival has completed, and the watches have not been looked at: one that is added now used to count
/// that arrival.
#[test]
fn watch_counts_only_what_comes_after_it() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        let mut there = channel(&local.far_context)?;
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        local.credited(guest, 1)?;
        let slow = DelayPoint::open(
            "arrival_delivered",
            guest.pick(Duration::from_millis(300), Duration::from_secs(1)),
        )?;
        here.push(Entry::write_imm(mine.range(0, 8), given.at(0), 1))?;
        here.submit()?;
        complete(&mut there, 1, guest.limit(10))?[0].result()?;
        let later = guest.pick(Duration::from_secs(1), Duration::from_secs(3));
        there.push(Entry::watch(&local.far, 0, 0, 1).time_limit(later))?;
        let done = complete(&mut there, 1, guest.limit(10))?[0];
        drop(slow);
        ensure!(done.state() == State::Timeout, "{done:?}");
        complete(&mut here, 1, guest.limit(10))?[0].result()?;
        Ok(())
    });
}

/// The only operation that waits for receives is canceled: nothing waits any more, and the time stands still.
#[test]
fn stall_ends_with_what_waited() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        for round in 1..3 {
            let waiting = Entry::write_imm(mine.range(0, 8), given.at(0), 1);
            here.push(waiting.user_data(1))?;
            here.submit()?;
            let stalled = poll::until(guest.limit(5), || {
                Ok((local.near.query()?.stalls == round).then_some(()))
            })?;
            ensure!(
                stalled.is_some(),
                "round {round}: {:?}",
                local.near.query()?
            );
            here.push(Entry::cancel(&local.near, 1).user_data(2))?;
            complete(&mut here, 2, guest.limit(10))?;
            let then = local.near.query()?.stalled;
            let now = local.near.query()?.stalled;
            ensure!(then == now, "round {round}: {then:?}, then {now:?}");
        }
        Ok(())
    });
}

#[test]
fn window_of_one_carries_everything() {
    test(|guest| {
        let local = Loopback::with_window(guest, (1, 1))?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut here = channel(&local.near_context)?;
        for _ in 0..64 {
            here.push(Entry::write(mine.range(0, 4096), given.at(0)))?;
        }
        here.submit()?;
        let posted = local.near.query()?.posted;
        ensure!(posted <= 1, "{posted} under way");
        for done in complete(&mut here, 64, guest.limit(20))? {
            ensure!(done.state() == State::Ok, "{done:?}");
        }
        Ok(())
    });
}
