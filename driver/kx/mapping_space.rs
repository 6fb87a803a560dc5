// SPDX-License-Identifier: GPL-2.0-only

//! Address spaces in which user mappings are found again, so that they can be emptied.
//!
//! Would become part of `kernel::fs`.
//!
//! All opens of a device node share its inode, and with it one tree of mappings. A file that adopted a [`MappingSpace`]
//! has its mappings in that space instead: emptying a range affects no other file's mappings, and does not have to
//! search them. The space is the address space of an anonymous inode, as in graphics drivers and vfio.
//!
//! A mapping keeps the space's file, and not the file that was mapped: a process that inherited a mapping and no
//! descriptor keeps the memory, but not what its owner did with it. The owner's file is released with its last
//! descriptor.

use super::{pages::PAGE_BYTES, raw};
use crate::kx::charged::GFP_CHARGED;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    fs::File,
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// A tree of user mappings.
///
/// # Invariants
///
/// `space` is a file of an anonymous inode of its own, and one reference to it is ours until drop.
pub(crate) struct MappingSpace {
    space: NonNull<bindings::file>,
}

// SAFETY: Files are not tied to a thread.
unsafe impl Send for MappingSpace {}
// SAFETY: Address spaces lock themselves.
unsafe impl Sync for MappingSpace {}

/// Start of the places in a space, in pages. Mappings of objects without a place, such as channels, are below it.
const FIRST: usize = 1 << (59 - 12);
/// Size of all places, in pages: 512 PiB.
const COUNT: usize = 1 << (59 - 12);
const _: () = assert!(PAGE_BYTES == 1 << 12);

/// Pages that were given a place since the module was loaded.
static GIVEN: Atomic<usize> = Atomic::new(0);

/// A range of pages of a space, reserved for one object.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    first: usize,
    count: usize,
}

impl Place {
    /// Reserves a place for `count` pages. When all places were used once, they are used again: an object that then
    /// happens to share one may have its mappings emptied, which the next access fills again.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.min(COUNT);
        let given = GIVEN.fetch_add(count, Relaxed) & (COUNT - 1);
        // A place never extends across the end.
        let start = if given + count > COUNT { 0 } else { given };
        Self {
            first: FIRST + start,
            count,
        }
    }

    /// Its first page.
    pub(super) fn first(&self) -> usize {
        self.first
    }
}

impl MappingSpace {
    /// A space without mappings.
    pub(crate) fn new() -> Result<Arc<Self>> {
        // SAFETY: Process context. A success gives one reference.
        let space = from_err_ptr(unsafe { raw::dmaplane_space_new() })?;
        let space = NonNull::new(space).ok_or(ENOMEM)?;
        // INVARIANT: The callee made the file with an inode of its own, and the reference is ours.
        let space = Self { space };
        Ok(Arc::new(space, GFP_CHARGED)?)
    }

    /// Puts all mappings of a file into this space. For open(2), before anybody can map the file. The caller keeps the
    /// space until the file's release.
    pub(crate) fn adopt(&self, file: &File) {
        // SAFETY: By the type invariant the space is alive. The file is being opened, so nobody else uses its mapping,
        // and nobody does after its release.
        unsafe { raw::dmaplane_space_adopt(self.space.as_ptr(), file.as_ptr()) };
    }

    /// Makes a new mapping keep the space instead of its file, which adopted the space. For mmap(2), when nothing can
    /// fail any more.
    pub(crate) fn keep(&self, vma: &VmaNew) {
        // SAFETY: By the type invariant the space is alive, and the VMA takes a reference of its own. A new VMA is
        // exclusively ours during mmap(2), and of a file.
        unsafe { raw::dmaplane_space_keep(self.space.as_ptr(), vma.as_ptr()) };
    }

    /// Empties all user mappings of a place: the next access faults. May sleep.
    pub(crate) fn zap(&self, place: &Place) {
        // SAFETY: By the type invariant the space is alive, and with it its inode.
        unsafe {
            raw::dmaplane_space_zap((*self.space.as_ptr()).f_inode, place.first, place.count)
        };
    }
}

impl Drop for MappingSpace {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::fput(self.space.as_ptr()) };
    }
}
