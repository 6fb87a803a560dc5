// SPDX-License-Identifier: MIT OR Apache-2.0

//! Mapped memory, word by word.

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::pattern;

/// A mapping, in words that the kernel and others may change at any time.
#[derive(Debug)]
pub struct Words {
    start: NonNull<c_void>,
    count: usize,
}

// SAFETY: The mapping belongs to the process, and every access is atomic.
unsafe impl Send for Words {}
// SAFETY: Every access through a shared reference is atomic, and the mapping belongs to the process.
unsafe impl Sync for Words {}

impl Words {
    /// Maps `bytes` of a descriptor, shared, readable and writable.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn map(fd: BorrowedFd<'_>, offset: u64, bytes: usize) -> Result<Self, Errno> {
        Self::map_as(MapFlags::SHARED, fd, offset, bytes)
    }

    /// The same, but what is written is this process's alone.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub fn map_private(fd: BorrowedFd<'_>, bytes: usize) -> Result<Self, Errno> {
        Self::map_as(MapFlags::PRIVATE, fd, 0, bytes)
    }

    fn map_as(
        flags: MapFlags,
        fd: BorrowedFd<'_>,
        offset: u64,
        bytes: usize,
    ) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: A new mapping at an address of the kernel's choice touches no existing memory.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, prot, flags, fd, offset) }?;
        let start = NonNull::new(start).ok_or(Errno::FAULT)?;
        let count = bytes / 4;
        Ok(Self { start, count })
    }

    /// Words of the mapping.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The word at a byte offset, taken modulo the mapping's size.
    pub fn at(&self, offset: usize) -> &AtomicU32 {
        let index = offset / 4 % self.count;
        // SAFETY: Inside the mapping, aligned because it starts on a page, and mapped as long as `self` lives.
        unsafe { AtomicU32::from_ptr(self.start.cast::<u32>().add(index).as_ptr()) }
    }
}

impl pattern::Memory for Words {
    fn put(&self, offset: u64, data: &[u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, word) in data.chunks_exact(4).enumerate() {
            let word = word.try_into().map_or(0, u32::from_ne_bytes);
            self.at(at + 4 * index).store(word, Ordering::Relaxed);
        }
    }

    fn get(&self, offset: u64, to: &mut [u8]) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, word) in to.chunks_exact_mut(4).enumerate() {
            let seen = self.at(at + 4 * index).load(Ordering::Relaxed);
            word.copy_from_slice(&seen.to_ne_bytes());
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: `self` owns the mapping, and borrows of it have ended. The kernel unmaps whole pages.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.count * 4) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}
