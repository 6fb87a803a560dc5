// SPDX-License-Identifier: GPL-2.0-only

//! The calling thread.
//!
//! Extends `kernel::task`.

use super::raw;

/// Whether it is exiting, which closes its files without a call of its own.
pub(crate) fn is_exiting() -> bool {
    // SAFETY: Reads the calling thread's own flags.
    unsafe { raw::dmaplane_is_exiting() }
}

/// Whether it was killed, and exits as soon as it has left the kernel.
pub(crate) fn is_killed() -> bool {
    // SAFETY: Reads the calling thread's own signals.
    unsafe { raw::dmaplane_is_killed() }
}

/// Sleeps for `ms` milliseconds, or until it is killed.
pub(crate) fn sleep_killable(ms: u32) {
    // SAFETY: Process context, which may sleep.
    unsafe { raw::dmaplane_sleep_killable(ms) };
}
