// SPDX-License-Identifier: MIT OR Apache-2.0

//! As the suite `faults_nth`, for calls on existing objects, for kernel threads, and for files that are closed with
//! everything in use.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::Duration;

use dmaplane::{
    Buffer, Channel, Context, DeviceInfo, Entry, Errno, GrantTerms, Listener, OpKind, Placement,
    Polling, Pool, Stage, State, Tier,
};
use dmaplane_guest_tests::device::device;
use dmaplane_guest_tests::swept::{as_documented, ordinary, swept};
use dmaplane_guest_tests::{Loopback, complete, destroy};
use dmaplane_testkit::faults::{self, Swept, record};
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Guest, Result, bail, ensure, gauges, seed, sys, test,
};

const BYTES: u64 = 16 << 10;

#[test]
fn nth_questions() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let context = &local.near_context;
        let buffer = Buffer::create(context, BYTES, Placement::Any)?;
        let done = swept(guest, "questions", |nth| {
            let mut failed = as_documented(&nth.step(|| buffer.folios(0))?, &[])?;
            failed |= as_documented(&nth.step(|| buffer.memory())?, &[])?;
            failed |= as_documented(&nth.step(|| DeviceInfo::list(context))?, &[])?;
            failed |= as_documented(&nth.step(|| local.near.query())?, &[])?;
            let latency = || local.near.latency(OpKind::Write, Stage::Total, true);
            failed |= as_documented(&nth.step(latency)?, &[])?;
            Ok(failed)
        })?;
        ensure!(done.failures > 0, "{done:?}");
        ordinary(guest)
    });
}

/// Memory of every kind is mapped, touched and taken away.
#[test]
fn nth_mapping_touch_and_revocation() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let watching = Context::open()?;
        let devices = DeviceInfo::list(&watching)?.len();
        for kind in ["host", "import", "device"] {
            if kind == "device" && devices == 0 {
                continue;
            }
            let name = format!("{kind} memory: mmap, touch, watch, revoke");
            let done = swept(guest, &name, |nth| {
                let context = Context::open()?;
                let exporter = Context::open()?;
                let original = Buffer::create(&exporter, BYTES, Placement::Any)?;
                let buffer = match kind {
                    "host" => Buffer::create(&context, BYTES, Placement::Any)?,
                    "import" => Buffer::import(&context, original.export()?.as_fd())?,
                    _ => {
                        let number = device(guest, &context)?.number;
                        Buffer::on_device(&context, number, Tier::Uncached, BYTES, None)?
                    }
                };
                let mut channel = Channel::builder().entries(4).build(&context)?;
                let mapped = nth.step(|| buffer.map(0..BYTES))?;
                let mut failed = as_documented(&mapped, &[])?;
                if let Ok(mapped) = mapped {
                    nth.step(|| mapped.write_at(0, &[7; 8]))?;
                    let mut word = [0; 8];
                    mapped.read_at(0, &mut word);
                    ensure!(word == [7; 8], "{word:?}");
                }
                channel.push(Entry::watch_buffer(&buffer))?;
                let entered = nth.step(|| channel.submit())?;
                failed |= as_documented(&entered, &[])?;
                if entered.is_err() {
                    channel.submit()?;
                }
                // Revoking works without memory: it only fails if its argument cannot be copied.
                let revoked = nth.step(|| buffer.revoke())?;
                failed |= as_documented(&revoked, &[])?;
                if revoked.is_err() {
                    buffer.revoke()?;
                }
                let done = complete(&mut channel, 1, guest.limit(10))?[0];
                let well = matches!(done.state(), State::Ok | State::Error);
                ensure!(well, "{done:?}");
                failed |= done.state() == State::Error;
                Ok(failed)
            })?;
            ensure!(done.failures > 0, "{name}: {done:?}");
        }
        ordinary(guest)
    });
}

