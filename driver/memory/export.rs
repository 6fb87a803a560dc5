// SPDX-License-Identifier: GPL-2.0-only

//! Memory as a dma-buf for other drivers.

use super::{revocation::Follower, Memory};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::{
        delay_points::DELAY_POINTS,
        gauges::{Held, GAUGES},
        wait::Deadline,
    },
    kx::{
        dmabuf::{
            export::{Export, Exported},
            DmaBuf, Shown,
        },
        pages::PAGE_BYTES,
        vma,
    },
};
use kernel::{
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// A range of memory as a dma-buf. Kept by the dma-buf, and keeps the memory, whose revocation it follows.
pub(crate) struct Piece {
    memory: Arc<Memory>,
    first: usize,
    count: usize,
    /// Its number among the memory's followers; 0 before it is one.
    follower: Atomic<u64>,
    _count: Held,
}

impl Exported for Piece {
    fn shown(&self) -> (Shown<'_>, usize, usize) {
        (self.memory.backing.shown(), self.first, self.count)
    }

    fn mapping(&self) {
        DELAY_POINTS.addresses_mapped.pass();
    }

    fn map(self: &Arc<Self>, vma: &VmaNew) -> Result {
        // The framework has compared the VMA's end with the dma-buf's. The dma-buf's own revocation empties all its
        // mappings; the memory's revocation ensures that none is filled again.
        let start = (self.first * PAGE_BYTES) as u64 + vma::offset(vma);
        // While the memory is being revoked, the dma-buf says what it says afterwards.
        vma::map_paged(vma, start, self.memory.clone()).map_err(|error| {
            if error == ESTALE {
                ENODEV
            } else {
                error
            }
        })
    }

    fn released(&self) {
        let follower = self.follower.load(Relaxed);
        if follower != 0 {
            self.memory.lifetime().forget(follower);
        }
    }
}

impl Follower for Export<Piece> {
    fn close(&self) {
        Export::close(self);
    }

    fn revoked(&self, let_go: Deadline) {
        self.wait_let_go(let_go.left_ms().unwrap_or(0));
    }

    fn is_held(&self) -> bool {
        Export::is_held(self)
    }
}

impl Memory {
    /// Makes a dma-buf of whole pages, which lie inside the memory. Imported memory is exported as its original
    /// dma-buf, and only as a whole (`EOPNOTSUPP`). `ESTALE` when it was revoked.
    pub(crate) fn export(
        self: &Arc<Self>,
        offset: u64,
        length: u64,
        writable: bool,
    ) -> Result<DmaBuf> {
        if let Some(dmabuf) = self.original() {
            let whole = offset == 0 && length == self.bytes() && writable;
            return match self.is_revoked() {
                true => Err(ESTALE),
                false if whole => Ok(dmabuf),
                false => Err(EOPNOTSUPP),
            };
        }
        let pages = |bytes| usize::try_from(bytes).map(|bytes| bytes / PAGE_BYTES);
        let piece = Piece {
            memory: self.clone(),
            first: pages(offset).map_err(|_| ERANGE)?,
            count: pages(length).map_err(|_| ERANGE)?,
            follower: Atomic::new(0),
            _count: GAUGES.exports.hold(1),
        };
        let (export, dmabuf) = Export::new(Arc::new(piece, GFP_CHARGED)?, writable)?;
        DELAY_POINTS.dmabuf_exported.pass();
        // Nobody else knows the dma-buf yet, so it cannot have been released.
        let follower = self.lifetime().follow(export.clone())?;
        export.what().follower.store(follower, Relaxed);
        Ok(dmabuf)
    }
}
