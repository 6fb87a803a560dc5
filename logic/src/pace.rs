// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How many bytes of one endpoint's WRITEs are under way: as many as a link moves in a share of the time that a message
//! may take. Messages travel on the same queue pair, behind what was posted before them: a slow or shared link must not
//! delay a heartbeat, the answer to a revocation or a last will for minutes.
//!
//! What is posted takes as long as everything that is ahead of it, itself included. So its time measures the link, and
//! nothing else has to. Where it was longer than the budget, the limit becomes what would have taken the budget. Where
//! it was less than half of the budget, and the limit was in the way, the limit grows by what was ahead. Small
//! operations say nothing about a link that they do not fill, and change nothing.

/// Bytes before anything is known of the link: the largest operation. A link that is too slow for it says so once.
const FIRST: u64 = 4 << 20;
/// The highest limit. A link that has got so far takes only a moment for it.
const MOST: u64 = 1 << 30;
/// The lowest limit, however slow the link is.
const SLOWEST: u64 = 16 << 10;
/// Fewer bytes than these say nothing about a link when they are late.
const FEW: u64 = 64 << 10;
/// The limit grows where the time was below this share of the budget: twice as much still keeps it.
const GROWING_SHARE: u64 = 2;

/// How an operation may be posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// All of it.
    Whole,
    /// In steps of this many bytes, one after the other: it is larger than the limit, and nothing else is under way.
    Steps(u32),
    /// Not before something has completed.
    Wait,
}

/// What was posted in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    bytes: u64,
    /// What was under way with it, itself included.
    ahead: u64,
    /// Whether it filled the limit, so that a higher one would have let more go.
    filled: bool,
}

/// The limit and what is under way. Its endpoint's lock protects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    limit: u64,
    under_way: u64,
    /// Whether something had to wait since the limit last changed.
    held: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

impl Pace {
    /// The state before anything is known of the link.
    pub const fn new() -> Self {
        Self {
            limit: FIRST,
            under_way: 0,
            held: false,
        }
    }

    /// How an operation of this many bytes may be posted now.
    pub fn admits(&mut self, bytes: u32) -> Admission {
        let fits = self.under_way.saturating_add(bytes.into()) <= self.limit;
        if fits {
            return Admission::Whole;
        }
        self.held = true;
        match self.under_way {
            0 => Admission::Steps(self.step()),
            _ => Admission::Wait,
        }
    }

    /// Whether an operation of this many bytes would have to wait.
    pub fn would_wait(&self, bytes: u32) -> bool {
        self.clone().admits(bytes) == Admission::Wait
    }

    /// Bytes of a step.
    pub fn step(&self) -> u32 {
        u32::try_from(self.limit).unwrap_or(u32::MAX)
    }

    /// Counts bytes that were posted.
    pub fn posted(&mut self, bytes: u32) -> Flight {
        let bytes = u64::from(bytes);
        self.under_way = self.under_way.saturating_add(bytes);
        Flight {
            bytes,
            ahead: self.under_way,
            filled: self.under_way.saturating_mul(2) >= self.limit,
        }
    }

    /// Counts bytes that completed after `took_us` microseconds, of a budget of `budget_us`.
    pub fn returned(&mut self, flight: Flight, took_us: u64, budget_us: u64) {
        self.under_way = self.under_way.saturating_sub(flight.bytes);
        if took_us > budget_us {
            let fair = flight.ahead.saturating_mul(budget_us).checked_div(took_us);
            // A few bytes were late for another reason, such as a loss.
            let counts = flight.filled || flight.ahead >= FEW;
            if let (Some(fair), true) = (fair, counts) {
                self.limit = fair.clamp(SLOWEST, self.limit.max(SLOWEST));
                self.held = false;
            }
        } else if self.held && flight.filled && took_us < budget_us / GROWING_SHARE {
            self.limit = self.limit.saturating_add(flight.ahead).min(MOST);
            self.held = false;
        }
    }

    /// Bytes that may be under way.
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::collections::VecDeque;

    const BUDGET_US: u64 = 250_000;

