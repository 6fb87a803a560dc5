// SPDX-License-Identifier: GPL-2.0-only

//! Protection domains.
//!
//! Would become part of `kernel::rdma`.

use super::{client::Device, raw, NAME};
use core::{ptr, ptr::NonNull};
use kernel::{error::from_err_ptr, prelude::*};

/// A protection domain: queue pairs reach only regions of the same domain.
///
/// # Invariants
///
/// The domain is alive until drop, and by then whatever was made in it is gone.
pub(crate) struct Pd {
    pd: NonNull<raw::ib_pd>,
    device: Device,
}

// SAFETY: Protection domains lock themselves.
unsafe impl Send for Pd {}
// SAFETY: Protection domains lock themselves.
unsafe impl Sync for Pd {}

impl Pd {
    /// Allocates a domain on a device.
    pub(crate) fn new(device: Device) -> Result<Self> {
        // SAFETY: By its invariant the device is alive. The name is static.
        let pd =
            from_err_ptr(unsafe { raw::__ib_alloc_pd(device.as_ptr(), 0, NAME.as_char_ptr()) })?;
        Ok(Self {
            pd: NonNull::new(pd).ok_or(ENOMEM)?,
            device,
        })
    }

    /// Its device.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// The raw domain.
    pub(super) fn as_ptr(&self) -> *mut raw::ib_pd {
        self.pd.as_ptr()
    }

    /// Key for this folder's own buffers, which were mapped with `ib_dma_map_*`. Providers need not check ranges under
    /// it, so it is never used for offsets that a user or a peer chose.
    pub(super) fn local_dma_lkey(&self) -> u32 {
        // SAFETY: By the type invariant the domain is alive, and the key is constant.
        unsafe { (*self.as_ptr()).local_dma_lkey }
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is alive and empty; a kernel domain has no user data.
        unsafe { raw::ib_dealloc_pd_user(self.as_ptr(), ptr::null_mut()) };
    }
}
