// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several threads on one channel: each waits for a count of its own, and they submit side by side.

use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dmaplane::{Buffer, Channel, Context, Entry, Placement};
use dmaplane_guest_tests::sleeps;
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{ErrorContext as _, Result, anyhow, ensure, poll, seed, sys, test};
use dmaplane_uapi as abi;
use rustix::thread::gettid;

/// Completions that the last of them waits for.
const ALL: u32 = 16;

/// Waits for so many completions without the channel's borrow. Gives how many there are.
fn wait(context: &Context, channel: u32, wanted: u32, limit: Duration) -> Result<u32> {
    let (_submitted, available) = enter(context, channel, (0, wanted), limit)?;
    Ok(available)
}

/// Submits and waits without the channel's borrow. Gives how many entries were taken and how many completions there are.
fn enter(
    context: &Context,
    channel: u32,
    (to_submit, wanted): (u32, u32),
    limit: Duration,
) -> Result<(u32, u32)> {
    let mut enter = [0; size_of::<abi::Enter>()];
    let mut put = |at: usize, bytes: &[u8]| enter[at..at + bytes.len()].copy_from_slice(bytes);
    let size = u32::try_from(size_of::<abi::Enter>())?;
    put(offset_of!(abi::Enter, size), &size.to_ne_bytes());
    put(offset_of!(abi::Enter, channel), &channel.to_ne_bytes());
    put(offset_of!(abi::Enter, to_submit), &to_submit.to_ne_bytes());
    put(offset_of!(abi::Enter, min_complete), &wanted.to_ne_bytes());
    let limit = u64::try_from(limit.as_nanos())?;
    put(offset_of!(abi::Enter, timeout_ns), &limit.to_ne_bytes());
    sys::ioctl(context.as_fd(), abi::IOC_ENTER, &mut enter)?;
    let word = |at: usize| -> Result<u32> { Ok(u32::from_ne_bytes(enter[at..at + 4].try_into()?)) };
    Ok((
        word(offset_of!(abi::Enter, submitted))?,
        word(offset_of!(abi::Enter, available))?,
    ))
}

fn nops(channel: &mut Channel, count: u32) -> Result<()> {
    for _ in 0..count {
        channel.push(Entry::nop())?;
    }
    channel.submit()?;
    Ok(())
}

#[test]
fn channel_waiters_each_leave_with_their_count() {
    test(|guest| {
        let context = Context::open()?;
        let mut numbers = Numbers::new(seed()?);
        let limit = guest.limit(20);
        for round in 0..guest.pick(100, 10) {
            let mut channel = Channel::builder().entries(ALL).build(&context)?;
            let name = channel.raw_handle();
            // In any order: the first one may be the most patient.
            let mut counts = [1, 2, 3, 5, 8, ALL];
            for last in (1..counts.len()).rev() {
                let other = numbers.below(last as u64 + 1);
                counts.swap(last, usize::try_from(other)?);
            }
            thread::scope(|scope| -> Result<()> {
                let (sender, names) = mpsc::channel();
                let mut waiters = Vec::new();
                for wanted in counts {
                    let (context, sender) = (&context, sender.clone());
                    let work = move || {
                        let _ = sender.send(gettid());
                        wait(context, name, wanted, limit)
                    };
                    waiters.push((wanted, scope.spawn(work)));
                    // One after the other, so that the order is the one that was drawn.
                    let thread = names.recv_timeout(limit)?;
                    let asleep = poll::until(limit, || sleeps(thread).map(|is| is.then_some(())))?;
                    asleep.with_context(|| format!("who waits for {wanted} does not sleep"))?;
                }
                for posted in 1..=ALL {
                    nops(&mut channel, 1)?;
                    // Those with enough completions leave before there are more, and nobody else does.
                    let left = poll::until(guest.limit(5), || {
                        let mut having = waiters.iter().filter(|(wanted, _)| *wanted <= posted);
                        Ok(having.all(|(_, waiter)| waiter.is_finished()).then_some(()))
                    })?;
                    let early = waiters.iter().filter(|(wanted, _)| *wanted > posted);
                    let early = early.filter(|(_, waiter)| waiter.is_finished()).count();
                    if left.is_none() || early > 0 {
                        // Otherwise the scope would wait for the others.
                        nops(&mut channel, ALL - posted)?;
                    }
                    left.with_context(|| format!("somebody still waits after {posted}"))?;
                    ensure!(early == 0, "{early} left early, after {posted}");
                }
                for (wanted, waiter) in waiters {
                    let available = waiter.join().map_err(|_| anyhow!("a waiter panicked"))??;
                    ensure!(available >= wanted, "{available} of {wanted}");
                }
                Ok(())
            })
            .with_context(|| format!("round {round}, {counts:?}"))?;
            ensure!(channel.completions().count() == ALL as usize);
        }
        Ok(())
    });
}

