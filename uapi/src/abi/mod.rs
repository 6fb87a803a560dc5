// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Structures, numbers and layout of `/dev/dmaplane`.
//!
//! Conventions that hold for every ioctl:
//! - The argument points to a structure whose first member is its size in bytes as the caller was
//!   compiled. A structure that is shorter than in version 1 gives `EINVAL`; one that is as long as in any version up to the
//!   kernel's is extended with zeroes; a longer one is accepted only when the bytes that the kernel does not know are zero
//!   (`E2BIG` otherwise).
//! - Members that are only results ("Out") are not read. A call that succeeds writes all of them that the structure has room
//!   for.
//! - Unknown bits in `flags` and non-zero reserved members give `EINVAL`.
//! - A handle that does not name an object of the expected kind in this file gives `ENOENT`. A handle that was given up
//!   names nothing until at least 131,071 further objects were made in this file, and until billions were made as long
//!   as most of [`Query::max_handles`] are not in use at a time; an offset for mmap(2) names nothing until 255 and
//!   until millions were made.
//! - Time limits are nanoseconds: 0 does not wait, `u64::MAX` waits without limit. Every wait ends early on a signal
//!   (`EINTR`) and when its object goes away. Calls that have no time limit and allocate memory end early only on fatal
//!   signals.
//! - Every call can fail with `ENOMEM` (the kernel has no memory for it) and with `EFAULT` (its argument, or memory
//!   that it names, cannot be read or written). A call whose results cannot be written leaves no new object behind;
//!   what [`IOC_ENTER`] submitted stays submitted.
//! - All memory and address sizes are bytes. Integers have the machine's byte order.

mod buffer;
mod channel;
mod completion;
mod connection;
mod device;
mod dmabuf;
mod entry;
mod grant;
mod memory;
mod pool;
mod rdma;
mod stats;

pub use buffer::*;
pub use channel::*;
pub use completion::*;
pub use connection::*;
pub use device::*;
pub use dmabuf::*;
pub use entry::*;
pub use grant::*;
pub use memory::*;
pub use pool::*;
pub use rdma::*;
pub use stats::*;

/// Version of this interface, as [`Query::abi_version`] reports it. Version 1 is frozen from the first release
/// on: everything in this module then keeps its number, offset and meaning; structures only grow at their end.
pub const ABI_VERSION: u32 = 1;

/// The ioctl type byte. Numbers are `_IO(IOC_TYPE, nr)`: the size travels in the structure. Their first digit is the kind of
/// object: 0 any, 1 buffers, pools and dma-bufs, 2 channels, 3 connections, 4 grants, 5 memory and devices, 6 figures.
pub const IOC_TYPE: u32 = 0xDA;

/// Fills a [`Query`]. Errors: only those of the conventions.
pub const IOC_QUERY: u32 = IOC_TYPE << 8;
/// Destroys the object behind any handle ([`Destroy`]). Always accepted: the handle is gone at once, the memory when
/// its last mapping, registration and operation is gone. Errors: `ENOENT`.
pub const IOC_DESTROY: u32 = (IOC_TYPE << 8) | 0x01;

/// Capability: buffers of host pages with NUMA placement.
pub const CAP_HOST_BUFFERS: u64 = 1 << 0;
/// Capability: RDMA endpoints, grants and the operations on them.
pub const CAP_RDMA: u64 = 1 << 1;
/// Capability: poll(2) on the file: readable (`POLLIN`) while a channel of the file has completions waiting, `POLLERR`
/// as well while a channel's ring indices make no sense.
pub const CAP_POLL: u64 = 1 << 2;
/// Capability: channels with a polling submission thread ([`CHANNEL_SQPOLL`]).
pub const CAP_SQPOLL: u64 = 1 << 3;
/// Capability: coalesced eventfd signals ([`ChannelCreate::event_batch`]).
pub const CAP_COALESCE: u64 = 1 << 4;
/// Capability: [`PLACE_INTERLEAVE`], [`PLACE_NEAR_RDMA`], [`PLACE_NEAR_PCI`], [`BUFFER_STRICT`] and
/// [`IOC_BUFFER_FOLIOS`].
pub const CAP_PLACEMENT: u64 = 1 << 5;
/// Capability: [`BUFFER_COHERENT`].
pub const CAP_COHERENT: u64 = 1 << 6;
/// Capability: pools, [`IOC_POOL_CREATE`].
pub const CAP_POOLS: u64 = 1 << 7;
/// Capability: [`IOC_BUFFER_EXPORT`].
pub const CAP_DMABUF_EXPORT: u64 = 1 << 8;
/// Capability: [`IOC_BUFFER_IMPORT`].
pub const CAP_DMABUF_IMPORT: u64 = 1 << 9;
/// Capability: memory can be revoked ([`IOC_BUFFER_REVOKE`], [`IOC_MEMORY_QUERY`], [`OP_WATCH`] of a buffer).
pub const CAP_REVOKE: u64 = 1 << 10;
/// Capability: buffers of devices' memory ([`IOC_DEVICE_QUERY`], [`IOC_DEVICE_ALLOC`]).
pub const CAP_DEVICE_MEMORY: u64 = 1 << 11;
/// Capability: latency histograms ([`IOC_STATS_QUERY`]).
pub const CAP_STATS: u64 = 1 << 13;
/// Capability: RDMA devices are listed, with what they lack ([`IOC_RDMA_QUERY`]).
pub const CAP_RDMA_QUERY: u64 = 1 << 14;

/// Time limit that never passes.
pub const TIMEOUT_NONE: u64 = u64::MAX;

/// Argument of [`IOC_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Out: [`ABI_VERSION`] of the driver.
    pub abi_version: u32,
    /// Out: one more than the highest NUMA node id.
    pub node_ids: u32,
    /// Out: `CAP_*` bits.
    pub capabilities: u64,
    /// Out: largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Out: largest transfer of one operation in bytes.
    pub max_op_bytes: u64,
    /// Out: most entries of a submission or completion ring.
    pub max_ring_entries: u32,
    /// Out: most receives that one endpoint can hold.
    pub max_recv_depth: u32,
    /// Out: most handles of one open file.
    pub max_handles: u32,
    /// Out: bytes of a page.
    pub page_bytes: u32,
    /// Out: RDMA devices that the driver can use now.
    pub rdma_devices: u32,
    /// Out: most bytes of an `OP_SEND`.
    pub max_send_bytes: u32,
    /// Out: quota of buffers' bytes in one open file, as the administrator set it.
    pub max_context_bytes: u64,
    /// Out: quota of endpoints in one open file.
    pub max_endpoints: u32,
    /// Out: quota of channels in one open file.
    pub max_channels: u32,
}

/// Argument of [`IOC_DESTROY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroy {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of any kind.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<Query>() == 80);
    assert!(size_of::<Destroy>() == 16);
};
