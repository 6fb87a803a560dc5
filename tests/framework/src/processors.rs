// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a machine's processors did: how long something waited, whatever the speed of the machine and of what runs beside it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// The unit of /proc/stat on x86-64: 100 ticks a second (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// A reading of a machine's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processors {
    /// How many are online.
    pub count: u32,
    /// The sum of the time that each has idled since boot.
    pub idle: Duration,
}

impl Processors {
    /// Reads this machine's.
    ///
    /// # Errors
    /// When /proc/stat cannot be read or is not understood.
    pub fn read() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").context("/proc/stat")?)
            .context("/proc/stat is not understood")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut count = 0;
        let mut idle = Duration::ZERO;
        for line in text.lines() {
            let mut fields = line.split_ascii_whitespace();
            let of_one = |name: &str| name.strip_prefix("cpu").is_some_and(|n| !n.is_empty());
            if !fields.next().is_some_and(of_one) {
                continue;
            }
            // user, nice, system, idle, iowait
            let ticks = |text: Option<&str>| text?.parse::<u32>().ok();
            idle += TICK * (ticks(fields.nth(3))? + ticks(fields.next())?);
            count += 1;
        }
        (count > 0).then_some(Self { count, idle })
    }

    /// How long the processors worked since `before`, `elapsed` ago: the sum over all.
    fn worked_since(self, before: Self, elapsed: Duration) -> Duration {
        (elapsed * self.count).saturating_sub(self.idle.saturating_sub(before.idle))
    }
}

/// Measures how long something waits on the machines that take part in it.
pub struct Stopwatch {
    start: Instant,
    before: Vec<Processors>,
}

impl Stopwatch {
    /// Starts; `machines` are readings of now.
    pub fn start(machines: Vec<Processors>) -> Self {
        Self {
            start: Instant::now(),
            before: machines,
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The part of `elapsed` in which no processor of any machine can have worked: what a timeout or a chain of waits costs,
    /// and an emulator that shares its processors with others does not. `machines` are readings of now, in the order of the
    /// start's. Work in parallel hides waiting, so this is the least that it can have been.
    pub fn waited(&self, elapsed: Duration, machines: &[Processors]) -> Duration {
        let worked = self
            .before
            .iter()
            .zip(machines)
            .map(|(before, now)| now.worked_since(*before, elapsed))
            .sum();
        elapsed.saturating_sub(worked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "cpu  10 0 20 300 40 0 0 0 0 0\ncpu0 5 0 10 100 20 0 0 0 0 0\ncpu1 5 0 10 200 20 0 0 0 0 0\nintr 5\n";

    #[test]
    fn each_processor_counts_once() {
        let read = Processors::parse(TEXT).expect("two processors");
        assert_eq!(read.count, 2);
        assert_eq!(read.idle, Duration::from_millis(3400));
        assert_eq!(Processors::parse("intr 5\n"), None);
        assert_eq!(Processors::parse("cpu0 5 0 10\n"), None);
    }

    #[test]
    fn waiting_is_what_no_work_explains() {
        let reading = |idle_ms| Processors {
            count: 2,
            idle: Duration::from_millis(idle_ms),
        };
        let watch = Stopwatch::start(vec![reading(0), reading(500)]);
        let second = Duration::from_secs(1);
        let waited = |a, b| watch.waited(second, &[reading(a), reading(b)]);
        assert_eq!(waited(2000, 2500), second, "nobody worked");
        assert_eq!(waited(1400, 2500), second * 4 / 10);
        assert_eq!(
            waited(1400, 2200),
            second / 10,
            "work on two machines adds up"
        );
        assert_eq!(waited(0, 500), Duration::ZERO);
    }

    #[test]
    fn a_loop_is_no_waiting() {
        // Of a sleep nothing can be said on a machine that does other work meanwhile.
        let watch = Stopwatch::start(vec![Processors::read().expect("readable")]);
        while watch.elapsed() < Duration::from_millis(200) {}
        let elapsed = watch.elapsed();
        let waited = watch.waited(elapsed, &[Processors::read().expect("readable")]);
        assert!(waited < elapsed / 2, "{waited:?} of {elapsed:?}");
    }
}
