// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How long a peer may be silent. Each side chooses the time between its own heartbeats and announces it in the greeting, so
//! that a peer with rarer heartbeats is not taken for dead.

/// Times between two heartbeats that a side may choose, in milliseconds.
pub const INTERVALS_MS: core::ops::RangeInclusive<u32> = 10..=60_000;

/// Heartbeats of the peer's that may be missed before it counts as dead.
const MISSED: u32 = 10;

/// Whether the peer is alive, measured at this side's heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    own_ms: u32,
    peer_ms: u32,
    /// Own heartbeats since the peer was last heard.
    silent: u32,
    heard: bool,
}

impl Heartbeat {
    /// The state of a connection whose peer is not known yet; an interval outside of [`INTERVALS_MS`] becomes the
    /// nearest one.
    pub fn new(own_ms: u32) -> Self {
        let own_ms = own_ms.clamp(*INTERVALS_MS.start(), *INTERVALS_MS.end());
        Self {
            own_ms,
            peer_ms: own_ms,
            silent: 0,
            heard: false,
        }
    }

    /// Sets the interval that the peer announced.
    pub fn peer_interval(&mut self, peer_ms: u32) {
        self.peer_ms = peer_ms;
    }

    /// Milliseconds between this side's heartbeats.
    pub fn interval_ms(&self) -> u32 {
        self.own_ms
    }

    /// Notes that something from the peer arrived.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// Counts a heartbeat of this side; false when the peer counts as dead.
    #[must_use]
    pub fn heartbeat(&mut self) -> bool {
        self.silent = match self.heard {
            true => 0,
            false => self.silent.saturating_add(1),
        };
        self.heard = false;
        self.silent < self.limit()
    }

    /// Own heartbeats since the peer was last heard.
    pub fn silent(&self) -> u32 {
        self.silent
    }

    /// Own heartbeats without anything from the peer after which it counts as dead: as many as take ten of the longer
    /// of the two intervals. The peer's interval alone does not decide, because the peer may be waiting for this side's
    /// next heartbeat, which it answers.
    fn limit(&self) -> u32 {
        let longer = self.own_ms.max(self.peer_ms);
        MISSED.saturating_mul(longer).div_ceil(self.own_ms.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds until a peer that never speaks counts as dead.
    fn patience(own_ms: u32, peer_ms: u32) -> u32 {
        let mut heartbeat = Heartbeat::new(own_ms);
        heartbeat.peer_interval(peer_ms);
        let mut count = 1;
        while heartbeat.heartbeat() {
            count += 1;
        }
        count * own_ms
    }

    #[test]
    fn ten_of_the_longer_interval_are_waited_for() {
        assert_eq!(patience(1000, 1000), 10_000);
        assert_eq!(patience(50, 2000), 20_000);
        assert_eq!(patience(2000, 50), 20_000);
        assert_eq!(patience(10, 60_000), 600_000);
        // Not a multiple: rather one own heartbeat later than too early.
        assert_eq!(patience(300, 1000), 10_200);
    }

    #[test]
    fn a_peer_that_keeps_its_own_interval_lives_whatever_this_sides_is() {
        for (own_ms, peer_ms) in [(10, 60_000), (50, 2000), (999, 1000), (60_000, 10)] {
            let mut heartbeat = Heartbeat::new(own_ms);
            heartbeat.peer_interval(peer_ms);
            let mut next = u64::from(peer_ms);
            for nth in 1..100_000u64 {
                let now = nth * u64::from(own_ms);
                while next <= now {
                    heartbeat.heard();
                    next += u64::from(peer_ms);
                }
                assert!(
                    heartbeat.heartbeat(),
                    "{own_ms} and {peer_ms} after {now} ms"
                );
            }
        }
    }

    #[test]
    fn anything_heard_begins_the_count_anew() {
        let mut heartbeat = Heartbeat::new(1000);
        for _ in 0..9 {
            assert!(heartbeat.heartbeat());
        }
        heartbeat.heard();
        assert!(heartbeat.heartbeat());
        assert_eq!(heartbeat.silent(), 0);
        for _ in 0..9 {
            assert!(heartbeat.heartbeat());
        }
        assert!(!heartbeat.heartbeat());
    }

    #[test]
    fn intervals_are_bounded() {
        assert_eq!(Heartbeat::new(0).interval_ms(), 10);
        assert_eq!(Heartbeat::new(u32::MAX).interval_ms(), 60_000);
    }
}
