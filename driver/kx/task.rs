// SPDX-License-Identifier: GPL-2.0-only

//! The calling thread.

use super::raw;

/// Whether it is leaving, or was killed and will as soon as it has left the kernel.
pub(crate) fn is_dying() -> bool {
    // SAFETY: Reads the calling thread's own flags.
    unsafe { raw::dmaplane_is_dying() }
}