    /// Simulates, for `for_us` microseconds, a link that moves one operation after the other, and a writer that always
    /// has more. Returns the longest time that a message would have waited once the link was known, and the bytes that
    /// were moved.
    fn run(pace: &mut Pace, bytes_per_s: u64, latency_us: u64, op: u32, for_us: u64) -> (u64, u64) {
        let (mut now, mut free_at) = (0u64, 0u64);
        let mut flights: VecDeque<(Flight, u64, u64)> = VecDeque::new();
        let (mut left_of_op, mut worst, mut moved) = (0u32, 0, 0u64);
        while now < for_us {
            loop {
                let bytes = if left_of_op > 0 {
                    // Steps go one after the other.
                    if !flights.is_empty() {
                        break;
                    }
                    left_of_op.min(pace.step())
                } else {
                    match pace.admits(op) {
                        Admission::Whole => op,
                        Admission::Steps(step) => {
                            left_of_op = op;
                            step.min(op)
                        }
                        Admission::Wait => break,
                    }
                };
                left_of_op = left_of_op.saturating_sub(bytes);
                free_at = free_at.max(now) + u64::from(bytes) * 1_000_000 / bytes_per_s;
                flights.push_back((pace.posted(bytes), now, free_at + latency_us));
                if flights.len() >= 256 {
                    break;
                }
            }
            worst = worst.max(free_at - now);
            let (flight, posted, back) = flights.pop_front().unwrap();
            now = now.max(back);
            moved += flight.bytes;
            pace.returned(flight, now - posted, BUDGET_US);
        }
        for (flight, posted, back) in flights {
            pace.returned(flight, back - posted, BUDGET_US);
        }
        (worst, moved)
    }

    #[test]
    fn a_message_waits_no_longer_than_the_budget_on_any_link() {
        for bytes_per_s in [125_000, 1_250_000, 12_500_000, 125_000_000, 12_500_000_000] {
            for op in [4 << 20, 1 << 20, 64 << 10, 4096] {
                let mut pace = Pace::new();
                // Until the link is known.
                run(
                    &mut pace,
                    bytes_per_s,
                    50,
                    op,
                    60_000_000.min(FIRST * 4_000_000 / bytes_per_s),
                );
                let (worst, _) = run(&mut pace, bytes_per_s, 50, op, 2_000_000);
                assert!(
                    worst <= BUDGET_US * 11 / 10,
                    "{worst} us at {bytes_per_s} B/s with {op} bytes"
                );
            }
        }
    }

    #[test]
    fn a_link_is_filled() {
        for bytes_per_s in [1_250_000, 125_000_000, 12_500_000_000] {
            for latency_us in [10, 200] {
                let mut pace = Pace::new();
                run(&mut pace, bytes_per_s, latency_us, 4 << 20, 5_000_000);
                let (_, moved) = run(&mut pace, bytes_per_s, latency_us, 4 << 20, 2_000_000);
                let could = bytes_per_s * 2;
                assert!(
                    moved >= could / 100 * 95,
                    "{moved} of {could} bytes at {bytes_per_s} B/s"
                );
            }
        }
    }

    #[test]
    fn a_link_that_becomes_slow_is_noticed() {
        let mut pace = Pace::new();
        run(&mut pace, 1_250_000_000, 50, 4 << 20, 1_000_000);
        let fast = pace.limit();
        // What was under way goes through, and then no more than the budget.
        run(
            &mut pace,
            1_250_000,
            50,
            4 << 20,
            fast * 1_000_000 / 1_250_000 + 2_000_000,
        );
        let (worst, _) = run(&mut pace, 1_250_000, 50, 4 << 20, 5_000_000);
        assert!(worst <= BUDGET_US * 11 / 10, "{worst} us");
    }

    #[test]
    fn small_operations_say_nothing() {
        let mut pace = Pace::new();
        for took_us in [10, 1_000_000] {
            let flight = pace.posted(64);
            pace.returned(flight, took_us, BUDGET_US);
        }
        assert_eq!(pace, Pace::new());
    }

    #[test]
    fn what_is_larger_than_the_limit_goes_in_steps_and_alone() {
        let mut pace = Pace::new();
        assert_eq!(pace.admits(4 << 20), Admission::Whole);
        let flight = pace.posted(4 << 20);
        pace.returned(flight, 16 * BUDGET_US, BUDGET_US);
        assert_eq!(pace.admits(4 << 20), Admission::Steps(256 << 10));
        let flight = pace.posted(256 << 10);
        assert_eq!(pace.admits(1), Admission::Wait);
        assert!(pace.would_wait(4 << 20));
        pace.returned(flight, 1000, BUDGET_US);
        assert_eq!(pace.limit(), 512 << 10);
        assert_eq!(pace.admits(512 << 10), Admission::Whole);
    }
}
