// SPDX-License-Identifier: MIT OR Apache-2.0

//! A buffer's memory without its handle, and memory that nobody writes any more.

use std::ops::Deref;
use std::sync::Arc;

use super::index;
use crate::context::Handle;
use crate::sys::{self, SharedMemory};

/// A range of a buffer as the source of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub(crate) handle: &'a Handle,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A mapping of a buffer's range that keeps the memory alive without the buffer's handle.
#[derive(Debug)]
pub struct Mapping {
    pub(super) memory: SharedMemory,
    pub(super) _writer: Arc<()>,
}

impl Mapping {
    /// Bytes of the mapping.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Copies `data` into the memory.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn write_at(&self, offset: u64, data: &[u8]) {
        self.memory.copy_in(index(offset), data);
    }

    /// Copies from the memory.
    ///
    /// # Panics
    /// When the range is not inside the mapping.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) {
        self.memory.copy_out(index(offset), to);
    }

    /// The first byte. Valid as long as the mapping.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }
}

/// A buffer that nobody writes any more: a slice of bytes, and still a source of transfers.
///
/// ```no_run
/// use dmaplane::{Buffer, Context, Placement};
///
/// # fn main() -> dmaplane::Result<()> {
/// let context = Context::open()?;
/// let buffer = Buffer::create(&context, 4096, Placement::Any)?;
/// buffer.write_at(0, b"abc");
/// let frozen = buffer.freeze().expect("no grant was given");
/// assert_eq!(&frozen[..3], b"abc");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FrozenBuffer {
    pub(super) memory: sys::Frozen,
    pub(super) handle: Handle,
}

impl FrozenBuffer {
    /// A range as the source of a transfer; the driver checks its bounds.
    pub fn range(&self, offset: u64, length: u32) -> Source<'_> {
        Source {
            handle: &self.handle,
            offset,
            length,
        }
    }
}

impl FrozenBuffer {
    /// The memory as a mutable slice, for this thread alone. Transfers that were submitted earlier and still read it
    /// send a mix of old and new bytes.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.memory.as_mut_slice()
    }
}

impl Deref for FrozenBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.as_slice()
    }
}
