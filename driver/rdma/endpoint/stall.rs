// SPDX-License-Identifier: GPL-2.0-only

//! Starvation: how often and how long operations waited for the peer's receives.

use super::State;
use kernel::time::{Instant, Monotonic};

/// Number and total time of stalls. The owner's lock protects it.
#[derive(Default)]
pub(super) struct Stall {
    since: Option<Instant<Monotonic>>,
    count: u64,
    nanoseconds: u64,
}

impl Stall {
    /// Records that an operation has to wait; true when none did before.
    fn begin(&mut self) -> bool {
        let first = self.since.is_none();
        if first {
            self.since = Some(Instant::now());
            self.count += 1;
        }
        first
    }

    /// Records that no operation has to wait any more. Returns how long the stall lasted, if there was one.
    fn end(&mut self) -> Option<u64> {
        self.since?;
        let lasted = self.lasting();
        self.nanoseconds += lasted;
        self.since = None;
        Some(lasted)
    }

    fn lasting(&self) -> u64 {
        let since = self.since.map_or(0, |since| since.elapsed().as_nanos());
        u64::try_from(since).unwrap_or(0)
    }

    /// Whether a stall lasts.
    pub(super) fn lasts(&self) -> bool {
        self.since.is_some()
    }

    /// Count and nanoseconds, including a stall that lasts.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.count, self.nanoseconds + self.lasting())
    }
}

impl State {
    /// Records that an operation has to wait for a receive of the peer's.
    pub(super) fn begin_stall(&mut self) {
        if self.stall.begin() {
            self.record.stalled(self.queued);
        }
    }

    /// Records that no operation has to wait any more.
    pub(super) fn end_stall(&mut self) {
        if let Some(nanoseconds) = self.stall.end() {
            self.record.resumed(self.flow.send_credits(), nanoseconds);
        }
    }
}
