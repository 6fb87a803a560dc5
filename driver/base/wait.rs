// SPDX-License-Identifier: GPL-2.0-only

//! Waiting for a condition under a lock, with a time limit, ended early by a signal.

use crate::{
    kx::waitq::{EndedBy, WaitQueue},
    uapi,
};
use kernel::{
    prelude::*,
    sync::{
        lock::{Backend, Guard},
        CondVar, CondVarTimeoutResult,
    },
    time::{msecs_to_jiffies, Delta, Instant, Monotonic},
};

/// A moment after which a wait ends.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Option<Instant<Monotonic>>);

/// Longest single sleep, in milliseconds; a later deadline takes several.
const MAX_SLEEP_MS: u32 = 1_000_000;

/// Whole milliseconds since a moment.
pub(crate) fn elapsed_ms(moment: Instant<Monotonic>) -> u32 {
    u32::try_from(moment.elapsed().as_millis()).unwrap_or(u32::MAX)
}

impl Deadline {
    /// No limit.
    pub(crate) const NONE: Self = Self(None);

    /// `limit_ns` from now, by the user-space interface's convention for time limits.
    pub(crate) fn after(limit_ns: u64) -> Self {
        if limit_ns == uapi::TIMEOUT_NONE {
            return Self(None);
        }
        // Half of the range is 146 years.
        let nanos = i64::try_from(limit_ns)
            .unwrap_or(i64::MAX / 2)
            .min(i64::MAX / 2);
        Self(Some(Instant::now() + Delta::from_nanos(nanos)))
    }

    /// This deadline, but not earlier than `limit_ms` milliseconds from now.
    pub(crate) fn at_least_ms(self, limit_ms: u32) -> Self {
        let least = Instant::now() + Delta::from_millis(limit_ms.into());
        match self.0 {
            Some(end) if (end - least).is_negative() => Self(Some(least)),
            _ => self,
        }
    }

    /// A deadline `limit_ms` milliseconds from now.
    pub(crate) fn within_ms(limit_ms: u32) -> Self {
        Self(Some(Instant::now() + Delta::from_millis(limit_ms.into())))
    }

    /// This deadline, `limit_ms` milliseconds later.
    pub(crate) fn plus_ms(self, limit_ms: u32) -> Self {
        Self(self.0.map(|end| end + Delta::from_millis(limit_ms.into())))
    }

    /// The earlier of the two.
    pub(crate) fn min(self, other: Self) -> Self {
        self.or_at(other.0)
    }

    /// This deadline, or a moment if that is earlier.
    pub(crate) fn or_at(self, moment: Option<Instant<Monotonic>>) -> Self {
        match (self.0, moment) {
            (Some(end), Some(moment)) if (moment - end).is_negative() => Self(Some(moment)),
            (None, moment) => Self(moment),
            _ => self,
        }
    }

    /// Milliseconds left, rounded up; `None` when the deadline has passed.
    pub(crate) fn left_ms(self) -> Option<u32> {
        let Some(end) = self.0 else {
            return Some(MAX_SLEEP_MS);
        };
        let left = end - Instant::now();
        if left.is_negative() || left.is_zero() {
            return None;
        }
        Some(
            u32::try_from(left.as_millis_ceil())
                .unwrap_or(MAX_SLEEP_MS)
                .min(MAX_SLEEP_MS),
        )
    }

    /// Sleeps until `ready` returns `Some`. It is called whenever `queue` is woken and must not sleep. `ETIMEDOUT`
    /// after the deadline; after a signal `ERESTARTSYS`, or `EINTR` where only a kill ends the wait.
    pub(crate) fn wait_on<R>(
        self,
        queue: &WaitQueue,
        ended_by: EndedBy,
        mut ready: impl FnMut() -> Option<R>,
    ) -> Result<R> {
        loop {
            // Without time left, `ready` is called once.
            let left = self.left_ms();
            let waited = queue.wait(ended_by, left.unwrap_or(0), &mut ready);
            match (waited, left) {
                (Ok(Some(result)), _) => return Ok(result),
                (Ok(None), None) => return Err(ETIMEDOUT),
                (Ok(None), Some(_)) => {}
                (Err(_), _) if ended_by == EndedBy::Kill => return Err(EINTR),
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// The time that is left, by the user-space interface's convention for time limits.
    pub(crate) fn left_ns(self) -> u64 {
        let Some(end) = self.0 else {
            return uapi::TIMEOUT_NONE;
        };
        let left = end - Instant::now();
        u64::try_from(left.as_nanos()).unwrap_or(0)
    }

    /// Sleeps on `changed` until `ready` returns `Some`. `ETIMEDOUT` or `EINTR` otherwise; `ready` is always called
    /// once more before giving up.
    pub(crate) fn wait<T, B: Backend, R>(
        self,
        guard: &mut Guard<'_, T, B>,
        changed: &CondVar,
        mut ready: impl FnMut(&mut Guard<'_, T, B>) -> Option<R>,
    ) -> Result<R> {
        loop {
            if let Some(result) = ready(guard) {
                return Ok(result);
            }
            let left = self.left_ms().ok_or(ETIMEDOUT)?;
            let slept = changed.wait_interruptible_timeout(guard, msecs_to_jiffies(left));
            if let CondVarTimeoutResult::Signal { .. } = slept {
                return ready(guard).ok_or(EINTR);
            }
        }
    }
}
