// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device's memory is taken away while RDMA, COPY and the processor use it: by its owner, by unbinding, by removal from
//! the bus and by unplugging.

use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, ChannelBuilder, DeviceInfo, EndpointState, Entry, GrantTerms, Placement,
    Polling, RevokeCause, Standing, State, Tier,
};
use dmaplane_guest_tests::device::{Bound, Monitor, Slot, device, rebound};
use dmaplane_guest_tests::{Loopback, complete, patient_answers};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::faults::{self, record};
use dmaplane_testkit::{
    ErrorContext as _, Guest, Profile, Result, Skip, Topology, ensure, poll, sys, test,
};

const PAGE: u64 = 4096;

/// Entries are taken by the caller's thread.
fn called() -> ChannelBuilder {
    Channel::builder().entries(64)
}

/// Entries are taken by a polling thread, which ends in no user's call.
fn polled() -> ChannelBuilder {
    called().polling(Polling::default())
}

/// Uses memory while it is taken away: COPY, RDMA and the processor's access, all at once, until something ends.
fn busy(
    guest: &Guest,
    (local, channel): (&Loopback, ChannelBuilder),
    given: &dmaplane::RemoteGrant,
    mine: &Buffer,
    host: &Buffer,
    take_away: impl FnOnce() -> Result<()> + Send,
) -> Result<u64> {
    let mut channel = channel.build(&local.near_context)?;
    for name in 0..32 {
        channel.push(
            match name % 4 {
                0 => Entry::copy(host.range(0, 4096), mine, 0),
                1 => Entry::copy(mine.range(0, 4096), host, 0),
                _ => Entry::write(mine.range(0, 4096), given.at(0)),
            }
            .user_data(name),
        )?;
    }
    std::thread::scope(|scope| {
        let taker = scope.spawn(take_away);
        let toucher = scope.spawn(|| {
            for at in 0..256 {
                mine.write_at(at * 8, &[at as u8; 8]);
            }
        });
        let done = complete(&mut channel, 32, guest.limit(20))?;
        let mut revoked = 0;
        for done in &done {
            let state = done.state();
            ensure!(matches!(state, State::Ok | State::Revoked), "{done:?}");
            revoked += u64::from(state == State::Revoked);
        }
        let joined = (taker.join(), toucher.join());
        match joined {
            (Ok(result), Ok(())) => result.map(|()| revoked),
            _ => Err(dmaplane_testkit::anyhow!("a thread panicked")),
        }
    })
}

