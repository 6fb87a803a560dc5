// SPDX-License-Identifier: GPL-2.0-only

//! What the driver needs of an RDMA device, and cannot do without.

use crate::{
    kx::rdma::{capabilities::Capabilities, connection::LEAST_QUEUE_ENTRIES},
    uapi,
};

/// The first thing that a device lacks: one of `RDMA_LACK_*`.
pub(super) fn lack(capabilities: &Capabilities) -> u32 {
    if !capabilities.connections {
        uapi::RDMA_LACK_CONNECTIONS
    } else if capabilities.region_pages == 0 {
        uapi::RDMA_LACK_REGISTRATION
    } else if !capabilities.immediates {
        uapi::RDMA_LACK_IMMEDIATES
    } else if capabilities.queue_entries < LEAST_QUEUE_ENTRIES {
        uapi::RDMA_LACK_QUEUES
    } else {
        uapi::RDMA_LACK_NONE
    }
}
