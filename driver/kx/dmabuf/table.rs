// SPDX-License-Identifier: GPL-2.0-only

//! Pages mapped for another driver's device.
//!
//! Extends `kernel::scatterlist`.

use super::raw;
use crate::kx::charged::GFP_CHARGED;
use crate::kx::pages::PAGE_BYTES;
use core::ptr::NonNull;
use kernel::{
    bindings::{self, dma_data_direction as Direction},
    error::to_result,
    prelude::*,
};

/// A scatter list.
///
/// # Invariants
///
/// The table is allocated.
struct List(bindings::sg_table);

impl List {
    /// Describes pages, in pieces of at most `piece` bytes.
    fn new(pages: &[NonNull<bindings::page>], piece: u32) -> Result<Self> {
        let count = u32::try_from(pages.len()).map_err(|_| E2BIG)?;
        let mut table = bindings::sg_table::default();
        // SAFETY: The table is ours and empty. The callee only reads the array (its parameter lacks the `const`) and
        // stores the pointers.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                &mut table,
                pages.as_ptr().cast_mut().cast(),
                count,
                0,
                pages.len() * PAGE_BYTES,
                piece,
                raw::DMAPLANE_GFP_CHARGED,
            )
        })?;
        // INVARIANT: Filled above. The list does not refer to the table, which may move.
        Ok(Self(table))
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is allocated, and it is freed once.
        unsafe { bindings::sg_free_table(&mut self.0) };
    }
}

/// Pages mapped for a device. Dropping it first unmaps them, and then frees the list.
///
/// # Invariants
///
/// The list is mapped on `device` for `direction`, and the device stays until drop.
pub(super) struct Table {
    list: List,
    device: NonNull<bindings::device>,
    direction: Direction,
}

// SAFETY: Lists are not tied to a thread.
unsafe impl Send for Table {}
// SAFETY: A shared reference does not change the list.
unsafe impl Sync for Table {}

impl Table {
    /// Maps pages. `EIO`, `EREMOTEIO` or `EOPNOTSUPP` when the device does not reach them coherently.
    ///
    /// # Safety
    ///
    /// The device can do DMA. It, and the pages, stay until the table is dropped.
    pub(super) unsafe fn new(
        pages: &[NonNull<bindings::page>],
        device: NonNull<bindings::device>,
        direction: Direction,
    ) -> Result<KBox<Self>> {
        // SAFETY: The caller keeps the device.
        let piece = unsafe { raw::dmaplane_dma_segment(device.as_ptr()) };
        if (piece as usize) < PAGE_BYTES {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The caller keeps the device and the pages.
        let reaches = |page: &NonNull<bindings::page>| unsafe {
            raw::dmaplane_dma_reaches(device.as_ptr(), page.as_ptr())
        };
        if !pages.iter().all(reaches) {
            return Err(EIO);
        }
        let mut list = List::new(pages, piece)?;
        // SAFETY: The list is filled and not mapped, its pages and the device are alive.
        to_result(unsafe { raw::dmaplane_dma_map(device.as_ptr(), &mut list.0, direction) })?;
        // INVARIANT: Mapped above. If there is no memory for the box, dropping the value unmaps it.
        let table = Self {
            list,
            device,
            direction,
        };
        table.sync_for_device();
        Ok(KBox::new(table, GFP_CHARGED)?)
    }

    /// The table, for its importer.
    pub(super) fn as_ptr(&self) -> *mut bindings::sg_table {
        core::ptr::from_ref(&self.list.0).cast_mut()
    }

    /// Makes the device's writes visible to the CPU. The direction is that of the mapping, whatever the CPU is going to
    /// do: the DMA API rejects another one.
    pub(super) fn sync_for_cpu(&self) {
        let (device, direction) = (self.device.as_ptr(), self.direction);
        // SAFETY: By the type invariant the list is mapped.
        unsafe { raw::dmaplane_dma_sync_for_cpu(device, self.as_ptr(), direction) };
    }

    /// Makes the CPU's writes visible to the device, in the direction of the mapping.
    pub(super) fn sync_for_device(&self) {
        let (device, direction) = (self.device.as_ptr(), self.direction);
        // SAFETY: By the type invariant the list is mapped.
        unsafe { raw::dmaplane_dma_sync_for_device(device, self.as_ptr(), direction) };
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.sync_for_cpu();
        // SAFETY: By the type invariant it is mapped, and it is unmapped once.
        unsafe {
            raw::dmaplane_dma_unmap(self.device.as_ptr(), &mut self.list.0, self.direction);
        }
    }
}
