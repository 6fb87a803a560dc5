// SPDX-License-Identifier: GPL-2.0-only

//! What is behind the driver's own dma-bufs, and how its own importer comes to that: not by a kernel mapping, which a
//! device's memory has none of, and which the framework warns of when there is no memory for it.

use super::DmaBuf;
use crate::kx::{bar::IoRange, pages::Pages};
use core::ptr::NonNull;
use kernel::{bindings, prelude::*};

/// What a dma-buf shows.
pub(crate) enum Shown<'a> {
    /// Pages of host memory.
    Host(&'a Pages),
    /// A range of a device's memory, with its struct pages where it has some.
    Device(&'a IoRange, Option<&'a Pages>),
}

impl<'a> Shown<'a> {
    /// Some of the pages of host memory. `EOPNOTSUPP` of a device's.
    pub(super) fn row(&self, first: usize, count: usize) -> Result<&'a [NonNull<bindings::page>]> {
        match self {
            Self::Host(pages) => pages.as_slice().get(first..first + count).ok_or(EINVAL),
            Self::Device(..) => Err(EOPNOTSUPP),
        }
    }
}

/// Exported memory as the driver's own importer takes it.
pub(super) struct View {
    /// The range of a device's memory.
    pub(super) io: Option<IoRange>,
    /// The struct pages: those of host memory, or of a device's where it has some.
    pub(super) row: Option<KVVec<NonNull<bindings::page>>>,
}

/// What is the same for every `E`.
pub(super) struct Head {
    /// Gives the memory that is exported; `None` of host memory that may not be written, which is for devices and processes.
    /// `ENOMEM`.
    ///
    /// # Safety
    ///
    /// The head is that of an export.
    pub(super) view: unsafe fn(NonNull<Head>) -> Result<Option<View>>,
}

/// The export's head behind a dma-buf of the driver's own; `None` of any other.
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

/// What a dma-buf of the driver's own shows, see [`Head::view`]; `None` of any other.
///
/// # Contract
///
/// It is used only until the dma-buf is invalidated.
pub(super) fn own_memory(dmabuf: &DmaBuf) -> Result<Option<View>> {
    head(dmabuf).map_or(Ok(None), |head| {
        // SAFETY: All dma-bufs of this module are made by `Export::new()`, whose exports begin with a head.
        unsafe { (head.as_ref().view)(head) }
    })
}
