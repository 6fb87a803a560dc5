// SPDX-License-Identifier: GPL-2.0-only

//! Starvation: how often and how long operations waited for the peer's receives.

use kernel::time::{Instant, Monotonic};

/// Its count and time. Its owner's lock protects it.
#[derive(Default)]
pub(super) struct Stall {
    since: Option<Instant<Monotonic>>,
    count: u64,
    nanoseconds: u64,
}

impl Stall {
    /// An operation has to wait.
    pub(super) fn begin(&mut self) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.count += 1;
        }
    }

    /// None has to wait any more.
    pub(super) fn end(&mut self) {
        self.nanoseconds += self.lasting();
        self.since = None;
    }

    fn lasting(&self) -> u64 {
        let since = self.since.map_or(0, |since| since.elapsed().as_nanos());
        u64::try_from(since).unwrap_or(0)
    }

    /// Count and nanoseconds, a stall that lasts included.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.count, self.nanoseconds + self.lasting())
    }
}
