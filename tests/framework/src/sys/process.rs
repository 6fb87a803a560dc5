// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a process can be like: its memory policy, its personality, signals that keep coming.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::io::Errno;

use super::check;

/// A memory policy of the calling thread, as `numactl` sets it for a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The kernel's.
    Default,
    /// These nodes only, by bits.
    Bind(u64),
    /// These nodes in turn, by bits.
    Interleave(u64),
}

/// Sets the calling thread's memory policy.
///
/// # Errors
/// What set_mempolicy(2) says.
pub fn set_policy(policy: Policy) -> Result<(), Errno> {
    let (mode, mask): (libc::c_long, u64) = match policy {
        Policy::Default => (0, 0),
        Policy::Bind(mask) => (2, mask),
        Policy::Interleave(mask) => (3, mask),
    };
    // SAFETY: The call reads one word.
    check(unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            mode,
            &raw const mask,
            libc::c_ulong::from(u64::BITS),
        )
    })
}

/// Runs `work` with a personality that has every readable mapping executable, as `setarch -X` sets it.
///
/// # Errors
/// When the kernel refuses.
pub fn with_read_implies_exec<T>(work: impl FnOnce() -> T) -> Result<T> {
    const ASK: libc::c_ulong = 0xffff_ffff;
    // SAFETY: Personalities change what later calls of this process do, and no memory.
    let before = unsafe { libc::personality(ASK) };
    ensure!(before >= 0, "personality(2) does not answer");
    let with = libc::c_ulong::from((before | libc::READ_IMPLIES_EXEC).cast_unsigned());
    // SAFETY: Personalities change what later calls of this process do, and no memory.
    let set = unsafe { libc::personality(with) };
    ensure!(set >= 0, "personality(2) refuses");
    let done = work();
    // SAFETY: Personalities change what later calls of this process do, and no memory.
    let reset = unsafe { libc::personality(libc::c_ulong::from(before.cast_unsigned())) };
    ensure!(reset >= 0, "personality(2) refuses to go back");
    Ok(done)
}

/// Signals that were handled.
static HANDLED: AtomicU64 = AtomicU64::new(0);

/// A signal for the thread that made this, again and again until drop, as a profiler's timer sends it.
#[derive(Debug)]
pub struct Profiler {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Profiler {
    /// Begins. System calls are restarted after the handler where they can be, if `restart` says so.
    ///
    /// # Errors
    /// When the handler cannot be installed.
    pub fn start(interval: Duration, restart: bool) -> Result<Self> {
        extern "C" fn handle(_: libc::c_int) {
            HANDLED.fetch_add(1, Ordering::Relaxed);
        }
        let handler: extern "C" fn(libc::c_int) = handle;
        // SAFETY: The handler only counts.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
            libc::sigaction(libc::SIGPROF, &raw const action, std::ptr::null_mut())
        };
        ensure!(result == 0, "cannot handle SIGPROF");
        HANDLED.store(0, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        // SAFETY: Both only ask for numbers.
        let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
        let stopped = Arc::clone(&stop);
        let sender = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // SAFETY: The signal has a handler. A thread that is gone is an error that nobody needs.
                unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGPROF) };
                std::thread::sleep(interval);
            }
        });
        Ok(Self {
            stop,
            sender: Some(sender),
        })
    }

    /// Signals that were handled so far.
    pub fn handled(&self) -> u64 {
        HANDLED.load(Ordering::Relaxed)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            // It does not panic.
            let _ = sender.join();
        }
    }
}
