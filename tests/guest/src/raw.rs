// SPDX-License-Identifier: MIT OR Apache-2.0

//! Arguments of ioctls byte by byte, for what the library rightly does not do with them.

use std::os::fd::BorrowedFd;

use dmaplane::Errno;
use dmaplane_testkit::sys;

/// What stands in members that the driver is to write.
pub const GARBAGE: u8 = 0xa5;

/// An argument: a structure's bytes, with its size in the first member.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Number of the ioctl.
    pub opcode: u32,
    /// The structure.
    pub bytes: Vec<u8>,
}

impl Argument {
    /// A structure of so many bytes, all of them zero but for its size.
    pub fn new(opcode: u32, bytes: usize) -> Self {
        let argument = Self {
            opcode,
            bytes: vec![0; bytes],
        };
        argument.put32(0, bytes as u32)
    }

    /// With a member of 32 bits.
    #[must_use]
    pub fn put32(self, at: usize, value: u32) -> Self {
        self.put(at, &value.to_ne_bytes())
    }

    /// With a member of 64 bits.
    #[must_use]
    pub fn put64(self, at: usize, value: u64) -> Self {
        self.put(at, &value.to_ne_bytes())
    }

    /// With any member.
    #[must_use]
    pub fn put(mut self, at: usize, value: &[u8]) -> Self {
        self.bytes[at..at + value.len()].copy_from_slice(value);
        self
    }

    /// A member of 32 bits.
    pub fn get32(&self, at: usize) -> u32 {
        let mut value = [0; 4];
        value.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_ne_bytes(value)
    }

    /// A member of 64 bits.
    pub fn get64(&self, at: usize) -> u64 {
        let mut value = [0; 8];
        value.copy_from_slice(&self.bytes[at..at + 8]);
        u64::from_ne_bytes(value)
    }

    /// Calls the driver, whose answer is in the bytes afterwards.
    ///
    /// # Errors
    /// The driver's errno.
    pub fn call(&mut self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        sys::ioctl(fd, self.opcode, &mut self.bytes)
    }
}
