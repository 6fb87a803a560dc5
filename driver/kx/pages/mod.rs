// SPDX-License-Identifier: GPL-2.0-only

//! Pages: a row of them, and what keeps them alive.

mod folios;
mod zero;

pub(crate) use folios::{Wanted, MAX_ORDER};

use super::raw;
use core::ptr::NonNull;
use kernel::{bindings, prelude::*};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = kernel::page::PAGE_SIZE;

/// Keeps pages alive that are not the driver's own, such as a range of a BAR or an imported dma-buf, and gives them
/// back on drop.
pub(crate) trait PageOwner: Send + Sync {}

/// What keeps the pages of a row alive.
enum Owner {
    /// The row itself: it consists of whole folios in a row, each with one reference of ours.
    Folios,
    /// Somebody else, asked by keeping this.
    Foreign { _owner: KBox<dyn PageOwner> },
}

/// A row of pages of [`PAGE_BYTES`] each.
///
/// # Invariants
///
/// Each pointer is a page that has a kernel mapping and stays alive until drop. With [`Owner::Folios`] the row
/// consists of whole folios: the head of each is followed by its tails. Mappings and pinners hold references of
/// their own.
pub(crate) struct Pages {
    row: KVVec<NonNull<bindings::page>>,
    owner: Owner,
}

// SAFETY: The references may be given back from any thread, pages are not tied to one, and owners are `Send`.
unsafe impl Send for Pages {}
// SAFETY: A shared reference only reads the pointers, and owners are `Sync`.
unsafe impl Sync for Pages {}

impl Pages {
    /// Makes pages of somebody else's memory.
    ///
    /// # Safety
    ///
    /// Each page of the row has a kernel mapping and stays alive as long as `owner`.
    #[allow(dead_code)] // Reason: its users are on their way.
    pub(super) unsafe fn foreign(
        row: KVVec<NonNull<bindings::page>>,
        owner: KBox<dyn PageOwner>,
    ) -> Self {
        // INVARIANT: Promised by the caller.
        Self {
            row,
            owner: Owner::Foreign { _owner: owner },
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.row.len()
    }

    /// Shows each folio to `look`: first page, node, order. Pages of others count as folios of one page.
    pub(crate) fn each_folio(&self, mut look: impl FnMut(usize, i32, usize)) {
        let mut index = 0;
        while let Some(page) = self.row.get(index) {
            let order = match self.owner {
                // SAFETY: By the type invariant this is the head of a folio that is alive.
                Owner::Folios => unsafe { raw::dmaplane_folio_order(page.as_ptr()) as usize },
                Owner::Foreign { .. } => 0,
            };
            // SAFETY: By the type invariant the page is alive.
            let node = unsafe { raw::dmaplane_page_to_nid(page.as_ptr()) };
            look(index, node, order);
            index += 1 << order.min(MAX_ORDER);
        }
    }

    /// Copies bytes into the pages, from a byte offset on. What does not fit is left out, which the caller's check of
    /// the range rules out.
    pub(crate) fn write(&self, offset: u64, from: &[u8]) {
        self.each_part(offset, from.len(), |page, start, done, count| {
            if let Some(part) = from.get(done..done + count) {
                // SAFETY: By the type invariant the page is alive, and the part lies inside it. User space may
                // change the memory meanwhile, which tears the data and nothing else.
                unsafe { raw::dmaplane_copy_to_page(page, start, part.as_ptr().cast(), count) };
            }
        });
    }

    /// Copies bytes out of the pages, from a byte offset on, as [`Self::write`] does it.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) {
        let bytes = to.len();
        self.each_part(offset, bytes, |page, start, done, count| {
            if let Some(part) = to.get_mut(done..done + count) {
                // SAFETY: As in `write()`.
                unsafe {
                    raw::dmaplane_copy_from_page(part.as_mut_ptr().cast(), page, start, count)
                };
            }
        });
    }

    /// Copies bytes from other pages, or from these, where the ranges may overlap. May sleep. What does not fit is left
    /// out, which the caller's check of the ranges rules out.
    pub(crate) fn copy_from(&self, offset: u64, from: &Self, from_offset: u64, bytes: usize) {
        let backwards = core::ptr::eq(self, from) && from_offset < offset;
        let (Ok(to_start), Ok(from_start)) =
            (usize::try_from(offset), usize::try_from(from_offset))
        else {
            return;
        };
        let mut done = 0;
        while done < bytes {
            // Each part ends, or going backwards begins, where a page of either side does.
            let left = bytes - done;
            let (to_at, from_at, count) = if backwards {
                let (to_end, from_end) = (to_start + left, from_start + left);
                let part = |end: usize| (end - 1) % PAGE_BYTES + 1;
                let count = part(to_end).min(part(from_end)).min(left);
                (to_end - count, from_end - count, count)
            } else {
                let (to_at, from_at) = (to_start + done, from_start + done);
                let part = |at: usize| PAGE_BYTES - at % PAGE_BYTES;
                (to_at, from_at, part(to_at).min(part(from_at)).min(left))
            };
            let page = |pages: &Self, at: usize| pages.row.get(at / PAGE_BYTES).copied();
            let Some((to, from)) = page(self, to_at).zip(page(from, from_at)) else {
                return;
            };
            // SAFETY: By the type invariant both pages are alive, and the part lies inside each of them. Process context,
            // which the caller promises. User space may change the memory meanwhile, which tears the data only.
            unsafe {
                raw::dmaplane_move_between(
                    to.as_ptr(),
                    to_at % PAGE_BYTES,
                    from.as_ptr(),
                    from_at % PAGE_BYTES,
                    count,
                );
            }
            done += count;
        }
    }

    /// Cuts a range of bytes at the pages' ends: page, start in it, bytes before it, bytes.
    fn each_part(
        &self,
        offset: u64,
        bytes: usize,
        mut part: impl FnMut(*mut bindings::page, usize, usize, usize),
    ) {
        let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut done = 0;
        while done < bytes {
            let start = at % PAGE_BYTES;
            let count = (PAGE_BYTES - start).min(bytes - done);
            let Some(page) = self.row.get(at / PAGE_BYTES) else {
                return;
            };
            part(page.as_ptr(), start, done, count);
            at += count;
            done += count;
        }
    }

    /// Pointers to the pages, for the other files of this folder.
    pub(super) fn as_slice(&self) -> &[NonNull<bindings::page>] {
        &self.row
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Owner::Folios = self.owner {
            folios::give_back(&self.row);
        }
    }
}
