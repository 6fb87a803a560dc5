// SPDX-License-Identifier: MIT OR Apache-2.0

//! The report of one measurement.

use serde::Serialize;

/// One measurement next to its reference in the same guest.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// Which bench.
    pub(crate) bench: &'static str,
    /// Which case of it.
    pub(crate) case: String,
    /// Bytes of one operation.
    pub(crate) size: u64,
    /// Operations at once.
    pub(crate) depth: u32,
    /// The median.
    pub(crate) value: f64,
    /// What the value counts.
    pub(crate) unit: &'static str,
    /// What it is compared with.
    pub(crate) reference: &'static str,
    /// The value divided by the reference's.
    pub(crate) ratio: f64,
    /// What the guest ran on.
    pub(crate) accel: String,
}

/// The middle one of an odd number of values; of an even number, the higher of the middle two.
pub(crate) fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0]), Some(4.0));
        assert_eq!(median(&mut []), None);
    }
}
