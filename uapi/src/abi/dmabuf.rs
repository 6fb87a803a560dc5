// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Buffers to and from other drivers, as dma-bufs.

use super::*;

/// Makes a dma-buf of a buffer's range ([`BufferExport`]). Errors: `EINVAL` (unknown flags, a range that is empty or not
/// whole pages), `ERANGE` (range beyond the buffer), `ESTALE` (the memory was revoked, or is being revoked),
/// `EOPNOTSUPP` (part of an imported buffer, or one for reading only), `ENOMEM`, `EMFILE` (too many file descriptors),
/// `EDQUOT` (4096 exports of this buffer, of a device's memory 4095, are not released yet).
pub const IOC_BUFFER_EXPORT: u32 = (IOC_TYPE << 8) | 0x18;
/// Makes a buffer of another driver's dma-buf ([`BufferImport`]). Errors: `EBADF` (no such file descriptor), `EINVAL`
/// (it is not a dma-buf, or one of less than a page), `E2BIG` (beyond [`Query::max_buffer_bytes`]), `EDQUOT`, `ENODEV`
/// (its exporter takes it back), `ETIMEDOUT` (other devices use it for more than a second), `EINTR`, `ENOMEM`,
/// `EMFILE`, and the errors of its exporter.
pub const IOC_BUFFER_IMPORT: u32 = (IOC_TYPE << 8) | 0x19;

/// Flag of [`BufferExport`]: the file descriptor is closed by execve(2).
pub const EXPORT_CLOEXEC: u32 = 1 << 0;
/// Flag of [`BufferExport`]: neither user space nor devices write through the dma-buf; it cannot be mapped into the kernel.
/// `EACCES` for whoever tries.
pub const EXPORT_READ_ONLY: u32 = 1 << 1;

/// Argument of [`IOC_BUFFER_EXPORT`].
///
/// A buffer may be exported any number of times. A dma-buf keeps the memory, and the driver, as long as somebody refers
/// to it, whatever becomes of handle, file and process. Devices of other drivers see the memory coherently between
/// `DMA_BUF_IOCTL_SYNC` calls; the driver's own operations publish no fences, because how long they take is up to a
/// peer. When the memory is revoked, importers that can let go are notified, and every later use gives `ENODEV`.
///
/// A device's memory goes with the device, whoever uses it. So its addresses are given only to importers that let go
/// when they are notified and take memory without pages, and whose device is on PCI and reaches the other one: others
/// get `EOPNOTSUPP` when they map it. No other driver can map it into the kernel. Processes map it as the buffer's tier
/// is mapped. The revocation ends when all importers have let go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferExport {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `EXPORT_*` bits.
    pub flags: u32,
    /// Handle of the buffer.
    pub buffer: u32,
    /// Out: file descriptor of the dma-buf.
    pub fd: i32,
    /// Start of the range in the buffer, a multiple of [`Query::page_bytes`].
    pub offset: u64,
    /// Bytes of the range, a multiple of [`Query::page_bytes`].
    pub length: u64,
}

/// Bit of [`BufferImport::access`]: the buffer can be mapped. Its exporter maps it; such mappings are not counted in
/// [`BufferQuery::mappings`], and become the exporter's own when the buffer is destroyed.
pub const IMPORT_MAPPABLE: u32 = 1 << 0;
/// Bit of [`BufferImport::access`]: the kernel has pages of it, so that entries and grants can name it. Otherwise they
/// give `EOPNOTSUPP`, except COPY and SEND with [`IMPORT_COPY`], and [`BufferImport::lack`] says why.
pub const IMPORT_PAGES: u32 = 1 << 1;
/// Bit of [`BufferImport::access`]: it may be written. Otherwise writing gives `EACCES`.
pub const IMPORT_WRITABLE: u32 = 1 << 2;
/// Bit of [`BufferImport::access`]: the processor reaches it, so that COPY and SEND can name it. Always set with
/// [`IMPORT_PAGES`]; without, set for a device's memory that has no pages.
pub const IMPORT_COPY: u32 = 1 << 3;
/// What an import lacks to have pages: nothing.
pub const IMPORT_LACKS_NOTHING: u32 = 0;
/// What an import lacks to have pages: its exporter gives no kernel mapping.
pub const IMPORT_LACKS_MAPPING: u32 = 1;
/// What an import lacks to have pages: it is not memory, but registers of a device.
pub const IMPORT_LACKS_MEMORY: u32 = 2;
/// What an import lacks to have pages: the kernel does not manage the memory, as with a device's.
pub const IMPORT_LACKS_PAGES: u32 = 3;

/// Argument of [`IOC_BUFFER_IMPORT`].
///
/// The buffer keeps the dma-buf. Its exporter does not move the memory meanwhile, so it is charged like any other
/// buffer. COPY and SEND wait when they are accepted, RDMA operations when they could be posted, for what other devices
/// have announced to do with the memory (fences), for at most a second (`ETIMEDOUT`; `EINTR` when the thread is being
/// killed, or from the exporter). A RECV cannot name it (`EOPNOTSUPP`). Exporting all of it for reading and writing
/// gives the original dma-buf. When its exporter takes it back, everything is as after [`IOC_BUFFER_REVOKE`], with
/// `REVOKE_EXPORTER` as the cause.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferImport {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// File descriptor of the dma-buf, which may be closed afterwards.
    pub fd: i32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Out: bytes of the buffer, whole pages.
    pub bytes: u64,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
    /// Out: `IMPORT_MAPPABLE`, `IMPORT_PAGES`, `IMPORT_WRITABLE` and `IMPORT_COPY`.
    pub access: u32,
    /// Out: one of `IMPORT_LACKS_*`.
    pub lack: u32,
}

const _: () = {
    assert!(size_of::<BufferExport>() == 32);
    assert!(size_of::<BufferImport>() == 40);
};
