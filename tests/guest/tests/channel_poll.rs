// SPDX-License-Identifier: MIT OR Apache-2.0

//! poll(2) and epoll(7) on the file: readable while a channel has completions, whatever becomes of the channel meanwhile.

use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use dmaplane::{Channel, Context, Entry};
use dmaplane_guest_tests::{Loopback, destroy};
use dmaplane_testkit::{Guest, Result, anyhow, ensure, test};
use dmaplane_uapi as abi;
use rustix::event::epoll;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What the file is ready for, after at most `limit`.
fn ready(context: &Context, limit: Duration) -> Result<PollFlags> {
    let mut fds = [PollFd::new(context, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::try_from(limit)?))?;
    Ok(fds[0].revents())
}

/// An epoll that watches the file.
fn watched(context: &Context, flags: epoll::EventFlags) -> Result<OwnedFd> {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&set, context, epoll::EventData::new_u64(7), flags)?;
    Ok(set)
}

/// Events of the epoll, after at most `limit`.
fn events(set: &impl AsFd, limit: Duration) -> Result<usize> {
    let mut events = Vec::with_capacity(4);
    epoll::wait(
        set,
        rustix::buffer::spare_capacity(&mut events),
        Some(&Timespec::try_from(limit)?),
    )?;
    for event in &events {
        ensure!(event.data.u64() == 7, "an event of another file");
    }
    Ok(events.len())
}

fn nop(channel: &mut Channel) -> Result<()> {
    channel.push(Entry::nop())?;
    let done = channel.submit()?;
    ensure!(done.entries == 1, "{done:?}");
    Ok(())
}

#[test]
fn channel_poll_reports_what_waits() {
    test(|_| {
        let context = Context::open()?;
        ensure!(ready(&context, Duration::ZERO)?.is_empty(), "no channel");
        let mut one = Channel::builder().entries(8).build(&context)?;
        let mut other = Channel::builder().entries(8).build(&context)?;
        ensure!(ready(&context, Duration::ZERO)?.is_empty(), "empty rings");
        nop(&mut one)?;
        nop(&mut other)?;
        nop(&mut other)?;
        // Each takes away one reason to be ready; after the last one the file is not ready.
        for channel in [&mut one, &mut other] {
            while channel.available() > 0 {
                let flags = ready(&context, Duration::ZERO)?;
                ensure!(flags == PollFlags::IN, "{flags:?} with completions");
                channel.next_completion();
            }
        }
        ensure!(ready(&context, Duration::ZERO)?.is_empty(), "all are taken");
        // A channel that was destroyed with its completions is no reason either.
        nop(&mut one)?;
        drop(one);
        ensure!(ready(&context, Duration::ZERO)?.is_empty(), "it is gone");
        // A head that makes no sense.
        other.corrupt_header(offset_of!(abi::RingHeader, cq_head), 1000);
        let flags = ready(&context, Duration::ZERO)?;
        ensure!(flags == PollFlags::IN | PollFlags::ERR, "{flags:?}");
        Ok(())
    });
}

#[test]
fn channel_poll_of_others_files() {
    test(|_| {
        let (mine, others) = (Context::open()?, Context::open()?);
        let mut channel = Channel::builder().entries(8).build(&others)?;
        nop(&mut channel)?;
        ensure!(ready(&mine, Duration::ZERO)?.is_empty(), "another file's");
        ensure!(!ready(&others, Duration::ZERO)?.is_empty());
        Ok(())
    });
}

