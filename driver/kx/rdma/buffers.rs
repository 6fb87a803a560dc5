// SPDX-License-Identifier: GPL-2.0-only

//! Memory for control messages, mapped for a device once and for all.

use super::{client::Device, raw};
use crate::{kx::pages::PAGE_BYTES, logic::wire::MESSAGE_BYTES};
use kernel::prelude::*;

/// Message slots in one page.
const PER_PAGE: usize = PAGE_BYTES / MESSAGE_BYTES;

/// One page and where the device sees it.
struct Mapped {
    memory: KBox<[u8; PAGE_BYTES]>,
    address: u64,
}

/// A row of slots of [`MESSAGE_BYTES`] each.
///
/// # Invariants
///
/// Every page of `pages` is mapped on `device` in the direction of `to_device`, until drop. By then no work
/// request refers to it any more.
pub(super) struct Buffers {
    device: Device,
    to_device: bool,
    pages: KVec<Mapped>,
}

impl Buffers {
    /// Allocates and maps `count` slots.
    pub(super) fn new(device: Device, count: usize, to_device: bool) -> Result<Self> {
        let mut buffers = Self {
            device,
            to_device,
            pages: KVec::with_capacity(count.div_ceil(PER_PAGE), GFP_KERNEL)?,
        };
        for _ in 0..count.div_ceil(PER_PAGE) {
            let mut memory = KBox::new([0; PAGE_BYTES], GFP_KERNEL | __GFP_ZERO)?;
            // SAFETY: The device is alive by its invariant; the memory is a whole page of `kmalloc`.
            let address = unsafe {
                raw::dmaplane_ib_dma_map_page(
                    device.as_ptr(),
                    memory.as_mut_ptr().cast(),
                    PAGE_BYTES,
                    to_device,
                )
            };
            // SAFETY: The address is what the mapping returned.
            if unsafe { raw::dmaplane_ib_dma_mapping_error(device.as_ptr(), address) } != 0 {
                return Err(ENOMEM);
            }
            buffers.pages.push(Mapped { memory, address }, GFP_KERNEL)?;
        }
        Ok(buffers)
    }

    /// The scatter-gather element of a slot.
    pub(super) fn sge(&self, slot: usize, lkey: u32) -> Result<raw::ib_sge> {
        let page = self.pages.get(slot / PER_PAGE).ok_or(EINVAL)?;
        Ok(raw::ib_sge {
            addr: page.address + (slot % PER_PAGE * MESSAGE_BYTES) as u64,
            length: MESSAGE_BYTES as u32,
            lkey,
        })
    }

    /// A pointer to a slot's bytes and the device's address of them.
    fn slot(&self, slot: usize) -> Result<(*mut u8, u64)> {
        let page = self.pages.get(slot / PER_PAGE).ok_or(EINVAL)?;
        let start = slot % PER_PAGE * MESSAGE_BYTES;
        // The device may write to the page, so no reference to its bytes is made.
        let memory = page.memory.as_ptr().cast_mut();
        // `start` is below the page's size by the remainder.
        Ok((memory.wrapping_add(start), page.address + start as u64))
    }

    /// Copies a received message out. The work request of this slot has completed.
    pub(super) fn read(&self, slot: usize) -> Result<[u8; MESSAGE_BYTES]> {
        let (memory, address) = self.slot(slot)?;
        // SAFETY: The slot is mapped and, its work request completed, the device is done with it.
        unsafe {
            raw::dmaplane_ib_dma_sync_cpu(self.device.as_ptr(), address, MESSAGE_BYTES);
            Ok(memory.cast::<[u8; MESSAGE_BYTES]>().read())
        }
    }

    /// Hands a slot to the device: before it is posted for receiving again.
    pub(super) fn give_back(&self, slot: usize) -> Result {
        let (_, address) = self.slot(slot)?;
        // SAFETY: The slot is mapped.
        unsafe {
            raw::dmaplane_ib_dma_sync_device(
                self.device.as_ptr(),
                address,
                MESSAGE_BYTES,
                self.to_device,
            );
        }
        Ok(())
    }

    /// Copies a message in. The slot is not in use by any work request, which the caller's free list proves.
    pub(super) fn write(&self, slot: usize, message: &[u8; MESSAGE_BYTES]) -> Result {
        let (memory, _) = self.slot(slot)?;
        // SAFETY: The slot lies inside the page, and nobody else uses it.
        unsafe { memory.cast::<[u8; MESSAGE_BYTES]>().write(*message) };
        self.give_back(slot)
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for page in self.pages.iter() {
            // SAFETY: By the type invariant the page is mapped and no longer in use; unmapped once.
            unsafe {
                raw::dmaplane_ib_dma_unmap_page(
                    self.device.as_ptr(),
                    page.address,
                    PAGE_BYTES,
                    self.to_device,
                );
            }
        }
    }
}
