// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's coverage of the calling thread. Only the driver is instrumented, so what is seen is its code.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use rustix::mm::{MapFlags, ProtFlags};

const FILE: &str = "/sys/kernel/debug/kcov";
/// Program counters that one run can leave.
const WORDS: usize = 256 << 10;
/// `_IOR('c', 1, unsigned long)`.
const INIT_TRACE: libc::c_ulong = 0x8008_6301;
/// `_IO('c', 100)`.
const ENABLE: libc::c_ulong = 0x6364;
/// `_IO('c', 101)`.
const DISABLE: libc::c_ulong = 0x6365;
/// Program counters, in order.
const TRACE_PC: libc::c_ulong = 0;

/// What the thread that made this has run in the driver, until drop.
#[derive(Debug)]
pub struct Coverage {
    file: File,
    words: NonNull<AtomicU64>,
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

impl Coverage {
    /// Begins to look.
    ///
    /// # Errors
    /// When the kernel cannot record coverage; the error names the option.
    pub fn begin() -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(FILE)
            .with_context(|| {
                format!("no {FILE}: the kernel lacks CONFIG_KCOV, which the profile debug has")
            })?;
        // SAFETY: The call takes a number.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), INIT_TRACE, WORDS) };
        ensure!(made == 0, "KCOV_INIT_TRACE: {}", io::Error::last_os_error());
        // SAFETY: A new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                WORDS * size_of::<u64>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .context("mapping the coverage")?;
        let words = NonNull::new(start.cast::<AtomicU64>()).context("no mapping")?;
        let coverage = Self {
            file,
            words,
            _thread: PhantomData,
        };
        // SAFETY: The call takes a number, and concerns this thread.
        let enabled = unsafe { libc::ioctl(coverage.file.as_raw_fd(), ENABLE, TRACE_PC) };
        ensure!(enabled == 0, "KCOV_ENABLE: {}", io::Error::last_os_error());
        Ok(coverage)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS, "a word outside of the mapping");
        // SAFETY: Inside the mapping, which is aligned and lives as long as `self`; the kernel writes words too.
        unsafe { self.words.add(index).as_ref() }
    }

    /// Forgets what was run so far.
    pub fn forget(&self) {
        self.word(0).store(0, Ordering::Relaxed);
    }

    /// Passes each program counter since then to `look`, as often as it was run.
    pub fn each(&self, mut look: impl FnMut(u64)) {
        let count = usize::try_from(self.word(0).load(Ordering::Relaxed)).unwrap_or(0);
        for index in 1..=count.min(WORDS - 1) {
            look(self.word(index).load(Ordering::Relaxed));
        }
    }
}

impl Drop for Coverage {
    fn drop(&mut self) {
        // SAFETY: The calls concern this thread and this mapping, which nobody uses any more.
        unsafe {
            libc::ioctl(self.file.as_raw_fd(), DISABLE, 0);
            let start = self.words.as_ptr().cast::<c_void>();
            let _ = rustix::mm::munmap(start, WORDS * size_of::<u64>());
        }
    }
}