/// Sleeps in `wait` until a SEND arrives, so many rounds.
fn sleeps_until_arrivals(
    guest: &Guest,
    wait: impl Fn(&Context, Duration) -> Result<bool> + Sync,
) -> Result<()> {
    let local = Loopback::new(guest)?;
    let mut here = Channel::builder().entries(8).build(&local.near_context)?;
    let mut there = Channel::builder().entries(8).build(&local.far_context)?;
    let limit = guest.limit(10);
    for round in 0..guest.pick(200, 20) {
        there.push(Entry::recv(&local.far))?;
        there.submit()?;
        let empty = abi::Sqe {
            op: abi::OP_SEND,
            endpoint: local.near.raw_handle(),
            imm: 5,
            ..Default::default()
        };
        here.push(Entry::from_raw(empty))?;
        thread::scope(|scope| -> Result<()> {
            let sleeper = scope.spawn(|| {
                let start = Instant::now();
                wait(&local.far_context, limit).map(|came| (came, start.elapsed()))
            });
            // Every other time it comes in mid-sleep.
            if round % 2 == 0 {
                thread::yield_now();
            }
            here.submit_and_wait(1, limit)?;
            let slept = sleeper.join();
            let (came, took) = slept.map_err(|_| anyhow!("the sleeper panicked"))??;
            ensure!(came, "round {round}: nothing after {took:?}");
            Ok(())
        })?;
        ensure!(there.completions().count() == 1 && here.completions().count() == 1);
    }
    Ok(())
}

#[test]
fn channel_poll_sleeps_until_a_completion() {
    test(|guest| {
        sleeps_until_arrivals(guest, |context, limit| {
            Ok(ready(context, limit)? == PollFlags::IN)
        })
    });
}

#[test]
fn channel_epoll_level_and_edge() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let level = watched(&context, epoll::EventFlags::IN)?;
        let edge = watched(&context, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let now = Duration::ZERO;
        for round in 0..guest.pick(1000, 50) {
            let soon = guest.limit(5);
            ensure!(
                events(&level, now)? == 0 && events(&edge, now)? == 0,
                "{round}"
            );
            nop(&mut channel)?;
            ensure!(events(&edge, soon)? == 1, "round {round}: no edge");
            ensure!(events(&edge, now)? == 0, "round {round}: two edges");
            nop(&mut channel)?;
            ensure!(events(&edge, soon)? == 1, "round {round}: no second edge");
            ensure!(events(&level, now)? == 1 && events(&level, now)? == 1);
            ensure!(channel.completions().count() == 2);
        }
        Ok(())
    });
}

#[test]
fn channel_epoll_outlives_what_it_watches() {
    test(|guest| {
        for round in 0..guest.pick(200, 20) {
            let context = Context::open()?;
            let mut channel = Channel::builder().entries(8).build(&context)?;
            let set = watched(&context, epoll::EventFlags::IN)?;
            thread::scope(|scope| -> Result<()> {
                let sleeper = scope.spawn(|| events(&set, Duration::from_millis(round % 4)));
                match round % 3 {
                    // Destroyed while it is watched, with a completion or without.
                    0 => drop(channel),
                    1 => {
                        nop(&mut channel)?;
                        drop(channel);
                    }
                    // The file is closed while its epoll sleeps.
                    _ => {
                        drop(channel);
                        drop(context);
                    }
                }
                let slept = sleeper.join();
                slept.map_err(|_| anyhow!("the sleeper panicked"))??;
                Ok(())
            })?;
            ensure!(
                events(&set, Duration::ZERO)? == 0,
                "round {round}: nothing is left"
            );
        }
        Ok(())
    });
}

#[test]
fn channel_poll_while_channels_come_and_go() {
    test(|guest| {
        let context = Context::open()?;
        let rounds = guest.pick(500, 50);
        let over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let poller = scope.spawn(|| -> Result<u64> {
                let mut seen = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    seen += u64::from(!ready(&context, Duration::from_millis(1))?.is_empty());
                }
                Ok(seen)
            });
            let work = || -> Result<()> {
                for _ in 0..rounds {
                    let mut channel = Channel::builder().entries(8).build(&context)?;
                    nop(&mut channel)?;
                    destroy(&context, channel.raw_handle())?;
                }
                Ok(())
            };
            let worked = work();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            let seen = poller
                .join()
                .map_err(|_| anyhow!("the poller panicked"))??;
            println!("readable {seen} times");
            worked
        })
    });
}
