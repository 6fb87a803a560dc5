// SPDX-License-Identifier: GPL-2.0-only

//! What memory consists of, as the kernel reaches it.

use super::DeviceRange;
use crate::{
    kx::{
        bar::IoRange,
        charged::GFP_CHARGED,
        dmabuf::Shown,
        pages::{Pages, PAGE_BYTES},
        vma::What,
    },
    logic::alias::Order,
};
use kernel::{prelude::*, sync::Arc};

/// What memory consists of. Its bytes may be accessed only under a guard of the memory: a device's are gone afterwards.
pub(crate) enum Backing {
    /// Pages with an ordinary kernel mapping.
    Pages(Pages),
    /// A range of a device's memory.
    Device {
        /// How the processor reaches it.
        io: IoRange,
        /// Its struct pages, where it has some.
        pages: Option<Pages>,
        /// The range.
        range: Arc<dyn DeviceRange>,
    },
    /// A device's memory that was imported.
    Lent {
        /// How the processor reaches it.
        io: IoRange,
        /// Its struct pages; no pages where it has none. They own the import.
        pages: Pages,
    },
}

impl Backing {
    /// How many pages it has.
    pub(super) fn count(&self) -> usize {
        match self {
            Backing::Pages(pages) => pages.count(),
            Backing::Device { io, .. } | Backing::Lent { io, .. } => io.count(),
        }
    }

    /// Its struct pages, which RDMA needs.
    pub(super) fn pages(&self) -> Option<&Pages> {
        match self {
            Backing::Pages(pages) | Backing::Lent { pages, .. } => Some(pages),
            Backing::Device { pages, .. } => pages.as_ref(),
        }
    }

    /// What a mapping shows.
    pub(super) fn what(&self) -> What<'_> {
        match self {
            Backing::Pages(pages) => What::Pages(pages),
            Backing::Device { io, .. } | Backing::Lent { io, .. } => What::Io(io),
        }
    }

    /// What a dma-buf shows.
    pub(super) fn shown(&self) -> Shown<'_> {
        match self {
            Backing::Pages(pages) => Shown::Host(pages),
            Backing::Device { io, pages, .. } => Shown::Device(io, pages.as_ref()),
            Backing::Lent { io, pages } => Shown::Device(io, Some(pages)),
        }
    }

    /// Copies bytes into it. Leaves out what does not fit; the caller's check of the range rules that out.
    pub(super) fn write(&self, offset: u64, from: &[u8]) {
        match self {
            Backing::Pages(pages) => pages.write(offset, from),
            Backing::Device { io, .. } | Backing::Lent { io, .. } => io.write(offset, from),
        }
    }

    /// Copies bytes out of it, likewise.
    pub(super) fn read(&self, offset: u64, to: &mut [u8]) {
        match self {
            Backing::Pages(pages) => pages.read(offset, to),
            Backing::Device { io, .. } | Backing::Lent { io, .. } => io.read(offset, to),
        }
    }

    /// The order in which to copy bytes from other memory, or from this. Pages decide what overlaps: the same memory
    /// may have several handles.
    fn order(&self, offset: u64, from: &Self, at: u64, bytes: usize) -> Result<Order> {
        match (self, from) {
            (Backing::Pages(to), Backing::Pages(from)) => to.order(offset, from, at, bytes),
            (
                Backing::Device { io: to, .. } | Backing::Lent { io: to, .. },
                Backing::Device { io: from, .. } | Backing::Lent { io: from, .. },
            ) => Ok(match from.address() + at < to.address() + offset {
                true => Order::Backward,
                false => Order::Forward,
            }),
            // A device's memory never overlaps the host's.
            _ => Ok(Order::Forward),
        }
    }

    /// Copies bytes from other memory, or from this, where the ranges may overlap as with memmove(3). May sleep.
    /// `ENOMEM` when there is no memory for a bounce buffer.
    pub(super) fn copy_from(&self, offset: u64, from: &Self, at: u64, bytes: usize) -> Result {
        let order = self.order(offset, from, at, bytes)?;
        if order == Order::Bounce {
            let mut all = KVVec::from_elem(0u8, bytes, GFP_CHARGED)?;
            from.read(at, &mut all);
            self.write(offset, &all);
            return Ok(());
        }
        let backwards = order == Order::Backward;
        if let (Backing::Pages(to), Backing::Pages(from)) = (self, from) {
            to.copy_from(offset, from, at, bytes, backwards);
            return Ok(());
        }
        let mut bounce = KVec::from_elem(0u8, PAGE_BYTES, GFP_CHARGED)?;
        let mut done = 0;
        while done < bytes {
            let count = (bytes - done).min(PAGE_BYTES);
            // After the bytes that were copied, or before them: a page is read as a whole before it is written.
            let step = if backwards {
                bytes - done - count
            } else {
                done
            } as u64;
            let part = bounce.get_mut(..count).ok_or(EINVAL)?;
            from.read(at + step, part);
            self.write(offset + step, part);
            done += count;
        }
        Ok(())
    }
}
