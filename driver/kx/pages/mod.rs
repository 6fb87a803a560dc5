// SPDX-License-Identifier: GPL-2.0-only

//! A row of pages, and what keeps them alive.
//!
//! Extends `kernel::page`.

mod folios;
mod zero;

pub(crate) use folios::{Wanted, MAX_ORDER};

use super::raw;
use crate::kx::charged::GFP_CHARGED;
use crate::logic::alias::{self, Order};
use core::ptr::NonNull;
use kernel::{bindings, prelude::*, sync::Arc};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = kernel::page::PAGE_SIZE;

/// Keeps pages alive that are not the driver's own, such as a range of a BAR or an imported dma-buf, and releases them
/// on drop.
pub(crate) trait PageOwner: Send + Sync {}

/// What keeps the pages of a row alive.
enum Owner {
    /// The row itself: it consists of whole folios, each with one reference of ours.
    Folios,
    /// Somebody else, as long as this is held.
    Foreign { _owner: KBox<dyn PageOwner> },
    /// Another row, of which this is a part; its own row is empty. `_owner` is dropped with the part.
    Part {
        whole: Arc<Pages>,
        first: usize,
        count: usize,
        _owner: Option<KBox<dyn PageOwner>>,
    },
}

/// A row of pages of [`PAGE_BYTES`] each.
///
/// # Invariants
///
/// Each pointer is a page that has a kernel mapping and stays alive until drop. With [`Owner::Folios`] the row
/// consists of whole folios: the head of each is followed by its tails. With [`Owner::Part`] the range is inside the
/// other row. Mappings and pinners hold references of their own.
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

    /// A part of other pages, in constant time. It keeps all of them alive. `EINVAL` for a range beyond their end.
    pub(crate) fn part(
        whole: Arc<Pages>,
        first: usize,
        count: usize,
        owner: Option<KBox<dyn PageOwner>>,
    ) -> Result<Self> {
        if first
            .checked_add(count)
            .is_none_or(|end| end > whole.count())
        {
            return Err(EINVAL);
        }
        // INVARIANT: The range was just checked, and a row never shrinks.
        Ok(Self {
            row: KVVec::new(),
            owner: Owner::Part {
                whole,
                first,
                count,
                _owner: owner,
            },
        })
    }

    /// Whether they may be reused for another owner while they are alive, so that nobody else may hold references to
    /// them.
    pub(super) fn are_lent(&self) -> bool {
        matches!(self.owner, Owner::Part { .. })
    }

    /// Whether anything but the row itself holds references to pages of the driver's own. If there are no user mappings
    /// and no work of devices, those are of users who have pinned the pages, in whatever way, or send from them.
    pub(crate) fn are_referenced(&self) -> bool {
        if !matches!(self.owner, Owner::Folios) {
            // Lent pages cannot be pinned, and foreign pages are their owner's concern.
            return false;
        }
        let mut index = 0;
        while let Some(page) = self.row.get(index) {
            // SAFETY: By the type invariant it is the head of a folio that is alive.
            let (references, order) = unsafe {
                let page = page.as_ptr();
                (
                    raw::dmaplane_folio_references(page),
                    raw::dmaplane_folio_order(page),
                )
            };
            if references > 1 {
                return true;
            }
            index += 1 << order;
        }
        false
    }

    /// Number of pages.
    pub(crate) fn count(&self) -> usize {
        match &self.owner {
            Owner::Part { count, .. } => *count,
            _ => self.row.len(),
        }
    }

    /// Zeroes them. User space may see some before others. `EINTR` when the caller is being killed.
    pub(crate) fn clear(&self, workers: usize) -> Result {
        zero::zero(self.as_slice(), workers)
    }

    /// Calls `look` for each folio with its first page, its node, its order, and the number of its pages that are here.
    /// Foreign pages count as folios of one page; the pages of a part are passed one by one, with the order of their
    /// folio.
    pub(crate) fn each_folio(&self, mut look: impl FnMut(usize, i32, usize, usize)) {
        let mut index = 0;
        while let Some(page) = self.as_slice().get(index) {
            // SAFETY: By the type invariant the page is alive.
            let order = || unsafe { raw::dmaplane_folio_order(page.as_ptr()) as usize };
            let (order, count) = match self.owner {
                Owner::Folios => (order().min(MAX_ORDER), 1 << order().min(MAX_ORDER)),
                Owner::Foreign { .. } => (0, 1),
                Owner::Part { .. } => (order(), 1),
            };
            // SAFETY: By the type invariant the page is alive.
            let node = unsafe { raw::dmaplane_page_to_nid(page.as_ptr()) };
            look(index, node, order, count);
            index += count;
        }
    }

    /// Copies bytes into the pages, from a byte offset on. Bytes that do not fit are left out, which the caller's check
    /// of the range rules out.
    pub(crate) fn write(&self, offset: u64, from: &[u8]) {
        self.each_part(offset, from.len(), |page, start, done, count| {
            if let Some(part) = from.get(done..done + count) {
                // SAFETY: By the type invariant the page is alive, and the part lies inside it. User space may
                // change the memory meanwhile, which tears the data and nothing else.
                unsafe { raw::dmaplane_copy_to_page(page, start, part.as_ptr().cast(), count) };
            }
        });
    }

    /// Copies bytes out of the pages, from a byte offset on, like [`Self::write`].
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) {
        let bytes = to.len();
        self.each_part(offset, bytes, |page, start, done, count| {
            if let Some(part) = to.get_mut(done..done + count) {
                // SAFETY: By the type invariant the page is alive, and the part lies inside it. User space may change
                // the memory meanwhile, which tears the data and nothing else.
                unsafe {
                    raw::dmaplane_copy_from_page(part.as_mut_ptr().cast(), page, start, count)
                };
            }
        });
    }

    /// Whether other rows may contain the same pages.
    fn may_alias(&self) -> bool {
        matches!(self.owner, Owner::Foreign { .. })
    }

    /// Finds the order in which bytes are to be copied from other pages, or from these. `ENOMEM` if that takes a
    /// search.
    pub(crate) fn order(
        &self,
        offset: u64,
        from: &Self,
        from_offset: u64,
        bytes: usize,
    ) -> Result<Order> {
        if !self.may_alias() && !from.may_alias() {
            // Parts of one row have no page in common.
            return Ok(match core::ptr::eq(self, from) && from_offset < offset {
                true => Order::Backward,
                false => Order::Forward,
            });
        }
        let range = |pages: &Self, offset: u64| {
            let start = usize::try_from(offset).map_err(|_| EINVAL)?;
            let end = start.checked_add(bytes).ok_or(EINVAL)?;
            let (first, end) = (start / PAGE_BYTES, end.div_ceil(PAGE_BYTES));
            Ok::<_, Error>((first, end.min(pages.count()), start % PAGE_BYTES))
        };
        let (to_first, to_end, to_skip) = range(self, offset)?;
        let (from_first, from_end, from_skip) = range(from, from_offset)?;
        let to = self.as_slice().get(to_first..to_end).ok_or(EINVAL)?;
        let from = from.as_slice().get(from_first..from_end).ok_or(EINVAL)?;
        let mut scratch = KVVec::from_elem((0, 0), from.len(), GFP_CHARGED)?;
        let name = |page: &NonNull<bindings::page>| page.as_ptr().addr();
        let (to, from) = (to.iter().map(name), from.iter().map(name));
        Ok(alias::order(to, to_skip, from, from_skip, &mut scratch))
    }

    /// Copies bytes from other pages, or from these, in an order that [`Self::order`] found. May sleep. Bytes that do
    /// not fit are left out, which the caller's check of the ranges rules out.
    pub(crate) fn copy_from(
        &self,
        offset: u64,
        from: &Self,
        from_offset: u64,
        bytes: usize,
        backwards: bool,
    ) {
        let (Ok(to_start), Ok(from_start)) =
            (usize::try_from(offset), usize::try_from(from_offset))
        else {
            return;
        };
        let mut done = 0;
        while done < bytes {
            // Each part ends at a page boundary of either side or, going backwards, begins at one.
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
            let page = |pages: &Self, at: usize| pages.as_slice().get(at / PAGE_BYTES).copied();
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

    /// Splits a range of bytes at page boundaries, and calls `part` with the page, the start in it, the bytes before
    /// it, and the bytes in it.
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
            let Some(page) = self.as_slice().get(at / PAGE_BYTES) else {
                return;
            };
            part(page.as_ptr(), start, done, count);
            at += count;
            done += count;
        }
    }

    /// Pointers to the pages, for the other files of this folder.
    pub(super) fn as_slice(&self) -> &[NonNull<bindings::page>] {
        match &self.owner {
            Owner::Part {
                whole,
                first,
                count,
                ..
            } => whole.as_slice().get(*first..*first + *count).unwrap_or(&[]),
            _ => &self.row,
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Owner::Folios = self.owner {
            folios::give_back(&self.row);
        }
    }
}
