// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several threads that wait on one channel, each for a count of its own.

use std::fs;
use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dmaplane::{Channel, Context, Entry};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{ErrorContext as _, Result, anyhow, ensure, poll, seed, sys, test};
use dmaplane_uapi as abi;
use rustix::process::Pid;
use rustix::thread::gettid;

/// Completions that the last of them waits for.
const ALL: u32 = 16;

/// Waits for so many completions without the channel's borrow. Gives how many there are.
fn wait(context: &Context, channel: u32, wanted: u32, limit: Duration) -> Result<u32> {
    let mut enter = [0; size_of::<abi::Enter>()];
    let mut put = |at: usize, bytes: &[u8]| enter[at..at + bytes.len()].copy_from_slice(bytes);
    let size = u32::try_from(size_of::<abi::Enter>())?;
    put(offset_of!(abi::Enter, size), &size.to_ne_bytes());
    put(offset_of!(abi::Enter, channel), &channel.to_ne_bytes());
    put(offset_of!(abi::Enter, min_complete), &wanted.to_ne_bytes());
    let limit = u64::try_from(limit.as_nanos())?;
    put(offset_of!(abi::Enter, timeout_ns), &limit.to_ne_bytes());
    sys::ioctl(context.as_fd(), abi::IOC_ENTER, &mut enter)?;
    let at = offset_of!(abi::Enter, available);
    let available = enter[at..at + 4].try_into()?;
    Ok(u32::from_ne_bytes(available))
}

/// Whether a thread of this process sleeps (proc_pid_stat(5)).
fn sleeps(thread: Pid) -> Result<bool> {
    let stat = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    let stat = fs::read_to_string(stat)?;
    let (_, fields) = stat.rsplit_once(')').context("no name of a command")?;
    Ok(fields.trim_start().starts_with('S'))
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
                let (told, names) = mpsc::channel();
                let mut waiters = Vec::new();
                for wanted in counts {
                    let (context, told) = (&context, told.clone());
                    let work = move || {
                        let _ = told.send(gettid());
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
                    // Whoever has enough leaves before there is more, and nobody else does.
                    let left = poll::until(guest.limit(5), || {
                        let mut having = waiters.iter().filter(|(wanted, _)| *wanted <= posted);
                        Ok(having.all(|(_, waiter)| waiter.is_finished()).then_some(()))
                    })?;
                    let early = waiters.iter().filter(|(wanted, _)| *wanted > posted);
                    let early = early.filter(|(_, waiter)| waiter.is_finished()).count();
                    if left.is_none() || early > 0 {
                        // Or the others would be waited for.
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
