// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How many work requests of one endpoint are under way: posting pauses at the high watermark and goes on
//! at the low one, so that it does not stutter around a single limit.

/// A window with hysteresis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    high: u32,
    low: u32,
    under_way: u32,
    paused: bool,
}

impl Window {
    /// Watermarks as a user gave them, where 0 stands for `most` and for three quarters of the high one. `None` when
    /// they make no sense.
    pub fn new(high: u32, low: u32, most: u32) -> Option<Self> {
        let high = if high == 0 { most } else { high };
        let low = if low == 0 { high - high / 4 } else { low };
        (low <= high && high <= most).then_some(Self {
            high,
            low,
            under_way: 0,
            paused: false,
        })
    }

    /// Whether `count` more may be posted now. An operation that is larger than the window is posted alone.
    pub fn admits(&mut self, count: u32) -> bool {
        if self.paused && self.under_way <= self.low {
            self.paused = false;
        }
        if self.paused {
            return false;
        }
        let fits = self.under_way == 0 || self.under_way.saturating_add(count) <= self.high;
        self.paused = !fits;
        fits
    }

    /// Whether `count` more would have to wait.
    pub fn would_pause(&self, count: u32) -> bool {
        !self.clone().admits(count)
    }

    /// Counts work requests that were posted.
    pub fn posted(&mut self, count: u32) {
        self.under_way = self.under_way.saturating_add(count);
        self.paused |= self.under_way >= self.high;
    }

    /// Counts work requests that completed.
    pub fn returned(&mut self, count: u32) {
        self.under_way = self.under_way.saturating_sub(count);
    }

    /// How many are under way.
    pub fn under_way(&self) -> u32 {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_pauses_high_and_goes_on_low() {
        let mut window = Window::new(8, 4, 256).unwrap();
        for _ in 0..8 {
            assert!(window.admits(1));
            window.posted(1);
        }
        for left in (5..=8).rev() {
            assert_eq!(window.under_way(), left);
            assert!(!window.admits(1), "{left}");
            window.returned(1);
        }
        assert!(window.admits(1));
    }

    #[test]
    fn what_is_larger_than_the_window_goes_alone() {
        let mut window = Window::new(2, 1, 256).unwrap();
        assert!(window.admits(10));
        window.posted(10);
        assert!(!window.admits(1));
        window.returned(10);
        assert!(window.admits(1));
    }

    #[test]
    fn defaults_and_nonsense() {
        assert_eq!(Window::new(0, 0, 256), Window::new(256, 192, 256));
        assert_eq!(Window::new(257, 1, 256), None);
        assert_eq!(Window::new(4, 5, 256), None);
        assert_eq!(Window::new(1, 0, 256), Window::new(1, 1, 256));
    }
}
