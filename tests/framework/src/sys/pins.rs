// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ways of user space to keep pages of a mapping that it has lost.

use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::{check, own};

/// An io_uring with one fixed buffer: the kernel has its pages pinned.
#[derive(Debug)]
pub struct FixedBuffer(OwnedFd);

/// `struct io_uring_params`.
const PARAMS: usize = 120;
const REGISTER_BUFFERS: u32 = 0;
const UNREGISTER_BUFFERS: u32 = 1;

impl FixedBuffer {
    /// Registers a range of this process' memory.
    ///
    /// # Errors
    /// What io_uring_setup(2) or io_uring_register(2) says.
    pub fn register(start: *mut u8, bytes: usize) -> Result<Self, Errno> {
        let mut params = [0u64; PARAMS / 8];
        // SAFETY: The call reads and writes the parameters, which are as long as it expects.
        let made = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
        check(made)?;
        let ring = own(i32::try_from(made).map_err(|_| Errno::BADF)?);
        let range = libc::iovec {
            iov_base: start.cast(),
            iov_len: bytes,
        };
        // SAFETY: The call reads one range and pins what is there; nothing is ever read into it.
        check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                ring.as_raw_fd(),
                REGISTER_BUFFERS,
                &raw const range,
                1,
            )
        })?;
        Ok(Self(ring))
    }

    /// Lets go of the pages.
    ///
    /// # Errors
    /// What io_uring_register(2) says.
    pub fn release(self) -> Result<(), Errno> {
        // SAFETY: The call takes no memory.
        check(unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.0.as_raw_fd(),
                UNREGISTER_BUFFERS,
                std::ptr::null::<u8>(),
                0,
            )
        })
    }
}

/// Puts pages of this process into a pipe as they are, without a copy.
///
/// # Errors
/// What vmsplice(2) says.
pub fn vmsplice(pipe: BorrowedFd<'_>, start: *const u8, bytes: usize) -> Result<usize, Errno> {
    let range = libc::iovec {
        iov_base: start.cast_mut().cast(),
        iov_len: bytes,
    };
    // SAFETY: The call reads one range, and the memory behind it when somebody reads the pipe; it writes none.
    let result = unsafe { libc::vmsplice(pipe.as_raw_fd(), &raw const range, 1, 0) };
    check(result as i64)?;
    Ok(result.unsigned_abs())
}
