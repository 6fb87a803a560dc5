// SPDX-License-Identifier: MIT OR Apache-2.0

//! Buffers: memory with a placement, which the driver can register and peers can be granted access to.

mod builder;
mod mapping;
mod sharing;

pub use builder::BufferBuilder;
pub use mapping::{FrozenBuffer, Mapping, Source};
pub use sharing::{ExportAccess, ImportInfo, ImportLack};

use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dmaplane_uapi as abi;

use crate::context::{Context, Handle};
use crate::device::Tier;
use crate::error::{Call, Error, Result};
use crate::placement::{Folios, Placement, Residency};
use crate::sys::{self, SharedMemory};

/// Memory of the driver, mapped into this process.
///
/// A peer that holds a grant may write the memory at any moment, so the safe methods copy
/// ([`Buffer::write_at`], [`Buffer::read_at`]): a race with the peer gives old or new bytes, nothing
/// worse. To look at received data without a copy, drop the grants and [`Buffer::freeze`] it.
///
/// Dropping it destroys the handle and removes the mapping. The memory itself lives until transfers
/// in flight are done with it.
///
/// ```no_run
/// use dmaplane::{Buffer, Context, Placement};
///
/// # fn main() -> dmaplane::Result<()> {
/// let context = Context::open()?;
/// let buffer = Buffer::create(&context, 16 << 20, Placement::Strict(0))?;
/// buffer.write_at(4096, b"hello");
/// println!("pages by node: {:?}", buffer.residency()?.pages_by_node);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Buffer {
    memory: SharedMemory,
    handle: Handle,
    mmap_offset: u64,
    bytes: u64,
    imported: Option<ImportInfo>,
    /// Shared with everything else that could write the memory: grants and further mappings.
    writers: Arc<()>,
    /// Whether others may write it through a dma-buf; nothing reports when the last reference to that is gone.
    exported: AtomicBool,
}