/// Two threads submit on one channel while the first sleeps in its first entry. A thread that found the other one at work
/// used to end that one's turn, so that both took the same entries.
#[test]
fn channel_waiters_take_each_entry_once() {
    const ENTRIES: u32 = 4;
    test(|guest| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 4096, Placement::Any)?;
        let _slow = DelayPoint::open("entry_accepted", Duration::from_millis(guest.pick(20, 100)))?;
        let limit = guest.limit(10);
        for round in 0..3 {
            let mut channel = Channel::builder().entries(8).build(&context)?;
            for name in 0..ENTRIES {
                channel
                    .push(Entry::copy(buffer.range(0, 8), &buffer, 64).user_data(name.into()))?;
            }
            // The driver sees the entries from here on, and takes none yet.
            channel.enter_raw(0, 0, Duration::ZERO)?;
            let raw = channel.raw_handle();
            let submit = || enter(&context, raw, (ENTRIES, ENTRIES), limit);
            let taken = thread::scope(|scope| {
                let both = [scope.spawn(submit), scope.spawn(submit)];
                both.map(|one| one.join().map_err(|_| anyhow!("a thread panicked")))
            });
            let mut submitted = 0;
            for one in taken {
                submitted += one??.0;
            }
            ensure!(
                submitted == ENTRIES,
                "round {round}: {submitted} entries were taken"
            );
            let mut names: Vec<_> = channel.completions().map(|done| done.user_data()).collect();
            names.sort_unstable();
            let each_once: Vec<_> = (0..u64::from(ENTRIES)).collect();
            ensure!(names == each_once, "round {round}: {names:?}");
        }
        Ok(())
    });
}

/// One thread submits entries that take long, another one only asks what is there: it used to wait for the first one,
/// whatever its own time limit.
#[test]
fn channel_waiters_do_not_wait_for_submitters() {
    const ENTRIES: u32 = 8;
    test(|guest| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, 4096, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for name in 0..ENTRIES {
            channel.push(Entry::copy(buffer.range(0, 8), &buffer, 64).user_data(name.into()))?;
        }
        channel.enter_raw(0, 0, Duration::ZERO)?;
        let slow = DelayPoint::open("entry_accepted", Duration::from_secs(1))?;
        let raw = channel.raw_handle();
        let (first, all) = thread::scope(|scope| {
            let submitting = scope.spawn(|| enter(&context, raw, (ENTRIES, 0), Duration::ZERO));
            // There is something as soon as the first one has completed, long before the last.
            let first = poll::until(guest.limit(10), || {
                let there = wait(&context, raw, 0, Duration::ZERO)?;
                Ok((there > 0).then_some(there))
            });
            let over = submitting.is_finished();
            let all = submitting.join().map_err(|_| anyhow!("a thread panicked"));
            (first.map(|first| (first, over)), all)
        });
        drop(slow);
        let (first, over) = first?;
        ensure!(
            first.is_some_and(|there| there < ENTRIES) && !over,
            "{first:?}, {over}"
        );
        ensure!(all??.0 == ENTRIES);
        ensure!(channel.completions().count() == ENTRIES as usize);
        Ok(())
    });
}