/// Takes memory of the device away again and again, while it is used.
fn again_and_again(
    guest: &Guest,
    rounds: u64,
    channel: ChannelBuilder,
    how: impl Fn(&DeviceInfo, &Buffer) -> Result<()> + Sync,
) -> Result<()> {
    sys::replace_taken_pages()?;
    let _patient = patient_answers(guest)?;
    let local = Loopback::new(guest)?;
    // Skips where there is none: only then is the next one waited for.
    device(guest, &local.near_context)?;
    let (theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
    let host = Buffer::create(&local.near_context, PAGE, Placement::Any)?;
    let started = Instant::now();
    let mut revoked = 0;
    let mut last = 0;
    for round in 0..rounds {
        let device = rebound(guest, &local.near_context, 0)?;
        ensure!(device.number >= last, "{device:?} after {last}");
        last = device.number;
        let near = &local.near_context;
        let mine = Buffer::on_device(near, device.number, Tier::Uncached, PAGE, None)?;
        let taken = || how(&device, &mine);
        revoked += busy(guest, (&local, channel), &given, &mine, &host, taken)
            .with_context(|| format!("round {round}"))?;
        let standing = mine.memory()?.standing;
        ensure!(standing == Standing::Revoked, "round {round}: {standing:?}");
        ensure!(
            local.near.query()?.state == EndpointState::Up,
            "round {round}: the connection ended"
        );
    }
    println!(
        "{rounds} times in {:?}: {revoked} operations revoked, {} touches too late",
        started.elapsed(),
        sys::taken_pages()
    );
    drop(theirs);
    Ok(())
}

#[test]
fn revoke_device_memory_under_way() {
    test(|guest| {
        again_and_again(guest, guest.rounds(1_000, 100), called(), |_, buffer| {
            Ok(buffer.revoke()?)
        })
    });
}

#[test]
fn revoke_by_unbinding_under_way() {
    test(|guest| {
        again_and_again(guest, guest.rounds(1_000, 100), called(), |device, _| {
            let bound = Bound::of(device)?;
            bound.unbind()?;
            bound.bind()
        })
    });
}

/// A device goes with two buffers of its memory. The second one's operation comes back late, and nobody waits for it
/// before the first one is closed as well: waits used to add up, a second for each buffer.
#[test]
fn revoke_by_unbinding_closes_all_memory_first() {
    test(|guest| {
        let _patient = patient_answers(guest)?;
        let local = Loopback::new(guest)?;
        let near = &local.near_context;
        let found = device(guest, near)?;
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let on_device = || Buffer::on_device(near, found.number, Tier::Uncached, PAGE, None);
        let (idle, used) = (on_device()?, on_device()?);
        let mut channel = called().build(near)?;
        // Registered from here on: the operation below goes to the provider at once.
        channel.push(Entry::write(used.range(0, 8), given.at(0)))?;
        complete(&mut channel, 1, guest.limit(10))?[0].result()?;
        let late = DelayPoint::open("work_completed", guest.limit(1))?;
        channel.push(Entry::write(used.range(0, 8), given.at(0)))?;
        channel.submit()?;
        let bound = Bound::of(&found)?;
        let closed_meanwhile = std::thread::scope(|scope| -> Result<bool> {
            let removal = scope.spawn(|| bound.unbind());
            let mut closed_meanwhile = false;
            let over = poll::until(guest.limit(10), || {
                // In this order: what is revoked later is looked at first.
                let (first, second) = (idle.memory()?.standing, used.memory()?.standing);
                closed_meanwhile |= first != Standing::Live && second == Standing::Revoking;
                Ok((second == Standing::Revoked).then_some(()))
            });
            let removed = removal.join();
            removed.map_err(|_| dmaplane_testkit::anyhow!("a thread panicked"))??;
            over?.context("the removal does not end")?;
            Ok(closed_meanwhile)
        })?;
        drop(late);
        bound.bind()?;
        ensure!(closed_meanwhile, "one buffer waited for the other");
        complete(&mut channel, 1, guest.limit(10))?;
        for buffer in [&idle, &used] {
            let info = buffer.memory()?;
            ensure!(info.cause == Some(RevokeCause::Device), "{info:?}");
        }
        Ok(())
    });
}

#[test]
fn revoke_by_unbinding_under_a_polling_thread() {
    test(|guest| {
        again_and_again(guest, guest.rounds(200, 20), polled(), |device, _| {
            let bound = Bound::of(device)?;
            bound.unbind()?;
            bound.bind()
        })
    });
}

#[test]
fn revoke_by_removing_the_device_under_way() {
    test(|guest| {
        guest.require(&[Topology::Unplug], "moves a BAR, which wants one CPU")?;
        again_and_again(guest, guest.rounds(1_000, 100), called(), |device, _| {
            let bound = Bound::of(device)?;
            bound.remove()?;
            bound.rescan()
        })
    });
}

#[test]
fn bar_delay_points_of_the_removal() {
    test(|guest| {
        let length = Duration::from_micros(guest.pick(2_000, 20_000));
        for name in ["use_begun", "revocation_begun", "drained", "device_removal"] {
            let _delay = DelayPoint::open(name, length)?;
            again_and_again(guest, guest.pick(5, 2), called(), |device, _| {
                let bound = Bound::of(device)?;
                bound.unbind()?;
                bound.bind()
            })
            .with_context(|| format!("delay point {name}"))?;
        }
        Ok(())
    });
}

/// Unplugs the device through QEMU's monitor while RDMA, COPY and the processor use it, and plugs another. The slot's
/// lamp blinks for 5 s first, as the standard has it, unless that is cut short. Gives the operations that ended well.
fn unplug_in_mid_transfer(
    guest: &Guest,
    rounds: u64,
    cut_short: bool,
    channel: ChannelBuilder,
) -> Result<u64> {
    guest.require(&[Topology::Unplug], "needs QEMU's monitor")?;
    if guest.profile == Profile::Debug {
        let why = "lockdep finds an order of locks in pciehp itself, see docs/findings.md";
        return Err(Skip::new(why).into());
    }
    sys::replace_taken_pages()?;
    let local = Loopback::new(guest)?;
    let found = device(guest, &local.near_context)?;
    let slot = cut_short.then(|| Slot::of(&found)).transpose()?;
    let mut monitor = Monitor::open()?;
    let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
    let near = &local.near_context;
    let host = Buffer::create(near, PAGE, Placement::Any)?;
    let mut number = found.number;
    let mut well = 0;
    for round in 0..rounds {
        let mine = Buffer::on_device(near, number, Tier::Uncached, PAGE, None)?;
        let mut channel = channel.build(near)?;
        let mut touched = 0;
        // RDMA, COPY and the processor; gives the operations that ended well.
        let mut work = || -> Result<u64> {
            channel.push(Entry::write(mine.range(0, 4096), given.at(0)))?;
            channel.push(Entry::copy(host.range(0, 4096), &mine, 0))?;
            channel.push(Entry::copy(mine.range(0, 4096), &host, 0))?;
            mine.write_at(touched % PAGE / 8 * 8, &[1; 8]);
            touched += 8;
            let mut moved = 0;
            for done in complete(&mut channel, 3, guest.limit(20))? {
                let state = done.state();
                ensure!(matches!(state, State::Ok | State::Revoked), "{done:?}");
                moved += u64::from(state == State::Ok);
            }
            Ok(moved)
        };
        let moved = std::thread::scope(|scope| -> Result<u64> {
            let mut moved = work()?;
            ensure!(moved == 3, "{moved} of 3 before it is unplugged");
            let unplugging = scope.spawn(|| monitor.unplug(guest, slot.as_ref()));
            while !unplugging.is_finished() || mine.memory()?.standing == Standing::Live {
                moved += work()?;
            }
            let unplugged = unplugging.join();
            unplugged.map_err(|_| dmaplane_testkit::anyhow!("a thread panicked"))??;
            Ok(moved)
        })
        .with_context(|| format!("round {round}"))?;
        well += moved;
        let info = mine.memory()?;
        ensure!(info.cause == Some(RevokeCause::Device), "{info:?}");
        ensure!(local.near.query()?.state == EndpointState::Up, "down");
        monitor.plug(guest)?;
        number = rebound(guest, near, number)
            .with_context(|| format!("round {round}"))?
            .number;
    }
    let fresh = Buffer::on_device(near, number, Tier::Uncached, PAGE, None)?;
    fresh.write_at(0, &[5; 8]);
    ensure!(fresh.to_vec(0..8) == [5; 8], "another byte");
    Ok(well)
}

#[test]
fn revoke_by_unplugging_in_mid_transfer() {
    test(|guest| {
        let well = unplug_in_mid_transfer(guest, 3, false, called())?;
        println!("{well} operations before the ends");
        Ok(())
    });
}

#[test]
fn revoke_by_unplugging_under_a_polling_thread() {
    test(|guest| {
        let well = unplug_in_mid_transfer(guest, 3, true, polled())?;
        println!("{well} operations before the ends");
        Ok(())
    });
}

#[test]
fn revoke_by_unplugging_again_and_again() {
    test(|guest| {
        let rounds = if faults::full() { 1000 } else { 10 };
        let started = Instant::now();
        let well = unplug_in_mid_transfer(guest, rounds, true, called())?;
        let milliseconds = u64::try_from(started.elapsed().as_millis())?;
        println!("{rounds} times in {milliseconds} ms, {well} operations before the ends");
        record(|record| record.race("unplugging against transfers", rounds, milliseconds))
    });
}
