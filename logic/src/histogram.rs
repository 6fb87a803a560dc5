// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Log-linear histograms of nanoseconds.
//!
//! Each power of two is cut into [`STEPS`] buckets of one width, and what is below the first one as well. A bucket
//! stands for its middle, so that a value is reported with an error of at most 1/64 (1.6 %), or 4 ns where that is
//! more. Values from [`LIMIT_NS`] (34 s) on count in the last bucket; the highest value is kept besides.
//!
//! Recording and reading need no lock: a recorder raises the highest value and then adds one to a bucket; a reader that
//! empties takes each bucket by one exchange, and the highest value last. So each value is in exactly one of the
//! readings that empty, and none is reported as higher than that reading's highest.

/// Buckets of each power of two.
pub const STEPS: u64 = 32;
/// Nanoseconds of the narrowest bucket, as a power of two.
const UNIT_SHIFT: u32 = 3;
/// Powers of two, from 256 ns on.
const OCTAVES: u64 = 27;
/// Number of buckets.
pub const BUCKETS: usize = (STEPS * (OCTAVES + 1)) as usize;
/// From here on values count in the last bucket.
pub const LIMIT_NS: u64 = (STEPS << OCTAVES) << UNIT_SHIFT;

/// The bucket of a value.
pub fn place(nanoseconds: u64) -> usize {
    let units = nanoseconds.min(LIMIT_NS - 1) >> UNIT_SHIFT;
    if units < STEPS {
        return units as usize;
    }
    let octave = units.ilog2() - STEPS.ilog2();
    (u64::from(octave) * STEPS + (units >> octave)) as usize
}

/// The lowest value of a bucket, and its width.
pub fn bounds(place: usize) -> (u64, u64) {
    let place = place.min(BUCKETS - 1) as u64;
    // The first two rows of buckets have the unit's width.
    let octave = (place >> STEPS.ilog2()).saturating_sub(1);
    let step = place - octave * STEPS;
    (
        (step << octave) << UNIT_SHIFT,
        1 << (octave as u32 + UNIT_SHIFT),
    )
}

/// What a bucket stands for.
pub fn middle(place: usize) -> u64 {
    let (lowest, width) = bounds(place);
    lowest + width / 2
}

/// A number that several threads change at once.
pub trait Counter {
    /// Adds to it.
    fn add(&self, amount: u64);
    /// Reads it.
    fn load(&self) -> u64;
    /// Reads it and makes it 0, in one step that is ordered after what the others did before they changed it.
    fn take(&self) -> u64;
    /// Makes it at least this. Ordered before what the caller does next.
    fn raise(&self, to: u64);
}

/// Counts a value. `buckets` has [`BUCKETS`] of them; where a test has fewer, the last one takes the rest.
pub fn record<C: Counter>(buckets: &[C], highest: &C, nanoseconds: u64) {
    highest.raise(nanoseconds);
    let at = place(nanoseconds).min(buckets.len().saturating_sub(1));
    if let Some(bucket) = buckets.get(at) {
        bucket.add(1);
    }
}

/// What was read of one or several histograms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Values.
    pub count: u64,
    /// Half of them are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
    /// 999 of 1000 are at most this.
    pub p999: u64,
    /// The highest one. Exact, unless readings that empty came in between: then as exact as its bucket.
    pub max: u64,
}

/// Adds what `buckets` hold to `counts`, and empties them if `empty` is set. Returns the highest value that goes with
/// them.
pub fn gather<C: Counter>(buckets: &[C], highest: &C, empty: bool, counts: &mut [u64]) -> u64 {
    for (bucket, count) in buckets.iter().zip(counts) {
        let value = if empty { bucket.take() } else { bucket.load() };
        *count = count.saturating_add(value);
    }
    if empty {
        highest.take()
    } else {
        highest.load()
    }
}

/// Sums up what was gathered.
pub fn summarize(counts: &[u64], highest: u64) -> Summary {
    let count = counts
        .iter()
        .fold(0u64, |sum, count| sum.saturating_add(*count));
    let last = counts.iter().rposition(|count| *count != 0);
    let Some(last) = last else {
        return Summary::default();
    };
    // A reading that emptied may have taken the highest value of what was counted after it.
    let max = highest.max(bounds(last).0);
    let at = |per_mille| middle(quantile(counts, count, per_mille).unwrap_or(last)).min(max);
    Summary {
        count,
        p50: at(500),
        p99: at(990),
        p999: at(999),
        max,
    }
}

/// The bucket of the value that `per_mille` of a thousand do not exceed.
fn quantile(counts: &[u64], total: u64, per_mille: u64) -> Option<usize> {
    // In two parts, which cannot overflow.
    let rank = (total / 1000) * per_mille + (total % 1000 * per_mille).div_ceil(1000);
    let mut passed = 0u64;
    counts.iter().position(|count| {
        passed = passed.saturating_add(*count);
        *count != 0 && passed >= rank
    })
}