/// A polling thread takes the entries: completions, not calls, report what fails there.
#[test]
fn nth_polled_channel() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "polled channel: create, wake, destroy", |nth| {
            let context = Context::open()?;
            let polling = Polling {
                idle: Duration::ZERO,
                ..Polling::default()
            };
            let builder = Channel::builder().entries(8).polling(polling);
            let made = nth.step(|| builder.build(&context))?;
            let mut failed = as_documented(&made, &[])?;
            if let Ok(mut channel) = made {
                for _ in 0..8 {
                    channel.push(Entry::nop())?;
                }
                let woken = nth.step(|| channel.submit())?;
                failed |= as_documented(&woken, &[])?;
                if woken.is_err() {
                    channel.submit()?;
                }
                for done in complete(&mut channel, 8, guest.limit(10))? {
                    done.result()?;
                }
                nth.step(|| drop(channel))?;
            }
            Ok(failed)
        })?;
        ensure!(done.failures > 0, "{done:?}");
        ordinary(guest)
    });
}

/// The `fail-nth` file of the only polling thread: it sets the fault, and shows how many steps are left.
fn polling_thread() -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // It may be a process that has just ended, or no process at all.
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("dmaplane-poll") {
            found.push(path.join("fail-nth"));
        }
    }
    ensure!(found.len() == 1, "{} polling threads", found.len());
    found.pop().context("none")
}

/// One operation of each kind, the first of them on memory that is not registered yet, with a fault in the thread that
/// takes them. Returns whether the fault was injected, and whether something failed because of it.
fn taken_by_a_thread(guest: &Guest, n: u32) -> Result<(bool, bool)> {
    let local = Loopback::new(guest)?;
    let (theirs, own, given) = local.granted(guest, &GrantTerms::default())?;
    let mine = Buffer::create(&local.near_context, BYTES, Placement::Any)?;
    let builder = Channel::builder().entries(16).polling(Polling::default());
    let mut here = builder.build(&local.near_context)?;
    let mut there = Channel::builder().entries(8).build(&local.far_context)?;
    for _ in 0..2 {
        there.push(Entry::recv(&local.far))?;
    }
    there.submit()?;
    local.credited(guest, 2)?;
    let file = polling_thread()?;
    fs::write(&file, n.to_string())?;
    for entry in [
        Entry::write(mine.range(0, 4096), given.at(0)),
        Entry::write_imm(mine.range(0, 64), given.at(0), 1),
        Entry::send(&local.near, mine.range(0, 8), 2),
        Entry::copy(mine.range(0, 64), &mine, 64),
        Entry::fence(&local.near),
        Entry::recv_into(&local.near, mine.range(0, 64)),
        Entry::watch(&local.near, 0, 0, u32::MAX),
        Entry::watch_buffer(&mine),
    ] {
        here.push(entry)?;
    }
    here.submit()?;
    // The cancel ends the operations that wait for what never comes.
    let mut done = complete(&mut here, 5, guest.limit(10))?;
    here.push(Entry::cancel_all())?;
    done.extend(complete(&mut here, 4, guest.limit(10))?);
    let left: u32 = fs::read_to_string(&file)?.trim().parse()?;
    fs::write(&file, "0")?;
    let mut failed = false;
    for done in &done {
        match done.state() {
            State::Ok | State::Canceled => {}
            State::Error => {
                let errno = done.result().err().map(|error| error.errno());
                // The latter when a device takes fewer pages than it should.
                let known = [Some(Errno::NOMEM), Some(Errno::IO)].contains(&errno);
                ensure!(known, "{done:?}");
                failed = true;
            }
            _ => bail!("{done:?}"),
        }
    }
    drop((own, theirs));
    Ok((left == 0, failed))
}

/// Each fallible step of a polling thread: no call can report its failure.
#[test]
fn nth_polling_thread() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let before = Gauges::read()?;
        let stride = if faults::full() { 1 } else { guest.pick(4, 10) };
        let first = 1 + u32::try_from(seed()? % stride as u64)?;
        let mut done = Swept::default();
        let mut all = false;
        for n in (first..faults::CAP).step_by(stride) {
            gauges::settle(&before, guest.limit(10)).with_context(|| format!("step {n}"))?;
            let round = taken_by_a_thread(guest, n).with_context(|| format!("step {n}"))?;
            let (met, failed) = round;
            if !met {
                ensure!(!failed, "something failed without a fault, after {n} steps");
                all = true;
                break;
            }
            done.faults += 1;
            done.failures += u32::from(failed);
        }
        ensure!(all, "more than {} fallible steps", faults::CAP);
        ensure!(done.failures > 0, "{done:?}");
        println!("a polling thread: {done:?}");
        record(|record| record.sweep("a polling thread's entries", done))?;
        ordinary(guest)
    });
}

