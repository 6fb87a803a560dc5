// SPDX-License-Identifier: GPL-2.0-only

//! What every part above uses: charges, limits, counts, waits, and the points at which tests interfere.

pub(crate) mod delay_points;
pub(crate) mod faults;
pub(crate) mod gauges;
pub(crate) mod quota;
pub(crate) mod readiness;
pub(crate) mod tuning;
pub(crate) mod wait;
