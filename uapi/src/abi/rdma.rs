// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! RDMA devices, and whether the driver can use them.

use super::*;

/// Reports an RDMA device of the caller's network namespace ([`RdmaQuery`]): the first one with a number above
/// [`RdmaQuery::after`]. Errors: `ENODEV` (there is none).
pub const IOC_RDMA_QUERY: u32 = (IOC_TYPE << 8) | 0x34;

/// Protocol: one that the driver does not know.
pub const RDMA_PROTOCOL_OTHER: u32 = 0;
/// Protocol: InfiniBand.
pub const RDMA_PROTOCOL_INFINIBAND: u32 = 1;
/// Protocol: RDMA over Converged Ethernet.
pub const RDMA_PROTOCOL_ROCE: u32 = 2;
/// Protocol: iWARP, RDMA over TCP.
pub const RDMA_PROTOCOL_IWARP: u32 = 3;

/// The driver can use the device.
pub const RDMA_LACK_NONE: u32 = 0;
/// The connection manager makes no connections on the device.
pub const RDMA_LACK_CONNECTIONS: u32 = 1;
/// Work requests cannot register memory on the device.
pub const RDMA_LACK_REGISTRATION: u32 = 2;
/// An RDMA WRITE can have no immediate on the device.
pub const RDMA_LACK_IMMEDIATES: u32 = 3;
/// The device's queues are too short.
pub const RDMA_LACK_QUEUES: u32 = 4;

/// Argument of [`IOC_RDMA_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// The device is the first one with a higher number than this; 0 for the first of all.
    pub after: u64,
    /// Out: the device's number, which never repeats as long as the driver is loaded.
    pub device: u64,
    /// Out: its name, padded with zeroes.
    pub name: [u8; 64],
    /// Out: the NUMA node of the adapter, or of the device under its first port; -1 when neither is known.
    pub node: i32,
    /// Out: one of `RDMA_PROTOCOL_*`, of its first port.
    pub protocol: u32,
    /// Out: one of `RDMA_LACK_*`: why the driver cannot use it. Listeners and connections on it give `EOPNOTSUPP` then;
    /// with [`RDMA_LACK_CONNECTIONS`] `EADDRNOTAVAIL`, since no address is known to be its.
    pub lack: u32,
    /// Out: pages that one memory region of a grant holds; larger grants have several regions.
    pub region_pages: u32,
    /// Out: work requests that one of its queues holds, which bounds the receives of an endpoint.
    pub queue_entries: u32,
    /// Out: 0.
    pub reserved: u32,
}

impl Default for RdmaQuery {
    fn default() -> Self {
        Self {
            size: 0,
            flags: 0,
            after: 0,
            device: 0,
            name: [0; 64],
            node: 0,
            protocol: 0,
            lack: 0,
            region_pages: 0,
            queue_entries: 0,
            reserved: 0,
        }
    }
}

const _: () = {
    assert!(size_of::<RdmaQuery>() == 112);
};
