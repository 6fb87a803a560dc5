// SPDX-License-Identifier: GPL-2.0-only

//! Memory for control messages, mapped for a device once and for all.
//!
//! Would become part of `kernel::rdma`.

use super::{client::Device, hooks::Hooks, raw};
use crate::kx::charged::GFP_CHARGED;
use crate::{kx::pages::PAGE_BYTES, logic::wire::MESSAGE_BYTES};
use core::ptr::NonNull;
use kernel::prelude::*;

/// Message slots in one page.
const PER_PAGE: usize = PAGE_BYTES / MESSAGE_BYTES;

/// One page and where the device sees it.
struct Mapped {
    /// From a box, which drop restores. A raw pointer, because the device writes to the memory.
    memory: NonNull<[u8; PAGE_BYTES]>,
    address: u64,
}

/// A row of slots of [`MESSAGE_BYTES`] each.
///
/// # Invariants
///
/// Every page of `pages` is mapped on `device` in the direction of `to_device`, until drop. By then no work
/// request refers to it any more. Each page came from a box and is ours.
pub(super) struct Buffers {
    device: Device,
    to_device: bool,
    pages: KVec<Mapped>,
}

// SAFETY: The pages are ours and not tied to a thread; the users of the slots exclude each other.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Allocates and maps `count` slots.
    pub(super) fn new(
        device: Device,
        count: usize,
        to_device: bool,
        hooks: &Hooks,
    ) -> Result<Self> {
        let mut buffers = Self {
            device,
            to_device,
            pages: KVec::with_capacity(count.div_ceil(PER_PAGE), GFP_CHARGED)?,
        };
        for _ in 0..count.div_ceil(PER_PAGE) {
            // Not by value: a page is too large for the stack.
            let page = KBox::<[u8; PAGE_BYTES]>::new_uninit(GFP_CHARGED | __GFP_ZERO)?;
            // SAFETY: The allocator has zeroed it, and any bytes are valid.
            let memory = NonNull::from(KBox::leak(unsafe { page.assume_init() }));
            let mapped = hooks.dma_map.fail(ENOMEM).and_then(|()| {
                // SAFETY: The device is alive by its invariant; the memory is a whole page of `kmalloc`.
                let address = unsafe {
                    raw::dmaplane_ib_dma_map_page(
                        device.as_ptr(),
                        memory.as_ptr().cast(),
                        PAGE_BYTES,
                        to_device,
                    )
                };
                // SAFETY: The address is what the mapping returned.
                match unsafe { raw::dmaplane_ib_dma_mapping_error(device.as_ptr(), address) } {
                    0 => Ok(address),
                    _ => Err(ENOMEM),
                }
            });
            let address = mapped.inspect_err(|_| {
                // SAFETY: Leaked above, and not mapped.
                drop(unsafe { KBox::from_raw(memory.as_ptr()) });
            })?;
            // There is room: the list was made for all of them.
            let _ = buffers
                .pages
                .push_within_capacity(Mapped { memory, address });
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
        let memory = page.memory.as_ptr().cast::<u8>();
        // `start` is below the page's size by the remainder.
        Ok((memory.wrapping_add(start), page.address + start as u64))
    }

    /// Copies a received message out. The work request of this slot has completed.
    pub(super) fn read(&self, slot: usize) -> Result<[u8; MESSAGE_BYTES]> {
        let (memory, address) = self.slot(slot)?;
        // SAFETY: The slot is mapped, and the device is done with it, because its work request has completed.
        unsafe {
            raw::dmaplane_ib_dma_sync_cpu(self.device.as_ptr(), address, MESSAGE_BYTES);
            Ok(memory.cast::<[u8; MESSAGE_BYTES]>().read())
        }
    }

    /// Hands a slot to the device, before it is posted.
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

    /// Copies a message in. No work request uses the slot, which the caller's free list proves.
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
                drop(KBox::from_raw(page.memory.as_ptr()));
            }
        }
    }
}
