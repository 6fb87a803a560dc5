// SPDX-License-Identifier: GPL-2.0-only

//! Access of the driver's own importer to the memory behind the driver's own dma-bufs. It uses no kernel mapping: a
//! device's memory has none, and the framework warns when there is no memory for one.
//!
//! Would become part of `kernel::dma_buf`.

use super::DmaBuf;
use crate::kx::{bar::IoRange, pages::Pages};
use core::ptr::NonNull;
use kernel::{bindings, prelude::*};

/// The memory that a dma-buf exports.
pub(crate) enum Shown<'a> {
    /// Pages of host memory.
    Host(&'a Pages),
    /// A range of a device's memory, with its struct pages where it has some.
    Device(&'a IoRange, Option<&'a Pages>),
}

impl<'a> Shown<'a> {
    /// Some of the pages of host memory. `EOPNOTSUPP` for a device's memory.
    pub(super) fn row(&self, first: usize, count: usize) -> Result<&'a [NonNull<bindings::page>]> {
        match self {
            Self::Host(pages) => pages.as_slice().get(first..first + count).ok_or(EINVAL),
            Self::Device(..) => Err(EOPNOTSUPP),
        }
    }
}

/// Exported memory, as the driver's own importer gets it.
pub(super) struct View {
    /// The range of a device's memory.
    pub(super) io: Option<IoRange>,
    /// The struct pages: those of host memory, or of a device's where it has some.
    pub(super) row: Option<KVVec<NonNull<bindings::page>>>,
}

/// The part of an export that is the same for every `E`.
pub(super) struct Head {
    /// Returns the exported memory; `None` for host memory that must not be written, which is for devices and processes
    /// only. `ENOMEM`.
    ///
    /// # Safety
    ///
    /// The head is that of an export.
    pub(super) view: unsafe fn(NonNull<Head>) -> Result<Option<View>>,
}

/// The export's head behind a dma-buf of the driver's own; `None` for any other.
fn head(dmabuf: &DmaBuf) -> Option<NonNull<Head>> {
    let own = kernel::module::this_module::<crate::LocalModule>().as_ptr();
    // SAFETY: The dma-buf is alive, and its owner and its private data do not change.
    let (owner, private) = unsafe {
        let raw_dmabuf = dmabuf.0.as_ptr();
        ((*raw_dmabuf).owner, (*raw_dmabuf).priv_)
    };
    NonNull::new(private.cast::<Head>()).filter(|_| owner == own)
}

/// Whether it is one of the driver's own.
pub(super) fn is_own(dmabuf: &DmaBuf) -> bool {
    head(dmabuf).is_some()
}

/// The memory behind a dma-buf of the driver's own, see [`Head::view`]; `None` for any other.
///
/// # Contract
///
/// The caller uses it only until the dma-buf is invalidated.
pub(super) fn own_memory(dmabuf: &DmaBuf) -> Result<Option<View>> {
    head(dmabuf).map_or(Ok(None), |head| {
        // SAFETY: All dma-bufs of this module are made by `Export::new()`, whose exports begin with a head.
        unsafe { (head.as_ref().view)(head) }
    })
}
