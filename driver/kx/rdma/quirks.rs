// SPDX-License-Identifier: GPL-2.0-only

//! Defects of single providers that are worked around, each with its reason. The only place that asks which provider a
//! device has.
//!
//! Would become part of `kernel::rdma`.

use super::{client::Device, raw};

/// Whether a READ has to be alone, in steps, and confirmed by a request behind it: rxe may report a READ as done whose
/// data never arrived, when packets are lost or reordered; see docs/findings.md.
pub(super) fn reads_alone(device: Device) -> bool {
    // SAFETY: By the type invariant the device is alive, and its driver never changes.
    unsafe { raw::dmaplane_ib_is_rxe(device.as_ptr()) }
}
