// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! What a buffer's memory is, and its revocation.

use super::*;

/// Revokes the memory of a buffer from everybody ([`BufferRevoke`]), as the owner of a device's memory does before it
/// reuses the range. When the call returns: operations on it have ended, in `STATE_REVOKED` unless they were faster;
/// grants over it have ended with [`GRANT_END_MEMORY`]; no device reaches it; a touch of a mapping gives SIGBUS, except
/// for mappings of an import, which are its exporter's and end with the exporter's own revocation; watches of the
/// buffer have completed. Connections live on, except those whose provider keeps an operation on it longer than a
/// second. The handle stays, and every use of it gives `ESTALE` or `STATE_REVOKED`. Revoking it again does nothing.
/// Bounded by a few seconds, whatever peers do; for a device's memory, by its importers, which are drivers that let go
/// when they are notified. Errors: `ENOENT`; `EBUSY` (all of this is done, but somebody still reaches
/// the memory who cannot be made to let go, see [`MemoryQuery::held`]; its pages stay as long, and revoking it again
/// checks again).
///
/// The driver does not know who reaches a device's memory through a mapping of its frames that another driver made:
/// VFIO (type 1) maps such user mappings for its devices and keeps them after the revocation, and whoever may write
/// `resourceN` of the device in sysfs has a mapping of his own. Both need privileges that reach all memory.
pub const IOC_BUFFER_REVOKE: u32 = (IOC_TYPE << 8) | 0x50;
/// Reports what a buffer's memory is and whether it was revoked ([`MemoryQuery`]). Errors: `ENOENT`.
pub const IOC_MEMORY_QUERY: u32 = (IOC_TYPE << 8) | 0x51;

/// Kind of memory: pages of the host.
pub const MEMORY_KIND_HOST: u32 = 0;
/// Kind of memory: a range of a device's.
pub const MEMORY_KIND_DEVICE: u32 = 1;
/// Kind of memory: another driver's, by [`IOC_BUFFER_IMPORT`].
pub const MEMORY_KIND_IMPORT: u32 = 3;

/// How RDMA reaches memory: as it is.
pub const RDMA_DIRECT: u32 = 0;
/// How RDMA reaches memory: not at all (`EOPNOTSUPP`); its user copies it to and from host memory by [`OP_COPY`].
pub const RDMA_STAGED: u32 = 1;
/// Why RDMA does not reach memory: it does.
pub const RDMA_REASON_NONE: u32 = 0;
/// Why RDMA does not reach memory: its tier has no struct pages, because a range has one mapping type at a time and
/// theirs is uncached.
pub const RDMA_REASON_TIER: u32 = 1;
/// Why RDMA does not reach memory: the machine could not make struct pages for the device's memory.
pub const RDMA_REASON_NO_PAGES: u32 = 2;

/// State of memory: in use.
pub const MEMORY_LIVE: u32 = 0;
/// State of memory: it is being revoked.
pub const MEMORY_REVOKING: u32 = 1;
/// State of memory: it was revoked.
pub const MEMORY_REVOKED: u32 = 2;

/// Why memory was revoked: by [`IOC_BUFFER_REVOKE`].
pub const REVOKE_OWNER: u32 = 1;
/// Why memory was revoked: the device that it belongs to went away.
pub const REVOKE_DEVICE: u32 = 2;
/// Why memory was revoked: the exporter that it was imported from invalidated it.
pub const REVOKE_EXPORTER: u32 = 3;

/// Bit of [`MemoryQuery::held`]: an importer of a dma-buf of the memory has it mapped for its device or into the kernel.
pub const HELD_DMABUF: u32 = 1 << 0;
/// Bit of [`MemoryQuery::held`]: somebody refers to its pages. They were pinned through a user mapping while it was
/// there, as by a fixed buffer of io_uring, a direct write to a file, a memory region of user space or vmsplice(2), or
/// the network still sends from them. Never set for memory that is carved from a pool or for a device's memory, which
/// nobody can pin.
pub const HELD_PAGES: u32 = 1 << 1;

/// Argument of [`IOC_BUFFER_REVOKE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferRevoke {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Argument of [`IOC_MEMORY_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// Out: one of `MEMORY_KIND_*`.
    pub kind: u32,
    /// Out: `MEMORY_LIVE`, `MEMORY_REVOKING` or `MEMORY_REVOKED`.
    pub state: u32,
    /// Out: one of `REVOKE_*`, 0 while it is in use.
    pub cause: u32,
    /// Out: mapping tier of a device's memory; 0 for host memory.
    pub tier: u32,
    /// Out: how RDMA reaches it: [`RDMA_DIRECT`] or [`RDMA_STAGED`].
    pub rdma: u32,
    /// Out: one of `RDMA_REASON_*`.
    pub reason: u32,
    /// Out: node of the device, or the one that the buffer was created with.
    pub node: i32,
    /// Out: number of the device; 0 for host memory.
    pub device: u64,
    /// Out: start in the tier's zone of the device in bytes; 0 for host memory.
    pub offset: u64,
    /// Out: `HELD_*` bits, once it was revoked: who still reaches it.
    pub held: u32,
    /// Out: 0.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<BufferRevoke>() == 16);
    assert!(size_of::<MemoryQuery>() == 64);
};
