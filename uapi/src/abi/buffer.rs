// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Buffers: memory with a NUMA placement.

use super::*;

/// Creates a buffer ([`BufferCreate`]). Its memory is only on nodes of the caller's cpuset, whatever the policy. A node
/// has memory for it when the kernel may use some for itself (not where all of it is movable) and the cpuset allows it.
/// Errors: `EINVAL` (size 0, unknown policy, a node that does not exist or has no memory, a device where the policy has
/// none), `E2BIG` (beyond [`Query::max_buffer_bytes`], or beyond 2 MiB with [`BUFFER_COHERENT`]), `ENOMEM` (no memory
/// where the policy allows it, or the memory cgroup's limit), `EDQUOT` (beyond [`Query::max_context_bytes`]), `EMFILE`
/// (too many handles), `ENODEV` (no device of the given name), `ENXIO` (the node of that device is unknown, and there
/// are several).
pub const IOC_BUFFER_CREATE: u32 = (IOC_TYPE << 8) | 0x10;
/// Reports where a buffer's pages are ([`BufferQuery`]). Errors: `ENOENT`, `EFAULT`.
pub const IOC_BUFFER_QUERY: u32 = (IOC_TYPE << 8) | 0x11;
/// Reports how the pages of a buffer on one node were allocated ([`BufferFolios`]). Errors: `ENOENT`, `EINVAL` (a node
/// beyond [`Query::node_ids`]). Since [`CAP_PLACEMENT`].
pub const IOC_BUFFER_FOLIOS: u32 = (IOC_TYPE << 8) | 0x12;

/// Placement: where the calling thread's memory policy says (`numactl`, set_mempolicy(2)), without one near its processor.
pub const PLACE_ANY: u32 = 0;
/// Placement: on the given node first, elsewhere when it is full (visible in [`BufferQuery`]).
pub const PLACE_PREFERRED: u32 = 1;
/// Placement: on the given node only; `ENOMEM` when it is full.
pub const PLACE_STRICT: u32 = 2;
/// Placement: nodes with memory take turns, by units of a power of two of pages: the largest, 2 MiB at most, that
/// gives each node one. Elsewhere when a node is full. Since [`CAP_PLACEMENT`].
pub const PLACE_INTERLEAVE: u32 = 3;
/// Placement: on the node of the RDMA device that [`BufferCreate::near`] names (`rxe0`) first, elsewhere when it is
/// full. The node is the adapter's, else that of the device which carries its first port. Only devices that the calling
/// process' network namespace may use are found. A node without memory is replaced by the nearest that has some, the
/// lowest of equals; [`BufferQuery::node`] shows which. Since [`CAP_PLACEMENT`].
pub const PLACE_NEAR_RDMA: u32 = 4;
/// Placement: as `PLACE_NEAR_RDMA`, for a PCI device, by the address that sysfs has for it (`0000:41:00.0`).
pub const PLACE_NEAR_PCI: u32 = 5;

/// Flag of a buffer: for small structures that processors and devices write at the same time. It is one run of memory
/// that needs no synchronisation for any device: a registration on a device that would need it fails. The size is
/// rounded up to a power of two of pages, 2 MiB at most. Not for `PLACE_INTERLEAVE`. Since [`CAP_COHERENT`].
pub const BUFFER_COHERENT: u32 = 1 << 0;
/// Flag of a buffer: fails with `ENOMEM` where the policy would go to another node. Not for `PLACE_ANY`. Since
/// [`CAP_PLACEMENT`].
pub const BUFFER_STRICT: u32 = 1 << 1;

/// Argument of [`IOC_BUFFER_CREATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferCreate {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `BUFFER_*` bits.
    pub flags: u32,
    /// Wanted bytes; on return the bytes allocated, rounded up to whole pages.
    pub bytes: u64,
    /// One of `PLACE_*`.
    pub placement: u32,
    /// Node for `PLACE_PREFERRED` and `PLACE_STRICT`; -1 for the others.
    pub node: i32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
    /// Name of a device for `PLACE_NEAR_*`, zeroes behind it; all zeroes for the others. Since [`CAP_PLACEMENT`].
    pub near: [u8; 64],
}

impl Default for BufferCreate {
    fn default() -> Self {
        Self {
            size: 0,
            flags: 0,
            bytes: 0,
            placement: 0,
            node: 0,
            handle: 0,
            reserved: 0,
            mmap_offset: 0,
            near: [0; 64],
        }
    }
}

/// Argument of [`IOC_BUFFER_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// Length of the array at `pages_by_node`; on return [`Query::node_ids`].
    pub node_count: u32,
    /// User address of an array of `u64`, which receives the pages on each node; 0 for none.
    pub pages_by_node: u64,
    /// Out: bytes of the buffer.
    pub bytes: u64,
    /// Out: policy it was created with.
    pub placement: u32,
    /// Out: node it was created with; for `PLACE_NEAR_*` the node that was found.
    pub node: i32,
    /// Out: pages that are not on the node that the policy asked for.
    pub misplaced_pages: u64,
    /// Out: live user mappings of the memory.
    pub mappings: u32,
    /// Out: RDMA devices on which the memory is registered.
    pub regions: u32,
}

/// Argument of [`IOC_BUFFER_FOLIOS`]. What is counted is read from the pages themselves, which the kernel never moves:
/// memory of buffers is not migrated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferFolios {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// The node that is asked about.
    pub node: i32,
    /// Out: pages of the buffer on the node, by the order of the folio that they are part of: a folio of order n is
    /// 2^n pages in a row.
    pub pages_by_order: [u64; 16],
    /// Out: pages on the node that the policy wanted on another.
    pub misplaced_pages: u64,
    /// Out: pages on the node in smaller folios than the place in the buffer had room for: the machine had no larger
    /// ones.
    pub small_pages: u64,
    /// Out: how many folio orders buffers are made of, from order 0 on.
    pub orders: u32,
    /// Out: node of the device that the buffer is near to, -1 for none or unknown.
    pub device_node: i32,
}

const _: () = {
    assert!(size_of::<BufferCreate>() == 104);
    assert!(size_of::<BufferQuery>() == 56);
    assert!(size_of::<BufferFolios>() == 168);
};
