// SPDX-License-Identifier: MIT OR Apache-2.0

//! Histograms of latencies as debugfs shows them, and what was counted between two readings of one.

use std::collections::BTreeMap;

use super::state::Line;

/// Buckets of each power of two, as `StatsQuery` documents them.
const STEPS: u64 = 32;
/// Beyond any version's last power of two; keeps arithmetic from overflowing on invalid input.
const MAX_OCTAVE: u64 = 48;

/// How many latencies are in each bucket, and the longest of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: BTreeMap<u64, u64>,
    max_ns: u64,
}

impl Histogram {
    /// Reads the member `buckets` of a line of `histograms`. `None` from a driver that does not show it.
    pub fn of(line: &Line) -> Option<Self> {
        Some(Self {
            buckets: line.counts("buckets")?,
            max_ns: line.number("max_ns"),
        })
    }

    /// What was counted since an earlier reading. Where a bucket has decreased, the histogram was emptied in
    /// between, or is another endpoint's: its contents came after that, and are all that is still known.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        for (place, count) in &earlier.buckets {
            let now = self.buckets.get(place).copied().unwrap_or(0);
            let Some(more) = now.checked_sub(*count) else {
                return self.clone();
            };
            difference.buckets.insert(*place, more);
        }
        difference
    }

    /// Latencies in it.
    pub fn count(&self) -> u64 {
        self.buckets
            .values()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Nanoseconds that so many of a thousand do not exceed, within 1/64, or 4 ns where that is more; 0 without any.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let total = self.count();
        // In two parts, which cannot overflow.
        let rank = (total / 1000) * per_mille + (total % 1000 * per_mille).div_ceil(1000);
        let mut passed = 0u64;
        let place = self.buckets.iter().find(|(_, count)| {
            passed = passed.saturating_add(**count);
            **count != 0 && passed >= rank
        });
        place.map_or(0, |(place, _)| middle(*place).min(self.max_ns))
    }
}

/// The middle of a bucket, which stands for all of it.
fn middle(place: u64) -> u64 {
    let octave = (place / STEPS).saturating_sub(1).min(MAX_OCTAVE);
    let step = if place < STEPS {
        place
    } else {
        STEPS + place % STEPS
    };
    ((8 * step) << octave) + (4 << octave)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(buckets: &str) -> Histogram {
        let line = Line::parse(&format!("endpoint=1 max_ns=100000 buckets={buckets}"));
        Histogram::of(&line).expect("buckets")
    }

    #[test]
    fn buckets_are_where_the_interface_says() {
        // The first bucket, the last narrow one, the first and the last of the next power of two.
        let places = [(0, 4), (31, 252), (32, 260), (63, 508), (64, 520)];
        for (place, wanted) in places {
            assert_eq!(middle(place), wanted, "{place}");
        }
        // 34 s is where the driver's last bucket ends.
        let last = middle(895);
        assert!((33_000_000_000..34_400_000_000).contains(&last), "{last}");
        assert!(middle(u64::MAX) > last);
    }

    #[test]
    fn the_difference_is_what_came_between() {
        // A thousand short ones long ago say nothing of the ten long ones since.
        let before = histogram("32:1000,96:1");
        let now = histogram("32:1000,96:10,128:1");
        let between = now.since(&before);
        assert_eq!(between.count(), 10);
        assert_eq!(between.quantile(500), middle(96));
        assert_eq!(between.quantile(999), middle(128));
        assert_eq!(now.quantile(500), middle(32));
        let nothing = now.since(&now);
        assert_eq!((nothing.count(), nothing.quantile(500)), (0, 0));
    }

    #[test]
    fn what_was_emptied_in_between_counts_from_there() {
        let before = histogram("32:1000,96:1");
        let fewer = histogram("32:3,128:1");
        assert_eq!(fewer.since(&before), fewer);
        // A bucket may be gone altogether while others have more.
        let other = histogram("32:2000");
        assert_eq!(other.since(&before).count(), 2000);
        assert_eq!(histogram("").since(&before).count(), 0);
        assert_eq!(before.since(&Histogram::default()), before);
    }

    #[test]
    fn no_latency_is_beyond_the_longest() {
        let line = Line::parse("max_ns=257 buckets=32:1");
        let one = Histogram::of(&line).expect("buckets");
        assert_eq!(one.quantile(500), 257);
    }

    #[test]
    fn a_driver_without_buckets_is_distinguished_from_one_without_latencies() {
        assert_eq!(Histogram::of(&Line::parse("count=1 p50_ns=4")), None);
        assert_eq!(Histogram::of(&Line::parse("buckets=32")), None);
        assert_eq!(histogram("").count(), 0);
    }
}
