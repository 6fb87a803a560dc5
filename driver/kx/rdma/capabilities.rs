// SPDX-License-Identifier: GPL-2.0-only

//! What an RDMA device can do. Nothing else asks a device for its kind; defects of single providers are in `quirks.rs`.
//!
//! Would become part of `kernel::rdma`.

use super::{client::Device, raw};

/// How a device talks to its peers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// InfiniBand.
    InfiniBand,
    /// RDMA over Converged Ethernet.
    Roce,
    /// iWARP: RDMA over TCP.
    Iwarp,
    /// One that the kernel knows and this file does not.
    Other,
}

/// What a device can do. Its attributes are constant.
#[derive(Clone, Copy)]
pub(crate) struct Capabilities {
    /// How it talks to its peers.
    pub(crate) protocol: Protocol,
    /// Whether the connection manager makes connections on it.
    pub(crate) connections: bool,
    /// Whether an RDMA WRITE may have an immediate, which the peer gets behind the bytes.
    pub(crate) immediates: bool,
    /// Pages that one memory region holds that is registered by a work request; 0 where there is no such registration.
    pub(crate) region_pages: u32,
    /// Work requests that one of its queues holds.
    pub(crate) queue_entries: u32,
}

impl Capabilities {
    /// What a device says of itself.
    pub(crate) fn of(device: Device) -> Self {
        // SAFETY: By the type invariant the device is alive.
        let (features, attributes) = unsafe {
            let device = device.as_ptr();
            (raw::dmaplane_ib_features(device), &(*device).attrs)
        };
        let has = |feature: u32| features & feature != 0;
        let protocol = if has(raw::DMAPLANE_IB_IWARP) {
            Protocol::Iwarp
        } else if has(raw::DMAPLANE_IB_ROCE) {
            Protocol::Roce
        } else if has(raw::DMAPLANE_IB_INFINIBAND) {
            Protocol::InfiniBand
        } else {
            Protocol::Other
        };
        Self {
            protocol,
            connections: has(raw::DMAPLANE_IB_CONNECTIONS),
            // RFC 7306 gives iWARP immediates, which no provider of the kernel has and no verb says.
            immediates: matches!(protocol, Protocol::InfiniBand | Protocol::Roce),
            region_pages: if has(raw::DMAPLANE_IB_REGISTERS) {
                attributes.max_fast_reg_page_list_len
            } else {
                0
            },
            queue_entries: attributes.max_qp_wr,
        }
    }
}
