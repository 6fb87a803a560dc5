// SPDX-License-Identifier: GPL-2.0-only

//! Pages of host memory on chosen NUMA nodes.

use super::raw;
use core::ptr::NonNull;
use kernel::{alloc::flags::__GFP_NOWARN, bindings, prelude::*};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = kernel::page::PAGE_SIZE;

/// Where pages are to come from.
#[derive(Clone, Copy)]
pub(crate) enum Node {
    /// Anywhere, near the caller first.
    Any,
    /// This node first.
    Preferred(i32),
    /// This node only.
    Strict(i32),
}

/// Zeroed pages, charged to the memory cgroup of whoever allocated them.
///
/// # Invariants
///
/// Each pointer is a page of order 0 with one reference of ours, until drop. Mappings and pinners hold
/// references of their own.
pub(crate) struct Pages(KVVec<NonNull<bindings::page>>);

// SAFETY: The references may be given back from any thread, and pages are not tied to one.
unsafe impl Send for Pages {}
// SAFETY: A shared reference only reads the pointers.
unsafe impl Sync for Pages {}

/// Pages between two looks for a pending signal: large allocations must not outlive their caller's kill.
const SIGNAL_INTERVAL: usize = 256;

impl Pages {
    /// Allocates `count` pages. `ENOMEM` when the policy, the machine or the cgroup has no more; `EINTR`
    /// when a signal arrives meanwhile.
    pub(crate) fn new(count: usize, node: Node) -> Result<Self> {
        let (nid, strict) = match node {
            Node::Any => (bindings::NUMA_NO_NODE, false),
            Node::Preferred(nid) => (nid, false),
            Node::Strict(nid) => (nid, true),
        };
        // A user may ask for more than there is, at will: that is told by the error and not in the log.
        let quiet = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
        let mut pages = Self(KVVec::with_capacity(count, quiet)?);
        for index in 0..count {
            if index % SIGNAL_INTERVAL == 0 && kernel::current!().signal_pending() {
                return Err(EINTR);
            }
            // SAFETY: `node_has_memory()` holds for a named node, which the caller checked; -1 names
            // none. Process context, so that the allocation may sleep.
            let page = unsafe { raw::dmaplane_alloc_page(nid, strict) };
            // INVARIANT: A successful allocation of order 0 transfers one reference.
            pages
                .0
                .push(NonNull::new(page).ok_or(ENOMEM)?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(pages)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The node of each page.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = i32> + '_ {
        // SAFETY: By the type invariant the page is alive.
        self.0
            .iter()
            .map(|page| unsafe { raw::dmaplane_page_to_nid(page.as_ptr()) })
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
            let page = |pages: &Self, at: usize| pages.0.get(at / PAGE_BYTES).copied();
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
            let Some(page) = self.0.get(at / PAGE_BYTES) else {
                return;
            };
            part(page.as_ptr(), start, done, count);
            at += count;
            done += count;
        }
    }

    /// Pointers to the pages, for the other files of this folder.
    pub(super) fn as_slice(&self) -> &[NonNull<bindings::page>] {
        &self.0
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for page in self.0.iter() {
            // SAFETY: By the type invariant one reference is ours, and it is given back once.
            unsafe { bindings::__free_pages(page.as_ptr(), 0) };
        }
    }
}

/// Whether a node exists and has memory.
pub(crate) fn node_has_memory(nid: i32) -> bool {
    // SAFETY: Any integer may be passed; the wrapper checks its range.
    unsafe { raw::dmaplane_node_has_memory(nid) }
}

/// One more than the highest node id.
pub(crate) fn node_ids() -> u32 {
    // SAFETY: Reads a variable that is constant after boot.
    unsafe { raw::dmaplane_node_ids() }
}