impl Buffer {
    /// Creates and maps a buffer of at least `bytes`, rounded up to whole pages and zeroed.
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` (no bytes, no such node), `E2BIG` (beyond the limit), `ENOMEM` (no
    /// memory where the placement allows it), `EMFILE`, `ENODEV` (no device of this name), `ENXIO` (the device's
    /// node is unknown). [`Error::Map`] when it cannot be mapped.
    pub fn create(context: &Context, bytes: u64, placement: Placement) -> Result<Self> {
        Self::builder(bytes).placement(placement).create(context)
    }

    /// Takes over a handle that the driver gave, and maps its memory.
    pub(crate) fn adopt(context: &Context, raw: u32, mmap_offset: u64, bytes: u64) -> Result<Self> {
        let handle = context.adopt(raw);
        let memory = map(context, mmap_offset, bytes)?;
        Ok(Self {
            memory,
            handle,
            mmap_offset,
            bytes,
            imported: None,
            writers: Arc::new(()),
            exported: AtomicBool::new(false),
        })
    }

    /// A builder of a buffer of at least `bytes`, with more options than [`Buffer::create`].
    pub fn builder(bytes: u64) -> BufferBuilder {
        BufferBuilder {
            bytes,
            placement: Placement::Any,
            flags: 0,
        }
    }

    /// Makes and maps a buffer of a device's memory, zeroed. `at` chooses where in the tier's zone it begins. When the
    /// device goes, the memory is revoked, and touching the mapping gives SIGBUS.
    ///
    /// # Errors
    /// [`Error::Call`]: `ENODEV`, `EOPNOTSUPP` (no such tier), `ENOMEM` (no room), `ERANGE` and `EBUSY` (of a chosen
    /// range). [`Error::Map`] when it cannot be mapped.
    pub fn on_device(
        context: &Context,
        device: u64,
        tier: Tier,
        bytes: u64,
        at: Option<u64>,
    ) -> Result<Self> {
        let mut alloc = abi::DeviceAlloc {
            flags: at.map_or(0, |_| abi::DEVICE_ALLOC_AT),
            device,
            bytes,
            offset: at.unwrap_or(0),
            tier: tier.to_raw(),
            ..Default::default()
        };
        context.call(&mut alloc).map_err(|errno| {
            let subject = format!(", {bytes} bytes {tier} of device {device}");
            Error::call(Call::DeviceAlloc, errno, subject)
        })?;
        let handle = context.adopt(alloc.handle);
        let memory = map(context, alloc.mmap_offset, alloc.bytes)?;
        Ok(Self {
            memory,
            handle,
            mmap_offset: alloc.mmap_offset,
            bytes: alloc.bytes,
            imported: None,
            writers: Arc::new(()),
            exported: AtomicBool::new(false),
        })
    }

    /// Makes a buffer of another driver's dma-buf and maps it. The descriptor may be closed afterwards.
    ///
    /// The memory can be taken back by its exporter at any time: then operations end in
    /// [`State::Revoked`](crate::State::Revoked), and whether a touch of the mapping gives SIGBUS is up to the exporter. Others
    /// may write it, so that it cannot be frozen.
    ///
    /// # Errors
    /// As [`Buffer::import_unmapped`], and [`Error::Map`] when it cannot be mapped for reading and writing.
    pub fn import(context: &Context, dmabuf: BorrowedFd<'_>) -> Result<Self> {
        let mut buffer = Self::import_unmapped(context, dmabuf)?;
        buffer.memory = map(context, buffer.mmap_offset, buffer.bytes)?;
        Ok(buffer)
    }

    /// As [`Buffer::import`], without a mapping: methods that read or write the buffer through this process panic.
    ///
    /// # Errors
    /// [`Error::Call`]: `EBADF`, `EINVAL` (not a dma-buf), `E2BIG`, `EDQUOT`, `ENODEV` (its exporter takes it back),
    /// `ETIMEDOUT` (other devices are using it), and the errors of its exporter.
    pub fn import_unmapped(context: &Context, dmabuf: BorrowedFd<'_>) -> Result<Self> {
        let mut import = abi::BufferImport {
            fd: dmabuf.as_raw_fd(),
            ..Default::default()
        };
        let made = context.call(&mut import);
        made.map_err(|errno| Error::call(Call::BufferImport, errno, ""))?;
        let lack = match import.lack {
            abi::IMPORT_LACKS_NOTHING => None,
            abi::IMPORT_LACKS_MAPPING => Some(ImportLack::Mapping),
            abi::IMPORT_LACKS_MEMORY => Some(ImportLack::Memory),
            abi::IMPORT_LACKS_PAGES => Some(ImportLack::Pages),
            other => Some(ImportLack::Other(other)),
        };
        Ok(Self {
            memory: SharedMemory::empty(),
            handle: context.adopt(import.handle),
            mmap_offset: import.mmap_offset,
            bytes: import.bytes,
            imported: Some(ImportInfo {
                mappable: import.access & abi::IMPORT_MAPPABLE != 0,
                writable: import.access & abi::IMPORT_WRITABLE != 0,
                copied: import.access & abi::IMPORT_COPY != 0,
                lack,
            }),
            writers: Arc::new(()),
            exported: AtomicBool::new(true),
        })
    }

    /// What can be done with it, if it was imported.
    pub fn imported(&self) -> Option<&ImportInfo> {
        self.imported.as_ref()
    }

    /// Bytes of the buffer, whole pages.
    #[expect(clippy::len_without_is_empty, reason = "a buffer is never empty")]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// The driver's name of the buffer, for [`Entry::from_raw`](crate::Entry::from_raw).
    pub fn raw_handle(&self) -> u32 {
        self.handle.raw()
    }

    /// The context it belongs to.
    pub fn context(&self) -> &Context {
        self.handle.context()
    }

    /// Where the pages are.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn residency(&self) -> Result<Residency> {
        let context = self.handle.context();
        let mut pages_by_node = vec![0; context.limits().node_ids as usize];
        let query = sys::buffer_query(sys::fd(context), self.handle.raw(), &mut pages_by_node)
            .map_err(|errno| Error::call(Call::BufferQuery, errno, ""))?;
        Ok(Residency {
            bytes: query.bytes,
            node: u32::try_from(query.node).ok(),
            pages_by_node,
            misplaced_pages: query.misplaced_pages,
            mappings: query.mappings,
            regions: query.regions,
        })
    }

    /// How the pages on one node were allocated.
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` for a node that cannot exist.
    pub fn folios(&self, node: u32) -> Result<Folios> {
        let mut query = abi::BufferFolios {
            handle: self.handle.raw(),
            node: i32::try_from(node).unwrap_or(i32::MAX),
            ..Default::default()
        };
        let context = self.handle.context();
        let asked = context.call(&mut query);
        asked
            .map_err(|errno| Error::call(Call::BufferFolios, errno, format!(" on node {node}")))?;
        Ok(query.into())
    }

    /// Copies `data` into the buffer.
    ///
    /// # Panics
    /// When the range is not inside the buffer.
    pub fn write_at(&self, offset: u64, data: &[u8]) {
        self.memory.copy_in(index(offset), data);
    }

