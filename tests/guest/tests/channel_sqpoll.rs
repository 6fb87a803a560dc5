// SPDX-License-Identifier: MIT OR Apache-2.0

//! Channels with a polling thread: entries are taken without a system call, the thread sleeps and wakes, and ends with its
//! channel whatever it does.

use std::collections::HashSet;
use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{Buffer, Channel, Context, Entry, Errno, GrantTerms, Placement, Polling, State};
use dmaplane_guest_tests::{Loopback, argument, complete, destroy, poller_status, refusal};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{
    ErrorContext as _, Guest, Result, Skip, anyhow, bail, ensure, poll, sys, test,
};
use dmaplane_uapi as abi;

/// Never sleeps while a test looks.
const AWAKE: Polling = Polling {
    node: None,
    idle: Duration::from_secs(1),
};
/// Sleeps at once.
const SLEEPY: Polling = Polling {
    node: None,
    idle: Duration::ZERO,
};

fn polled(context: &Context, polling: Polling) -> Result<Channel> {
    let builder = Channel::builder().entries(8).polling(polling);
    Ok(builder.build(context)?)
}

/// Waits without a system call of the channel's.
fn seen(channel: &Channel, count: u32, limit: Duration) -> Result<()> {
    let seen = poll::until(limit, || Ok((channel.available() >= count).then_some(())))?;
    ensure!(seen.is_some(), "{} of {count}", channel.available());
    Ok(())
}

#[test]
fn channel_sqpoll_bad_terms() {
    test(|_| {
        let context = Context::open()?;
        let with = abi::CHANNEL_SQPOLL;
        // Flags, node, idle.
        let cases = [
            (with << 1, 0, 0),
            (u32::MAX, 0, 0),
            (0, 1, 0),
            (0, u32::MAX, 0),
            (0, 0, 1),
            (with, 1000, 0),
            (with, u32::MAX - 1, 0),
            (with, 1 << 31, 0),
            (with, 0, 1_000_001),
            (with, 0, u32::MAX),
        ];
        for (flags, node, idle) in cases {
            let members = [
                (offset_of!(abi::ChannelCreate, flags), flags),
                (offset_of!(abi::ChannelCreate, sq_entries), 8),
                (offset_of!(abi::ChannelCreate, cq_entries), 8),
                (offset_of!(abi::ChannelCreate, eventfd), u32::MAX),
                (offset_of!(abi::ChannelCreate, poll_node), node),
                (offset_of!(abi::ChannelCreate, poll_idle_us), idle),
            ];
            let mut raw = argument(size_of::<abi::ChannelCreate>(), &members);
            let made = sys::ioctl(context.as_fd(), abi::IOC_CHANNEL_CREATE, &mut raw);
            let inval = made == Err(Errno::INVAL);
            ensure!(inval, "{flags:#x}, node {node}, {idle} us: {made:?}");
        }
        // Whoever has a thread lets it take the entries; whoever has none cannot wake it.
        let enter = |channel: &Channel, flags: u32, submit: u32| {
            let members = [
                (offset_of!(abi::Enter, flags), flags),
                (offset_of!(abi::Enter, channel), channel.raw_handle()),
                (offset_of!(abi::Enter, to_submit), submit),
            ];
            let mut raw = argument(size_of::<abi::Enter>(), &members);
            sys::ioctl(context.as_fd(), abi::IOC_ENTER, &mut raw)
        };
        let with = polled(&context, SLEEPY)?;
        let without = Channel::builder().entries(8).build(&context)?;
        ensure!(enter(&with, 0, 1) == Err(Errno::INVAL));
        ensure!(enter(&with, abi::ENTER_WAKE, 1) == Err(Errno::INVAL));
        ensure!(enter(&with, abi::ENTER_WAKE << 1, 0) == Err(Errno::INVAL));
        ensure!(enter(&without, abi::ENTER_WAKE, 0) == Err(Errno::INVAL));
        ensure!(enter(&with, abi::ENTER_WAKE, 0) == Ok(()));
        Ok(())
    });
}

#[test]
fn channel_sqpoll_takes_without_a_call() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = polled(&context, AWAKE)?;
        let mut last = Instant::now();
        // The first one may find the thread before its first look.
        for name in 0..guest.pick(200, 20) {
            channel.push(Entry::nop().user_data(name))?;
            if last.elapsed() >= AWAKE.idle {
                // The guest stood still: the thread may sleep, and then waits for a call to wake it.
                channel.submit()?;
            }
            last = Instant::now();
            seen(&channel, 1, guest.limit(5))?;
            let done = channel.next_completion().context("a completion")?;
            ensure!(done.is_ok() && done.user_data() == name, "{done:?}");
        }
        Ok(())
    });
}

