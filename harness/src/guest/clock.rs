// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frequency of this processor's time stamp counter.
//!
//! An emulated guest reads the host's counter, but measures its frequency against an emulated timer
//! chip. On a busy host the result has been off by a factor of 15, and then time in the guest ran
//! 15 times too fast: every limit expired at once. So the guest gets the frequency on its command
//! line.

use std::time::{Duration, Instant};

/// How long one measurement takes.
const SPAN: Duration = Duration::from_millis(20);
/// How many measurements there are; the median counts, as other processes disturb some.
const COUNT: usize = 5;

/// The frequency in kHz.
pub fn tsc_khz() -> u64 {
    let mut measured: Vec<u64> = (0..COUNT).map(|_| measure()).collect();
    measured.sort_unstable();
    measured[COUNT / 2]
}

fn measure() -> u64 {
    let start = Instant::now();
    let from = counter();
    std::thread::sleep(SPAN);
    let to = counter();
    let micros = start.elapsed().as_micros().max(1);
    u64::try_from(u128::from(to.wrapping_sub(from)) * 1000 / micros).unwrap_or_default()
}

fn counter() -> u64 {
    // SAFETY: the instruction reads a register and is there on every x86-64 processor.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_agree_and_are_plausible() {
        let (one, two) = (tsc_khz(), tsc_khz());
        assert!((500_000..10_000_000).contains(&one), "{one} kHz");
        assert!(one.abs_diff(two) < one / 50, "{one} and {two} kHz");
    }
}