    /// Copies from the buffer. What a peer writes at the same time comes partly or not at all.
    ///
    /// # Panics
    /// When the range is not inside the buffer.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) {
        self.memory.copy_out(index(offset), to);
    }

    /// A copy of a range.
    ///
    /// # Panics
    /// When the range is not inside the buffer.
    pub fn to_vec(&self, range: Range<u64>) -> Vec<u8> {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "{range:?} is not inside"
        );
        let mut data = vec![0; index(range.end - range.start)];
        self.read_at(range.start, &mut data);
        data
    }

    /// The memory without a copy.
    ///
    /// # Safety
    /// As long as the slice lives, nobody writes the buffer: no peer holds a grant over it, and no
    /// thread or other mapping writes it. [`Buffer::freeze`] is the safe way.
    pub unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: The caller promises the same.
        unsafe { self.memory.as_slice() }
    }

    /// The memory without a copy, to be filled.
    ///
    /// # Safety
    /// As long as the slice lives, nobody else reads or writes the buffer through this process, and
    /// no peer holds a grant over it. Transfers in flight out of the range send a mix of old and new
    /// bytes.
    pub unsafe fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: The caller promises the same.
        unsafe { self.memory.as_mut_slice() }
    }

    /// The first byte, for calls such as get_mempolicy(2). Valid as long as the buffer.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    /// Maps a range a second time. The mapping outlives the buffer's handle.
    ///
    /// # Errors
    /// [`Error::Map`]: `EINVAL` when the range is not whole pages inside the buffer.
    pub fn map(&self, range: Range<u64>) -> Result<Mapping> {
        let bytes = range.end.saturating_sub(range.start);
        let memory = map(
            self.handle.context(),
            self.mmap_offset.saturating_add(range.start),
            bytes,
        )?;
        Ok(Mapping {
            memory,
            _writer: self.writers.clone(),
        })
    }

    /// Offset to give to mmap(2) on the context's descriptor.
    pub fn mmap_offset(&self) -> u64 {
        self.mmap_offset
    }

    /// Makes a dma-buf of all of the buffer, for other drivers and other processes.
    ///
    /// # Errors
    /// As [`Buffer::export_range`].
    pub fn export(&self) -> Result<OwnedFd> {
        self.export_range(0..self.len(), ExportAccess::ReadWrite)
    }

    /// Makes a dma-buf of a range of whole pages. The descriptor is closed on exec; it keeps the memory, whatever becomes
    /// of the buffer, the context and this process.
    ///
    /// Others may write through it as long as anybody has it, so that the buffer cannot be frozen any more. A device's memory
    /// is given to devices of other drivers only when they can be made to release it.
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` (not whole pages), `ERANGE` (beyond the buffer), `ESTALE` (the memory was revoked),
    /// `EMFILE`, `EDQUOT` (too many dma-bufs of this buffer are not released yet).
    pub fn export_range(&self, range: Range<u64>, access: ExportAccess) -> Result<OwnedFd> {
        let read_only = match access {
            ExportAccess::ReadWrite => 0,
            ExportAccess::ReadOnly => abi::EXPORT_READ_ONLY,
        };
        let mut export = abi::BufferExport {
            flags: abi::EXPORT_CLOEXEC | read_only,
            buffer: self.handle.raw(),
            offset: range.start,
            length: range.end.saturating_sub(range.start),
            ..Default::default()
        };
        let made = sys::buffer_export(sys::fd(self.handle.context()), &mut export);
        let fd = made.map_err(|errno| {
            let subject = format!("'s bytes {} to {}", range.start, range.end);
            Error::call(Call::BufferExport, errno, subject)
        })?;
        if access == ExportAccess::ReadWrite {
            self.exported.store(true, Ordering::Relaxed);
        }
        Ok(fd)
    }

    /// Destroys the handle and keeps the mapping, and with it the memory.
    pub fn into_mapping(self) -> Mapping {
        Mapping {
            memory: self.memory,
            _writer: self.writers,
        }
    }

    /// Turns the buffer into memory that nobody writes any more, readable without a copy.
    ///
    /// The handle stays and can be the source of transfers. Processes forked after the buffer was
    /// created share the mapping; they must not write it.
    ///
    /// # Errors
    /// Returns the buffer while a [`LocalGrant`](crate::LocalGrant) over it or a further
    /// [`Mapping`] of it lives, or when it was exported for writing or imported.
    pub fn freeze(mut self) -> Result<FrozenBuffer, Self> {
        // Exclusive access to the token proves that no clone is left in a grant or a mapping, and
        // that its owner's last writes happened before.
        if *self.exported.get_mut() || Arc::get_mut(&mut self.writers).is_none() {
            return Err(self);
        }
        Ok(FrozenBuffer {
            memory: self.memory.exclusive(),
            handle: self.handle,
        })
    }

    /// A range as the source of a transfer; the driver checks its bounds.
    pub fn range(&self, offset: u64, length: u32) -> Source<'_> {
        Source {
            handle: &self.handle,
            offset,
            length,
        }
    }

    pub(crate) fn writer(&self) -> Arc<()> {
        self.writers.clone()
    }
}

fn map(context: &Context, offset: u64, bytes: u64) -> Result<SharedMemory> {
    let bytes = index(bytes);
    SharedMemory::map(sys::fd(context), offset, bytes).map_err(|source| Error::Map {
        what: "a buffer",
        bytes,
        source,
    })
}

/// Saturates where `usize` is the smaller one; the checks that follow refuse the result.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
