// SPDX-License-Identifier: MIT OR Apache-2.0
//! What runs without a failure, or with few, say about the failure rate.

/// The upper end of the failure rate that `failures` of `runs` leave possible with 95 % confidence (Clopper and Pearson,
/// one-sided): the rate at which so few failures or fewer would have a chance of 5 %. For no failure it is near 3 / runs.
pub(super) fn upper(failures: u64, runs: u64) -> f64 {
    if runs == 0 || failures >= runs {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at_most(failures, runs, middle) > 0.05 {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The chance of at most `failures` in `runs` at a rate.
fn at_most(failures: u64, runs: u64, rate: f64) -> f64 {
    let (win, lose) = ((1.0 - rate).ln(), rate.ln());
    let mut choose = 0.0;
    let mut sum = 0.0;
    for k in 0..=failures {
        if k > 0 {
            choose += ((runs - k + 1) as f64).ln() - (k as f64).ln();
        }
        sum += (choose + k as f64 * lose + (runs - k) as f64 * win).exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_failure_is_the_rule_of_three() {
        for runs in [100, 1000, 10_000] {
            let rule = 3.0 / runs as f64;
            let exact = upper(0, runs);
            assert!(exact < rule && exact > rule * 0.97, "{runs}: {exact}");
        }
    }

    #[test]
    fn known_values() {
        // From tables of the one-sided interval.
        assert!((upper(0, 10) - 0.2589).abs() < 1e-3, "{}", upper(0, 10));
        assert!((upper(1, 10) - 0.3942).abs() < 1e-3, "{}", upper(1, 10));
        assert!((upper(5, 100) - 0.1023).abs() < 1e-3, "{}", upper(5, 100));
    }

    #[test]
    fn nothing_says_nothing() {
        assert!((upper(0, 0) - 1.0).abs() < f64::EPSILON);
        assert!((upper(3, 3) - 1.0).abs() < f64::EPSILON);
    }
}
