// SPDX-License-Identifier: GPL-2.0-only

//! Points at which tests interfere with verbs, handed in by whoever makes connections and regions.
//!
//! Would not go into the kernel crate: only this driver's tests need it.

use crate::kx::fault::Point;

/// The points, and what stands for a late completion.
pub(crate) struct Hooks {
    /// Memory cannot be mapped for a device.
    pub(crate) dma_map: &'static Point,
    /// A device takes fewer pages than asked into a memory region.
    pub(crate) map_region: &'static Point,
    /// The provider refuses an operation.
    pub(crate) post_send: &'static Point,
    /// The provider takes the first of several work requests of an operation and refuses the rest.
    pub(crate) post_part: &'static Point,
    /// The provider refuses a control message.
    pub(crate) post_message: &'static Point,
    /// The provider refuses a receive.
    pub(crate) post_receive: &'static Point,
    /// The provider refuses a registration.
    pub(crate) post_register: &'static Point,
    /// An operation that was carried out completes with an error.
    pub(crate) complete_error: &'static Point,
    /// A work request before an operation's last one completes with an error.
    pub(crate) complete_part: &'static Point,
    /// An operation that was carried out completes as flushed, and the queue pair is in error.
    pub(crate) complete_flush: &'static Point,
    /// A control message completes with an error.
    pub(crate) complete_message: &'static Point,
    /// A receive completes with an error.
    pub(crate) complete_receive: &'static Point,
    /// A registration completes with an error.
    pub(crate) complete_register: &'static Point,
    /// A completion comes late.
    pub(crate) complete_delay: &'static Point,
    /// How late a late completion is, in milliseconds.
    pub(crate) late_ms: u32,
    /// Runs when the provider has completed a registration, before its owner is notified. May sleep.
    pub(crate) registration_done: fn(),
}
