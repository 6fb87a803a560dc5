// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device's memory is zeroed before anybody sees it, and nobody else waits for that.

use std::time::{Duration, Instant};

use dmaplane::{Buffer, Context, DeviceInfo, Errno};
use dmaplane_guest_tests::device::{Bound, device, rebound};
use dmaplane_guest_tests::refusal;
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, bail, ensure, poll, test};

/// Bytes that are zeroed at a time.
const PART: u64 = 256 << 10;

/// A large range of a device, and where it is.
fn range(guest: &Guest, context: &Context) -> Result<(DeviceInfo, dmaplane::Tier, u64)> {
    let info = device(guest, context)?;
    let roomy = info.tiers.iter().max_by_key(|tier| tier.free);
    let tier = roomy.context("a device without tiers")?;
    let (kind, bytes) = (tier.tier, tier.free.min(64 * PART));
    Ok((info, kind, bytes))
}

/// Free bytes of a tier.
fn free(context: &Context, number: u64, tier: dmaplane::Tier) -> Result<u64> {
    for info in DeviceInfo::list(context)? {
        let tiers = info.tiers.iter().filter(|_| info.number == number);
        if let Some(found) = tiers.clone().find(|other| other.tier == tier) {
            return Ok(found.free);
        }
    }
    bail!("device {number} is gone")
}

#[test]
fn bar_zeroing_holds_nobody_up() {
    test(|guest| {
        let context = Context::open()?;
        let (info, tier, bytes) = range(guest, &context)?;
        let before = free(&context, info.number, tier)?;
        // Each part is slow, as behind a slow bus.
        let slow = DelayPoint::open("use_begun", Duration::from_millis(20))?;
        let least = Duration::from_millis(20) * u32::try_from(bytes / PART)?;
        std::thread::scope(|scope| {
            let begun = Instant::now();
            let other = Context::open()?;
            let taker =
                scope.spawn(move || Buffer::on_device(&other, info.number, tier, bytes, None));
            // Its range is taken as soon as it has begun.
            let seen = poll::until(guest.limit(10), || {
                Ok((free(&context, info.number, tier)? < before).then_some(()))
            })?;
            ensure!(seen.is_some(), "the range was never taken");
            for _ in 0..16 {
                free(&context, info.number, tier)?;
            }
            ensure!(!taker.is_finished(), "questions waited for the zeroing");
            let buffer = taker.join().ok().context("a panic")??;
            ensure!(begun.elapsed() >= least, "{:?}", begun.elapsed());
            drop(slow);
            let mut last = [1; 64];
            buffer.read_at(bytes - 64, &mut last);
            ensure!(last == [0; 64], "the end is not zeroed");
            Ok(())
        })
    });
}

#[test]
fn bar_zeroing_ends_with_the_device() {
    test(|guest| {
        let context = Context::open()?;
        let (info, tier, bytes) = range(guest, &context)?;
        let before = free(&context, info.number, tier)?;
        let bound = Bound::of(&info)?;
        let slow = DelayPoint::open("use_begun", Duration::from_millis(20))?;
        std::thread::scope(|scope| {
            let other = Context::open()?;
            let number = info.number;
            let taker = scope.spawn(move || Buffer::on_device(&other, number, tier, bytes, None));
            let seen = poll::until(guest.limit(10), || {
                Ok((free(&context, number, tier)? < before).then_some(()))
            })?;
            ensure!(seen.is_some(), "the range was never taken");
            bound.unbind()?;
            let refused = refusal(taker.join().ok().context("a panic")?)?;
            ensure!(refused == Errno::NODEV, "{refused}");
            Ok(())
        })?;
        drop(slow);
        bound.bind()?;
        rebound(guest, &context, info.number)?;
        Ok(())
    });
}