#[test]
fn channel_sqpoll_wraps_around_many_times() {
    test(|guest| {
        let context = Context::open()?;
        for polling in [SLEEPY, Polling::default()] {
            let mut channel = polled(&context, polling)?;
            let total = guest.pick(50_000, 2_000);
            let mut numbers = Numbers::new(12);
            let (mut sent, mut open) = (0, HashSet::new());
            while sent < total || !open.is_empty() {
                for _ in 0..=numbers.below(8) {
                    if sent < total && channel.push(Entry::nop().user_data(sent)).is_ok() {
                        open.insert(sent);
                        sent += 1;
                    }
                }
                let want = u32::try_from(numbers.below(open.len() as u64) + 1)?.min(16);
                let done = channel.submit_and_wait(want, guest.limit(10))?;
                ensure!(done.available >= want, "{done:?} instead of {want}");
                for done in channel.completions().take(want as usize) {
                    ensure!(open.remove(&done.user_data()), "{done:?}");
                }
            }
            ensure!(channel.available() == 0 && channel.pending() == 0);
        }
        Ok(())
    });
}

#[test]
fn channel_sqpoll_waits_for_slots() {
    test(|guest| {
        let context = Context::open()?;
        let builder = Channel::builder().entries(8).completions(8);
        let mut channel = builder.polling(SLEEPY).build(&context)?;
        for name in 0..8 {
            channel.push(Entry::nop().user_data(name))?;
        }
        channel.submit_and_wait(8, guest.limit(5))?;
        for name in 8..16 {
            channel.push(Entry::nop().user_data(name))?;
        }
        // Without slots they stay in the ring, however often the thread is woken.
        for _ in 0..10 {
            channel.submit()?;
        }
        ensure!(channel.pending() == 8 && channel.available() == 8);
        let mut names = Vec::new();
        while names.len() < 16 {
            let done = channel.submit_and_wait(1, guest.limit(5))?;
            ensure!(done.available > 0, "it waits for ever: {names:?}");
            names.extend(channel.next_completion().map(|done| done.user_data()));
        }
        ensure!(names == (0..16).collect::<Vec<u64>>(), "{names:?}");
        Ok(())
    });
}

/// Waits until the only polling thread sleeps.
fn sleeps(guest: &Guest) -> Result<()> {
    let asleep = poll::until(guest.limit(5), || {
        Ok((poller_status("State:")? == ["I (idle)"]).then_some(()))
    })?;
    ensure!(
        asleep.is_some(),
        "it does not sleep: {:?}",
        poller_status("State:")?
    );
    Ok(())
}

