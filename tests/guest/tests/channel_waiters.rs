// SPDX-License-Identifier: MIT OR Apache-2.0

//! Several threads that wait on one channel, each for a count of its own.

use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use dmaplane::{Channel, Context, Entry};
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{ErrorContext as _, Result, anyhow, ensure, seed, sys, test};
use dmaplane_uapi as abi;

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

#[test]
fn channel_waiters_each_leave_with_their_count() {
    test(|guest| {
        let context = Context::open()?;
        let mut numbers = Numbers::new(seed()?);
        let limit = guest.limit(20);
        for round in 0..guest.pick(300, 30) {
            let mut channel = Channel::builder().entries(ALL).build(&context)?;
            let name = channel.raw_handle();
            // In any order: the first one may be the most patient.
            let mut counts = [1, 2, 3, 5, 8, ALL];
            for last in (1..counts.len()).rev() {
                let other = numbers.below(last as u64 + 1);
                counts.swap(last, usize::try_from(other)?);
            }
            let posted = AtomicU32::new(0);
            thread::scope(|scope| -> Result<()> {
                let mut waiters = Vec::new();
                for wanted in counts {
                    let (context, posted) = (&context, &posted);
                    waiters.push(scope.spawn(move || -> Result<()> {
                        let available = wait(context, name, wanted, limit)?;
                        ensure!(available >= wanted, "{available} of {wanted} in time");
                        let posted = posted.load(Ordering::SeqCst);
                        ensure!(posted >= wanted, "woken for {wanted} after {posted}");
                        Ok(())
                    }));
                }
                for _ in 0..ALL {
                    if numbers.below(2) == 0 {
                        thread::yield_now();
                    }
                    posted.fetch_add(1, Ordering::SeqCst);
                    channel.push(Entry::nop())?;
                    channel.submit()?;
                }
                for waiter in waiters {
                    waiter.join().map_err(|_| anyhow!("a waiter panicked"))??;
                }
                Ok(())
            })
            .with_context(|| format!("round {round}, {counts:?}"))?;
            ensure!(channel.completions().count() == ALL as usize);
        }
        Ok(())
    });
}
