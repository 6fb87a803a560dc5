// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Pools: memory that is registered once and carved into buffers.

use super::*;

/// Creates a pool ([`PoolCreate`]): memory that is registered once, on first use, and carved into buffers in constant
/// time. Errors: as [`IOC_BUFFER_CREATE`]. Since [`CAP_POOLS`].
pub const IOC_POOL_CREATE: u32 = (IOC_TYPE << 8) | 0x13;
/// Carves a buffer out of a pool ([`PoolCarve`]). It is a buffer like any other, except for three things: nothing is
/// charged for it; operations that send from it or read into it use the pool's registration; and nobody else can pin
/// pages of its mappings (`EFAULT` of direct I/O, futexes and get_mempolicy(2)), because they will be another buffer's
/// later. Its part of the pool is free again when its last handle, mapping, dma-buf, grant and operation is gone;
/// revoking it with [`IOC_BUFFER_REVOKE`] affects no other part. Errors: `EINVAL` (0 bytes), `ENOENT`, `E2BIG` (more
/// than the pool has in a row when all is free), `ENOSPC` (more than it has in a row now), `EMFILE`, `ENOMEM`. Since
/// [`CAP_POOLS`].
pub const IOC_POOL_CARVE: u32 = (IOC_TYPE << 8) | 0x14;
/// Reports what a pool has ([`PoolQuery`]). Errors: `ENOENT`. Since [`CAP_POOLS`].
pub const IOC_POOL_QUERY: u32 = (IOC_TYPE << 8) | 0x15;

/// Flag of a pool: what is carved is zeroed first, which takes time in proportion to its size. Without it, a buffer
/// shows what the previous one left in the same part; a pool belongs to one file, so this is never another user's data.
pub const POOL_ZERO: u32 = 1 << 0;
/// Flag of a pool: as [`BUFFER_STRICT`].
pub const POOL_STRICT: u32 = 1 << 1;

/// Argument of [`IOC_POOL_CREATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolCreate {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `POOL_*` bits.
    pub flags: u32,
    /// Wanted bytes; on return the bytes allocated, rounded up to whole pages.
    pub bytes: u64,
    /// As in [`BufferCreate`].
    pub placement: u32,
    /// As in [`BufferCreate`].
    pub node: i32,
    /// Out: handle of the pool.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
    /// As in [`BufferCreate`].
    pub near: [u8; 64],
}

impl Default for PoolCreate {
    fn default() -> Self {
        Self {
            size: 0,
            flags: 0,
            bytes: 0,
            placement: 0,
            node: 0,
            handle: 0,
            reserved: 0,
            near: [0; 64],
        }
    }
}

/// Argument of [`IOC_POOL_CARVE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCarve {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the pool.
    pub pool: u32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Wanted bytes; on return the bytes of the buffer, rounded up to whole pages. The pool gives up a power of two of
    /// pages for it.
    pub bytes: u64,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
    /// Out: start in the pool, bytes.
    pub offset: u64,
}

/// Argument of [`IOC_POOL_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the pool.
    pub pool: u32,
    /// Out: parts that are taken, by buffers or by what still keeps their memory.
    pub carved: u32,
    /// Out: bytes of the pool.
    pub bytes: u64,
    /// Out: bytes that are free.
    pub free_bytes: u64,
    /// Out: bytes of the longest part that can be carved now.
    pub longest_bytes: u64,
    /// Out: buffers that were carved so far.
    pub carves: u64,
    /// Out: times that no part was long enough.
    pub refusals: u64,
    /// Out: RDMA devices on which the pool is registered.
    pub regions: u32,
    /// Out: policy it was created with.
    pub placement: u32,
    /// Out: node it was created with; for `PLACE_NEAR_*` the node that was found.
    pub node: i32,
    /// 0.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<PoolCreate>() == 96);
    assert!(size_of::<PoolCarve>() == 40);
    assert!(size_of::<PoolQuery>() == 72);
};
