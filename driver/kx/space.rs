// SPDX-License-Identifier: GPL-2.0-only

//! Where user mappings are found again, so that they can be emptied.
//!
//! All opens of a device node share its inode, and with it one tree of mappings. A file that adopted a [`Space`] has
//! its mappings in that space instead: emptying a range concerns nobody else, and nobody else's mappings are in the
//! way. The space is the address space of an anonymous inode, as graphics drivers and vfio have it.
//!
//! A mapping keeps the space's file, and not the one that was mapped: a process that inherited a mapping and no descriptor
//! keeps the memory, but not what its owner did with it. The owner's file is released with its last descriptor.

use super::{
    pages::{at_will, PAGE_BYTES},
    raw,
};
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
pub(crate) struct Space {
    space: NonNull<bindings::file>,
}

// SAFETY: Files are not tied to a thread.
unsafe impl Send for Space {}
// SAFETY: Address spaces lock themselves.
unsafe impl Sync for Space {}

/// Start of the places in a space, in pages: mappings of what has no place, such as channels, are below.
const FIRST: usize = 1 << (59 - 12);
/// Places, in pages: 512 PiB.
const COUNT: usize = 1 << (59 - 12);
const _: () = assert!(PAGE_BYTES == 1 << 12);

/// Pages that were given a place since the module was loaded.
static GIVEN: Atomic<usize> = Atomic::new(0);

/// A range of pages of a space that one object has for itself.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    first: usize,
    count: usize,
}

impl Place {
    /// A place for so many pages. When all have been given once, they are given again: whoever then shares one by
    /// chance has a mapping emptied that is filled again on the next touch.
    pub(crate) fn new(count: usize) -> Self {
        let count = count.min(COUNT);
        let given = GIVEN.fetch_add(count, Relaxed) & (COUNT - 1);
        // Never across the end.
        let start = if given + count > COUNT { 0 } else { given };
        Self {
            first: FIRST + start,
            count,
        }
    }

    /// Where it begins, in pages.
    pub(super) fn first(&self) -> usize {
        self.first
    }
}

impl Space {
    /// A space without mappings.
    pub(crate) fn new() -> Result<Arc<Self>> {
        // SAFETY: Process context. A success gives one reference.
        let space = from_err_ptr(unsafe { raw::dmaplane_space_new() })?;
        let space = NonNull::new(space).ok_or(ENOMEM)?;
        // INVARIANT: See above.
        let space = Self { space };
        Ok(Arc::new(space, at_will())?)
    }

    /// Has all mappings of a file here. For open(2), before anybody can map it. The caller keeps the space until the
    /// file's release.
    pub(crate) fn adopt(&self, file: &File) {
        // SAFETY: By the type invariant the space is alive. The file is being opened, so that nobody else looks at its
        // mapping, and nobody does after its release.
        unsafe { raw::dmaplane_space_adopt(self.space.as_ptr(), file.as_ptr()) };
    }

    /// Has a new mapping of a file that adopted this space keep the space instead of the file. For mmap(2), when nothing can
    /// fail any more.
    pub(crate) fn keep(&self, vma: &VmaNew) {
        // SAFETY: By the type invariant the space is alive, and the VMA takes a reference of its own. A new VMA is
        // exclusively ours during mmap(2), and of a file.
        unsafe { raw::dmaplane_space_keep(self.space.as_ptr(), vma.as_ptr()) };
    }

    /// Empties all user mappings of a place: the next touch faults. May sleep.
    pub(crate) fn zap(&self, place: &Place) {
        // SAFETY: By the type invariant the space is alive, and with it its inode.
        unsafe { raw::dmaplane_space_zap((*self.space.as_ptr()).f_inode, place.first, place.count) };
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::fput(self.space.as_ptr()) };
    }
}
