// SPDX-License-Identifier: MIT OR Apache-2.0

//! Coalesced signals of the eventfd: fewer than completions, and none is kept back beyond the delay.

use std::mem::offset_of;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use dmaplane::{Buffer, Channel, Context, Entry, Errno, Placement};
use dmaplane_guest_tests::{Loopback, argument, complete, refusal};
use dmaplane_testkit::{ErrorContext as _, Result, ensure, sys, test};
use dmaplane_uapi as abi;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

const SECOND: Duration = Duration::from_secs(1);

fn nops(channel: &mut Channel, count: u64) -> Result<()> {
    for name in 0..count {
        channel.push(Entry::nop().user_data(name))?;
    }
    let done = channel.submit()?;
    ensure!(u64::from(done.entries) == count, "{done:?}");
    Ok(())
}

#[test]
fn channel_coalesce_bad_terms() {
    test(|_| {
        let context = Context::open()?;
        let second = 1_000_000;
        // Batch, delay, with an eventfd.
        let cases = [
            (2, 0, true),
            (u32::MAX, 0, true),
            (1, 10 * second + 1, true),
            (2, u32::MAX, true),
            (2, 1000, false),
            (0, 1000, false),
        ];
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        for (batch, delay, with) in cases {
            let fd = if with { event.as_raw_fd() } else { -1 };
            let members = [
                (offset_of!(abi::ChannelCreate, sq_entries), 8),
                (offset_of!(abi::ChannelCreate, cq_entries), 8),
                (offset_of!(abi::ChannelCreate, eventfd), fd.cast_unsigned()),
                (offset_of!(abi::ChannelCreate, event_batch), batch),
                (offset_of!(abi::ChannelCreate, event_delay_us), delay),
            ];
            let mut raw = argument(size_of::<abi::ChannelCreate>(), &members);
            let made = sys::ioctl(context.as_fd(), abi::IOC_CHANNEL_CREATE, &mut raw);
            let inval = made == Err(Errno::INVAL);
            ensure!(inval, "{batch} and {delay} us, eventfd {with}: {made:?}");
        }
        let long = Channel::builder().coalesced_event(2, 11 * SECOND);
        ensure!(refusal(long.build(&context))? == Errno::INVAL);
        Channel::builder()
            .coalesced_event(2, 10 * SECOND)
            .build(&context)?;
        Ok(())
    });
}

#[test]
fn channel_coalesce_signals_once_for_a_batch() {
    test(|guest| {
        let context = Context::open()?;
        let builder = Channel::builder().entries(64);
        let mut channel = builder.coalesced_event(8, 10 * SECOND).build(&context)?;
        for round in 0..guest.pick(200, 20) {
            for _ in 0..7 {
                nops(&mut channel, 1)?;
            }
            let early = channel.take_event(Duration::ZERO)?;
            ensure!(early == 0, "round {round}: {early} signals for 7");
            nops(&mut channel, 1)?;
            let signals = channel.take_event(guest.limit(5))?;
            ensure!(signals == 1, "round {round}: {signals} signals for 8");
            ensure!(channel.completions().count() == 8);
        }
        Ok(())
    });
}

#[test]
fn channel_coalesce_keeps_nothing_beyond_its_delay() {
    test(|guest| {
        let context = Context::open()?;
        for delay in [1, 300, 30_000].map(Duration::from_micros) {
            let builder = Channel::builder().entries(64);
            let mut channel = builder.coalesced_event(1000, delay).build(&context)?;
            for round in 0..guest.pick(20, 5) {
                let start = Instant::now();
                nops(&mut channel, 1 + round % 5)?;
                let signals = channel.take_event(guest.limit(5))?;
                let took = start.elapsed();
                ensure!(signals == 1, "round {round}: {signals} signals");
                ensure!(took >= delay, "{delay:?} took {took:?} only");
                ensure!(took < delay + guest.limit(1), "{delay:?} took {took:?}");
                channel.completions().for_each(drop);
            }
            // Nothing new, so no signal.
            ensure!(channel.take_event(4 * delay)? == 0, "a signal for nothing");
        }
        Ok(())
    });
}

#[test]
fn channel_coalesce_loses_none_at_the_end() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let context = &local.near_context;
        let empty = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let mut far = Channel::builder().entries(4).build(&local.far_context)?;
        for round in 0..guest.pick(50, 5) {
            let builder = Channel::builder().entries(64);
            let mut channel = builder.coalesced_event(1000, 10 * SECOND).build(context)?;
            let event = channel
                .event()
                .context("an eventfd")?
                .try_clone_to_owned()?;
            // Some that ended, and one that ends only after the channel's name is gone.
            if round % 2 == 0 {
                nops(&mut channel, 3)?;
            }
            channel.push(Entry::recv(&local.near))?;
            channel.submit()?;
            ensure!(!signalled(&event, Duration::ZERO)?, "round {round}: early");
            drop(channel);
            if round % 2 == 0 {
                // Before destroying returned.
                ensure!(
                    signalled(&event, Duration::ZERO)?,
                    "round {round}: three are lost"
                );
            }
            ensure!(
                !signalled(&event, Duration::ZERO)?,
                "round {round}: for nothing"
            );
            far.push(Entry::send(&local.far, empty.range(0, 0), 0))?;
            complete(&mut far, 1, guest.limit(10))?[0].result()?;
            ensure!(
                signalled(&event, guest.limit(5))?,
                "round {round}: one is lost"
            );
        }
        Ok(())
    });
}

/// Whether the eventfd was signalled within `limit`. Resets it.
fn signalled(event: &OwnedFd, limit: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(event, PollFlags::IN)];
    if poll(&mut fds, Some(&Timespec::try_from(limit)?))? == 0 {
        return Ok(false);
    }
    let mut count = [0; 8];
    rustix::io::read(event, &mut count)?;
    Ok(true)
}