#[test]
fn nth_watch_of_a_grant() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "grant: watch, destroy", |nth| {
            // Of its own: a message that is not sent ends the connection.
            let local = Loopback::new(guest)?;
            let mut there = Channel::builder().entries(4).build(&local.far_context)?;
            let (theirs, own, given) = local.granted(guest, &GrantTerms::default())?;
            there.push(Entry::watch_grant(&local.far, &own))?;
            let entered = nth.step(|| there.submit())?;
            let mut failed = as_documented(&entered, &[])?;
            if entered.is_err() {
                there.submit()?;
            }
            let destroyed = nth.step(|| destroy(&local.far_context, own.raw_handle()))?;
            if destroyed.is_err() {
                failed = true;
                destroy(&local.far_context, own.raw_handle())?;
            }
            let ended = complete(&mut there, 1, guest.limit(10))?[0];
            failed |= !ended.is_ok();
            drop((given, theirs));
            Ok(failed)
        });
        ensure!(done?.failures > 0, "nothing failed");
        ordinary(guest)
    });
}

/// A file is closed with everything in use, as the kernel does it when a process dies. The process does not die: the
/// faults would hit other work of the kernel as well, and 9p does not survive all of them.
#[test]
fn nth_close_with_everything_in_use() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let watching = Context::open()?;
        let devices = DeviceInfo::list(&watching)?.len();
        let done = swept(guest, "close with everything in use", |nth| {
            let Loopback {
                near,
                far,
                near_context,
                far_context,
            } = Loopback::new(guest)?;
            let (terms, limit) = (GrantTerms::default(), guest.limit(10));
            let mine = Buffer::create(&near_context, BYTES, Placement::Any)?;
            let theirs = Buffer::create(&far_context, BYTES, Placement::Any)?;
            let own = near.grant_on(&mine, 0..BYTES, &terms, limit)?;
            let other = far.grant_on(&theirs, 0..BYTES, &terms, limit)?;
            let (given, taken) = (far.wait_grant(limit)?, near.wait_grant(limit)?);
            let pool = Pool::builder(4 * BYTES).create(&near_context)?;
            let carved = pool.carve(BYTES)?;
            let listener = Listener::bind(&near_context, guest.local_any_port(), 4)?;
            let exported = mine.export()?;
            let import = Buffer::import(&near_context, exported.as_fd())?;
            let memory = (devices > 0).then(|| {
                let number = device(guest, &near_context)?.number;
                Ok::<_, dmaplane_testkit::Error>(Buffer::on_device(
                    &near_context,
                    number,
                    Tier::Uncached,
                    BYTES,
                    None,
                )?)
            });
            let memory = memory.transpose()?;
            let polling = Channel::builder().entries(8).polling(Polling::default());
            let polled = polling.build(&near_context)?;
            let mut here = Channel::builder().entries(16).build(&near_context)?;
            let mut there = Channel::builder().entries(16).build(&far_context)?;
            there.push(Entry::write(theirs.range(0, 4096), given.at(0)))?;
            there.push(Entry::recv(&far))?;
            for entry in [
                Entry::recv(&near),
                Entry::write(mine.range(0, 4096), taken.at(0)),
                Entry::write_imm(mine.range(0, 64), taken.at(0), 1),
                Entry::send(&near, mine.range(0, 8), 2),
                Entry::watch(&near, 0, 0, u32::MAX),
                Entry::watch_grant(&near, &own),
                Entry::watch_buffer(&mine),
            ] {
                here.push(entry)?;
            }
            here.submit()?;
            there.submit()?;
            // The name of the file goes at once; the file goes with the last descriptor.
            let last = near_context.as_fd().try_clone_to_owned()?;
            sys::close_behind(near_context.as_fd())?;
            nth.step(|| {
                drop((here, polled, listener, import, memory, carved, pool));
                drop((own, taken, near, mine, near_context));
                drop(last);
            })?;
            // The export has the memory, and what the far side had under way ends.
            for done in complete(&mut there, 2, guest.limit(20))? {
                let well = [State::Ok, State::PeerDead, State::Error].contains(&done.state());
                ensure!(well, "{done:?}");
            }
            drop((exported, other, given, theirs, there, far, far_context));
            // Nobody is left to report a failure to.
            Ok(false)
        });
        let done = done?;
        ensure!(done.faults > 0, "{done:?}");
        ordinary(guest)
    });
}