#[test]
fn channel_sqpoll_reports_a_broken_ring() {
    test(|guest| {
        let context = Context::open()?;
        let (tail, head) = (
            offset_of!(abi::RingHeader, sq_tail),
            offset_of!(abi::RingHeader, cq_head),
        );
        for (at, with_entry) in [(tail, false), (head, true)] {
            for polling in [SLEEPY, AWAKE] {
                let mut channel = polled(&context, polling)?;
                if with_entry {
                    channel.corrupt_header(at, 1000);
                    channel.push(Entry::nop())?;
                    let _ = channel.submit();
                } else {
                    channel.corrupt_header(at, 1000);
                    let _ = channel.submit();
                }
                // The waiting call reports it, and so does a later one.
                let waited = channel.wait(4, guest.limit(20));
                ensure!(refusal(waited)? == Errno::INVAL);
                let broken = || Ok(channel.has_broken_ring().then_some(()));
                ensure!(poll::until(guest.limit(5), broken)?.is_some(), "not seen");
                // It does not look again and again.
                sleeps(guest)?;
                // Right again: woken, it goes on.
                channel.corrupt_header(head, 0);
                channel.corrupt_header(tail, u32::from(with_entry));
                let again = poll::until(guest.limit(5), || {
                    Ok(channel.submit().is_ok().then_some(()))
                })?;
                ensure!(again.is_some(), "it does not recover");
                if with_entry {
                    seen(&channel, 1, guest.limit(5))?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn hostile_rings_under_a_polling_thread() {
    test(|guest| {
        let (mine, others) = (Context::open()?, Context::open()?);
        let mut honest = polled(&others, Polling::default())?;
        let mut numbers = Numbers::new(31);
        for round in 0..guest.pick(40, 8) {
            let polling = if round % 2 == 0 { SLEEPY } else { AWAKE };
            let mut channel = polled(&mine, polling)?;
            for _ in 0..guest.pick(2_000, 200) {
                let at = match numbers.below(4) {
                    0 => 4 * numbers.below(64) as usize,
                    1 => offset_of!(abi::RingHeader, sq_tail),
                    2 => offset_of!(abi::RingHeader, cq_head),
                    // The entries of both rings behind the header's page.
                    _ => 4096 + 4 * numbers.below((8 + 16) * 16) as usize,
                };
                let value = match numbers.below(3) {
                    0 => numbers.below(16) as u32,
                    1 => numbers.next_u64() as u32,
                    _ => u32::MAX,
                };
                channel.corrupt_header(at, value);
                if numbers.below(8) == 0 {
                    // Any result will do: at worst it reports a broken ring of its owner's.
                    if let Err(error) = channel.enter_raw(0, 0, Duration::ZERO) {
                        ensure!(error.errno() == Some(Errno::INVAL), "{error}");
                    }
                }
            }
            honest.push(Entry::nop().user_data(round))?;
            let done = complete(&mut honest, 1, guest.limit(10))?[0];
            ensure!(done.is_ok() && done.user_data() == round, "{done:?}");
            let start = Instant::now();
            drop(channel);
            let took = start.elapsed();
            ensure!(took < guest.limit(2), "its end took {took:?}");
        }
        // Only the honest one is left, which has nothing to do.
        sleeps(guest)
    });
}

#[test]
fn channel_sqpoll_transfers() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let mine = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut channel = polled(&local.near_context, Polling::default())?;
        for round in 0..guest.pick(500, 50) {
            let byte = (round % 251) as u8;
            mine.write_at(0, &[byte; 64]);
            channel.push(Entry::write(mine.range(0, 64), given.at(0)).user_data(round))?;
            let done = complete(&mut channel, 1, guest.limit(10))?[0];
            ensure!(done.is_ok() && done.user_data() == round, "{done:?}");
            ensure!(theirs.to_vec(0..64) == [byte; 64], "round {round}");
        }
        Ok(())
    });
}

/// Ends a channel, its endpoint or the whole context under a thread that takes entries; the gauges show what is left.
fn ends_in_the_midst(guest: &Guest, rounds: u64) -> Result<()> {
    for round in 0..rounds {
        let Loopback {
            near,
            far,
            near_context,
            far_context,
        } = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let theirs = Buffer::create(&far_context, 4096, Placement::Any)?;
        let _grant = far.grant_on(&theirs, 0..4096, &GrantTerms::default(), limit)?;
        let given = near.wait_grant(limit)?;
        let mine = Buffer::create(&near_context, 4096, Placement::Any)?;
        let polling = if round % 2 == 0 { SLEEPY } else { AWAKE };
        let builder = Channel::builder().entries(64).polling(polling);
        let mut channel = builder.build(&near_context)?;
        for name in 0..32 {
            let write = Entry::write(mine.range(0, 4096), given.at(0));
            let recv = Entry::recv(&near);
            channel.push(if name % 2 == 0 { write } else { recv }.user_data(name))?;
        }
        match round % 4 {
            0 => {
                channel.submit()?;
                drop(channel);
            }
            1 => {
                channel.submit()?;
                drop(near);
                let done = complete(&mut channel, 32, limit)?;
                let names: HashSet<u64> = done.iter().map(|done| done.user_data()).collect();
                ensure!(names.len() == 32, "round {round}: {done:?}");
                for done in done {
                    let state = done.state();
                    let right = [State::Ok, State::Canceled, State::Error].contains(&state);
                    ensure!(right, "round {round}: {done:?}");
                }
            }
            2 => {
                // Behind the library's back, while somebody waits.
                let handle = channel.raw_handle();
                thread::scope(|scope| -> Result<()> {
                    let waiter = scope.spawn(|| channel.submit_and_wait(64, limit));
                    destroy(&near_context, handle)?;
                    match waiter.join().map_err(|_| anyhow!("the waiter panicked"))? {
                        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
                        other => bail!("round {round}: {other:?}"),
                    }
                })?;
            }
            _ => {
                channel.submit()?;
                // The order in which the driver finds them, not the library's.
                drop((near_context, mine, given, near, channel));
            }
        }
    }
    Ok(())
}

#[test]
fn channel_sqpoll_ends_in_the_midst() {
    test(|guest| ends_in_the_midst(guest, guest.pick(80, 8)));
}

/// The thread used to check whether to stop after 256 entries only, however long each of them took.
#[test]
fn channel_sqpoll_ends_after_the_entry_that_it_is_at() {
    test(|guest| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 8192, Placement::Any)?;
        let mut channel = polled(&context, SLEEPY)?;
        let each = Duration::from_millis(guest.pick(500, 1000));
        let delay = DelayPoint::open("entry_accepted", each)?;
        for _ in 0..8 {
            channel.push(Entry::copy(buffer.range(0, 4096), &buffer, 4096))?;
        }
        channel.submit()?;
        let start = Instant::now();
        drop(channel);
        let took = start.elapsed();
        drop(delay);
        ensure!(took < 4 * each, "its end took {took:?}");
        Ok(())
    });
}

#[test]
fn channel_sqpoll_stop_against_take() {
    test(|guest| {
        for name in [
            "entry_accepted",
            "idle",
            "before_sleep",
            "woken",
            "work_completed",
            "ending",
        ] {
            let _delay = DelayPoint::open(name, Duration::from_millis(guest.pick(3, 20)))?;
            ends_in_the_midst(guest, 4).with_context(|| format!("delay point {name}"))?;
        }
        Ok(())
    });
}

#[test]
fn channel_sqpoll_wake_against_sleep() {
    test(|guest| {
        let context = Context::open()?;
        for name in ["idle", "before_sleep", "woken"] {
            let length = Duration::from_millis(guest.pick(2, 10));
            let _delay = DelayPoint::open(name, length)?;
            let mut channel = polled(&context, SLEEPY)?;
            for round in 0..guest.pick(100, 10) {
                // At moments that move through the delay: after a lost wake, the completion never comes.
                let moment = length * (round as u32 % 8) / 4;
                let started = Instant::now();
                while started.elapsed() < moment {
                    std::hint::spin_loop();
                }
                channel.push(Entry::nop().user_data(round))?;
                let done = complete(&mut channel, 1, guest.limit(10))
                    .with_context(|| format!("delay point {name}, round {round}"))?[0];
                ensure!(done.is_ok() && done.user_data() == round, "{done:?}");
            }
        }
        Ok(())
    });
}

/// A thread that is never idle kept tracing tools waiting for ever: it never reported a quiescent state, and the kernel
/// waits for one of each task before it frees the trampolines of a tracer.
#[test]
fn channel_sqpoll_lets_tracers_go_on() {
    let tracing = std::path::Path::new("/sys/kernel/tracing");
    test(|guest| {
        let tracers = std::fs::read_to_string(tracing.join("available_tracers"));
        if !tracers.is_ok_and(|tracers| tracers.split_whitespace().any(|one| one == "function")) {
            return Err(Skip::new("this kernel has no function tracer").into());
        }
        let context = Context::open()?;
        let mut channel = polled(&context, AWAKE)?;
        let (over, done) = (AtomicBool::new(false), AtomicBool::new(false));
        // Not the first one: its memory is the kernel's own, which is never freed.
        let instance = tracing.join("instances/dmaplane-test");
        std::fs::create_dir(&instance)?;
        let ended = thread::scope(|scope| -> Result<_> {
            let busy = scope.spawn(|| -> Result<()> {
                // More often than the thread sleeps.
                while !over.load(Ordering::Acquire) {
                    channel.push(Entry::nop())?;
                    seen(&channel, 1, guest.limit(5))?;
                    let _done = channel.next_completion();
                }
                Ok(())
            });
            let traced = scope.spawn(|| -> Result<()> {
                std::fs::write(instance.join("set_ftrace_filter"), "do_sys_openat2\n")?;
                std::fs::write(instance.join("current_tracer"), "function\n")?;
                std::fs::write(instance.join("current_tracer"), "nop\n")?;
                done.store(true, Ordering::Release);
                Ok(())
            });
            let ended = poll::until(guest.limit(10), || {
                Ok(done.load(Ordering::Acquire).then_some(()))
            });
            // Then the thread sleeps, which ends the tracer's wait in any case.
            over.store(true, Ordering::Release);
            busy.join().map_err(|_| anyhow!("the worker panicked"))??;
            traced
                .join()
                .map_err(|_| anyhow!("the tracer panicked"))??;
            ended
        });
        std::fs::remove_dir(&instance)?;
        ended?.context("a tracer waits for the polling thread")
    });
}
