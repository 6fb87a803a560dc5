// SPDX-License-Identifier: MIT OR Apache-2.0

//! Channels: the rings and their limits.

use std::collections::HashSet;
use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use dmaplane::{Channel, Context, Entry, QueueFull, State};
use dmaplane_guest_tests::complete;
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{Result, ensure, sys, test};
use dmaplane_uapi as abi;

#[test]
fn channel_nop_roundtrips() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for i in 0..guest.pick(10_000, 500) {
            channel.push(Entry::nop().user_data(i).trace_id(!i))?;
            let done = complete(&mut channel, 1, guest.limit(5))?[0];
            ensure!(
                done.state() == State::Ok && done.user_data() == i,
                "{done:?}"
            );
            ensure!(
                done.trace_id() == !i && done.op() == abi::OP_NOP,
                "{done:?}"
            );
            ensure!(
                done.raw().error == 0 && done.raw().field == abi::FIELD_NONE,
                "{done:?}"
            );
        }
        ensure!(channel.available() == 0 && channel.pending() == 0);
        Ok(())
    });
}

#[test]
fn channel_wraps_around_many_times() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder()
            .entries(8)
            .completions(16)
            .build(&context)?;
        let total = guest.pick(200_000, 4_000);
        let mut numbers = Numbers::new(11);
        let (mut sent, mut open) = (0, HashSet::new());
        while sent < total || !open.is_empty() {
            for _ in 0..=numbers.below(8) {
                if sent < total && channel.push(Entry::nop().user_data(sent)).is_ok() {
                    open.insert(sent);
                    sent += 1;
                }
            }
            let want = u32::try_from(numbers.below(open.len() as u64) + 1)?.min(16);
            channel.submit_and_wait(want, guest.limit(5))?;
            for done in channel.completions().take(want as usize) {
                ensure!(
                    open.remove(&done.user_data()),
                    "{done:?} comes twice or from nowhere"
                );
            }
        }
        ensure!(
            channel.available() == 0,
            "{} completions too many",
            channel.available()
        );
        Ok(())
    });
}

#[test]
fn channel_batch() {
    test(|guest| {
        let context = Context::open()?;
        let entries = context.limits().max_ring_entries;
        let mut channel = Channel::builder()
            .entries(entries)
            .completions(entries)
            .build(&context)?;
        for i in 0..u64::from(entries) {
            channel.push(Entry::nop().user_data(i))?;
        }
        ensure!(channel.push(Entry::nop()) == Err(QueueFull));
        let done = channel.submit_and_wait(entries, guest.limit(10))?;
        ensure!(
            done.entries == entries && done.available == entries,
            "{done:?}"
        );
        let seen: HashSet<_> = channel.completions().map(|done| done.user_data()).collect();
        ensure!(seen.len() == entries as usize);
        Ok(())
    });
}

#[test]
fn channel_eventfd_is_signalled() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).event().build(&context)?;
        ensure!(
            channel.take_event(Duration::ZERO)? == 0,
            "signalled without a completion"
        );
        for i in 0..5 {
            channel.push(Entry::nop().user_data(i))?;
        }
        channel.submit()?;
        let mut signals = 0;
        while signals < 5 {
            let more = channel.take_event(guest.limit(5))?;
            ensure!(more > 0, "{signals} signals for 5 completions");
            signals += more;
        }
        ensure!(channel.completions().count() == 5);
        ensure!(
            channel.take_event(Duration::ZERO)? == 0,
            "more signals than completions"
        );
        Ok(())
    });
}

#[test]
fn channel_wait_honours_its_time_limit() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        for limit in [
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::from_millis(120),
        ] {
            let start = Instant::now();
            let done = channel.wait(1, limit)?;
            let took = start.elapsed();
            ensure!(done.available == 0 && done.entries == 0, "{done:?}");
            ensure!(took >= limit, "{limit:?} took {took:?} only");
            ensure!(took < limit + guest.limit(2), "{limit:?} took {took:?}");
        }
        channel.push(Entry::nop())?;
        let start = Instant::now();
        let done = channel.submit_and_wait(2, Duration::from_millis(50))?;
        ensure!(done.entries == 1 && done.available == 1, "{done:?}");
        ensure!(
            start.elapsed() >= Duration::from_millis(50),
            "it waits for the second one"
        );
        Ok(())
    });
}

#[test]
fn channel_reserves_a_slot_for_each_entry() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder()
            .entries(8)
            .completions(8)
            .build(&context)?;
        let push = |channel: &mut Channel, from: u64| -> Result<()> {
            for i in from..from + 8 {
                channel.push(Entry::nop().user_data(i))?;
            }
            Ok(())
        };
        push(&mut channel, 0)?;
        let done = channel.submit_and_wait(8, guest.limit(5))?;
        ensure!(done.entries == 8 && done.available == 8, "{done:?}");
        push(&mut channel, 8)?;
        let done = channel.submit()?;
        ensure!(
            done.entries == 0 && channel.pending() == 8,
            "without a slot: {done:?}"
        );
        ensure!(
            channel
                .completions()
                .take(3)
                .map(|c| c.user_data())
                .eq(0..3)
        );
        let done = channel.submit_and_wait(8, guest.limit(5))?;
        ensure!(
            done.entries == 3 && done.available == 8,
            "with three slots: {done:?}"
        );
        let mut seen: HashSet<_> = channel.completions().map(|c| c.user_data()).collect();
        let done = channel.submit_and_wait(5, guest.limit(5))?;
        ensure!(done.entries == 5 && done.available == 5, "{done:?}");
        seen.extend(channel.completions().map(|c| c.user_data()));
        ensure!(seen == (3..16).collect(), "{seen:?}");
        Ok(())
    });
}

#[test]
fn channel_wait_ends_when_it_is_destroyed() {
    test(|guest| {
        let context = Context::open()?;
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let handle = channel.raw_handle();
        std::thread::scope(|scope| -> Result<()> {
            // Destroyed before or during the wait: it has to end either way.
            let waiting = scope.spawn(move || channel.wait(1, guest.limit(60)));
            let bytes = size_of::<abi::Destroy>();
            let mut destroy = vec![0; bytes];
            destroy[..4].copy_from_slice(&(bytes as u32).to_ne_bytes());
            let at = offset_of!(abi::Destroy, handle);
            destroy[at..at + 4].copy_from_slice(&handle.to_ne_bytes());
            sys::ioctl(context.as_fd(), abi::IOC_DESTROY, &mut destroy)?;
            let start = Instant::now();
            let result = waiting.join();
            ensure!(
                start.elapsed() < guest.limit(5),
                "it waits on: {:?}",
                start.elapsed()
            );
            ensure!(result.is_ok(), "the waiting thread panicked");
            Ok(())
        })
    });
}
