// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Histograms: the stated error, percentiles against the sorted values, merging, emptying.

use std::sync::atomic::{AtomicU64, Ordering};

use dmaplane_logic::histogram::{
    bounds, gather, middle, place, record, summarize, Counter, BUCKETS, LIMIT_NS,
};
use proptest::prelude::*;

struct Atomic(AtomicU64);

impl Counter for Atomic {
    fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Release);
    }
    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Acquire)
    }
    fn raise(&self, to: u64) {
        self.0.fetch_max(to, Ordering::Relaxed);
    }
}

struct Histogram {
    buckets: Vec<Atomic>,
    highest: Atomic,
}

impl Histogram {
    fn new() -> Self {
        let buckets = (0..BUCKETS).map(|_| Atomic(AtomicU64::new(0)));
        Self {
            buckets: buckets.collect(),
            highest: Atomic(AtomicU64::new(0)),
        }
    }

    fn of(values: &[u64]) -> Self {
        let histogram = Self::new();
        for value in values {
            record(&histogram.buckets, &histogram.highest, *value);
        }
        histogram
    }

    fn gather(&self, empty: bool, counts: &mut [u64]) -> u64 {
        gather(&self.buckets, &self.highest, empty, counts)
    }
}

/// The stated error: 1/64, or 4 ns where that is more.
fn allowed(value: u64) -> u64 {
    (value / 64).max(4)
}

/// Values of all magnitudes below the limit.
fn value() -> impl Strategy<Value = u64> {
    (0u32..35, any::<u64>()).prop_map(|(bits, raw)| raw & ((1 << bits) - 1))
}

#[test]
fn buckets_follow_each_other_without_a_gap() {
    let mut next = 0;
    for at in 0..BUCKETS {
        let (lowest, width) = bounds(at);
        assert_eq!(lowest, next, "bucket {at}");
        assert_eq!(place(lowest), at);
        assert_eq!(place(lowest + width - 1), at);
        next = lowest + width;
    }
    assert_eq!(next, LIMIT_NS);
    assert_eq!(place(u64::MAX), BUCKETS - 1);
}

#[test]
fn nothing_gives_zeroes() {
    let summary = summarize(&[0; BUCKETS], 7);
    assert_eq!((summary.count, summary.max, summary.p999), (0, 0, 0));
}

proptest! {
    #[test]
    fn a_value_is_reported_within_the_error(value in value()) {
        let reported = middle(place(value));
        prop_assert!(reported.abs_diff(value) <= allowed(value), "{value} is reported as {reported}");
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values(mut values in prop::collection::vec(value(), 1..3000)) {
        let histogram = Histogram::of(&values);
        let mut counts = vec![0; BUCKETS];
        let highest = histogram.gather(false, &mut counts);
        let summary = summarize(&counts, highest);
        values.sort_unstable();
        prop_assert_eq!(summary.count, values.len() as u64);
        prop_assert_eq!(summary.max, values[values.len() - 1]);
        for (reported, per_mille) in [(summary.p50, 500), (summary.p99, 990), (summary.p999, 999)] {
            let rank = (values.len() * per_mille).div_ceil(1000);
            let value = values[rank - 1];
            prop_assert!(reported.abs_diff(value) <= allowed(value), "{per_mille}: {value} is reported as {reported}");
        }
    }

    #[test]
    fn merged_histograms_are_one_histogram(one in prop::collection::vec(value(), 0..500), other in prop::collection::vec(value(), 0..500)) {
        let (a, b) = (Histogram::of(&one), Histogram::of(&other));
        let mut merged = vec![0; BUCKETS];
        let highest = a.gather(false, &mut merged).max(b.gather(false, &mut merged));
        let all: Vec<u64> = one.iter().chain(&other).copied().collect();
        let whole = Histogram::of(&all);
        let mut counts = vec![0; BUCKETS];
        let highest_of_all = whole.gather(false, &mut counts);
        prop_assert_eq!(&merged, &counts);
        prop_assert_eq!(summarize(&merged, highest), summarize(&counts, highest_of_all));
    }

    #[test]
    fn emptied_readings_add_up(values in prop::collection::vec(value(), 1..500), at in any::<prop::sample::Index>()) {
        let at = at.index(values.len());
        let histogram = Histogram::of(&values[..at]);
        let mut first = vec![0; BUCKETS];
        let _ = histogram.gather(true, &mut first);
        for value in &values[at..] {
            record(&histogram.buckets, &histogram.highest, *value);
        }
        let mut second = vec![0; BUCKETS];
        let highest = histogram.gather(true, &mut second);
        prop_assert_eq!(first.iter().sum::<u64>(), at as u64);
        prop_assert_eq!(second.iter().sum::<u64>(), (values.len() - at) as u64);
        prop_assert_eq!(highest, values[at..].iter().copied().max().unwrap_or(0));
        let mut rest = vec![0; BUCKETS];
        prop_assert_eq!(histogram.gather(true, &mut rest), 0);
        prop_assert!(rest.iter().all(|count| *count == 0));
    }
}
