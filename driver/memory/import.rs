// SPDX-License-Identifier: GPL-2.0-only

//! Memory of other drivers as a buffer's.

use super::{
    backing::Backing,
    placement::Placed,
    revocation::{Cause, MemoryLifetime},
    Memory, MemoryOwner,
};
use crate::{
    base::{
        delay_points::DELAY_POINTS,
        gauges::{Held, GAUGES},
        quota::Kind,
    },
    kx::{
        dmabuf::{
            import::{Access, Import, Importer, Lack, Lent},
            DmaBuf,
        },
        pages::PAGE_BYTES,
    },
    uapi,
};
use kernel::{mm::virt::VmaNew, prelude::*, sync::Arc};

/// Receives the exporter's invalidation, with the exporter's lock held. Holds the memory's [`MemoryLifetime`] and not
/// the memory, which may be freed meanwhile.
pub(crate) struct Listener(Arc<MemoryLifetime>);

impl Importer for Listener {
    fn invalidated(&self) {
        self.0.revoke(Cause::Exporter);
    }
}

/// What imported memory has beyond its pages.
pub(super) struct Imported {
    import: Arc<Import<Listener>>,
    lack: Option<Lack>,
    _count: Held,
}

impl Imported {
    /// Its size, also where the kernel has no pages of it.
    pub(super) fn bytes(&self) -> u64 {
        self.import.dmabuf().bytes()
    }
}

impl Memory {
    /// Imports a dma-buf. `EINVAL` for one that is smaller than a page, `E2BIG` beyond `most` bytes, `EDQUOT`, `ENODEV`
    /// when its exporter takes it back, `ETIMEDOUT` when other devices use it for too long, or the exporter's error.
    pub(crate) fn import(dmabuf: DmaBuf, most: u64, owner: MemoryOwner) -> Result<Arc<Self>> {
        let bytes = dmabuf.bytes();
        if bytes == 0 {
            return Err(EINVAL);
        }
        if bytes > most {
            return Err(E2BIG);
        }
        // The exporter cannot move it while it is imported, so it is charged like the context's own memory.
        let charge = owner.quota.charge(Kind::Bytes, bytes)?;
        let count = bytes as usize / PAGE_BYTES;
        let lifetime = MemoryLifetime::new(count, &owner, true)?;
        let held = GAUGES.imports.hold(1);
        let owned = Import::attach(dmabuf, Listener(lifetime.clone()))?;
        let import = owned.import().clone();
        DELAY_POINTS.dmabuf_attached.pass();
        let Lent { pages, io, lack } = owned.into_memory()?;
        DELAY_POINTS.pages_mapped.pass();
        let imported = Imported {
            import,
            lack,
            _count: held,
        };
        let backing = match io {
            Some(io) => Backing::Lent { io, pages },
            None => Backing::Pages(pages),
        };
        // The gauge does not count other drivers' memory.
        Self::made_of(
            backing,
            lifetime,
            Placed::of_device(-1)?,
            Some(charge),
            0,
            Some(imported),
        )
    }

    /// Whether it is imported and the kernel has no pages of it.
    pub(super) fn lacks_pages(&self) -> bool {
        let imported = self.imported.as_ref();
        imported.is_some_and(|imported| imported.lack.is_some())
    }

    /// The dma-buf that it was imported as.
    pub(super) fn original(&self) -> Option<DmaBuf> {
        let imported = self.imported.as_ref();
        imported.map(|imported| imported.import.dmabuf().clone())
    }

    /// `IMPORT_*` bits and one of `IMPORT_LACKS_*`, as an import reports them.
    pub(crate) fn reach(&self) -> (u32, u32) {
        let Some(imported) = &self.imported else {
            return (0, 0);
        };
        let bit = |on: bool, bit| if on { bit } else { 0 };
        let access = bit(imported.import.is_mappable(), uapi::IMPORT_MAPPABLE)
            | bit(imported.lack.is_none(), uapi::IMPORT_PAGES)
            | bit(self.is_reached(), uapi::IMPORT_COPY)
            | bit(imported.import.is_writable(), uapi::IMPORT_WRITABLE);
        let lack = match imported.lack {
            None => uapi::IMPORT_LACKS_NOTHING,
            Some(Lack::Mapping) => uapi::IMPORT_LACKS_MAPPING,
            Some(Lack::Io) => uapi::IMPORT_LACKS_MEMORY,
            Some(Lack::Pages) => uapi::IMPORT_LACKS_PAGES,
        };
        (access, lack)
    }

    /// Whether the processor can access it.
    fn is_reached(&self) -> bool {
        !self.lacks_pages() || matches!(self.backing, Backing::Lent { .. })
    }

    /// The import, if it is one. Checks that it may be used: `ESTALE` once it is revoked, `EOPNOTSUPP` unless `reached`
    /// is set, `EACCES` when it may not be written.
    fn usable(&self, write: bool, reached: bool) -> Result<Option<&Arc<Import<Listener>>>> {
        let Some(imported) = &self.imported else {
            return Ok(None);
        };
        if self.is_revoked() {
            return Err(ESTALE);
        }
        if !reached {
            return Err(EOPNOTSUPP);
        }
        match imported.import.is_writable() || !write {
            true => Ok(Some(&imported.import)),
            false => Err(EACCES),
        }
    }

    /// Turns an error into `ESTALE` if the exporter has taken the memory back. The exporter may return the error before
    /// it has notified all importers, which it does under its lock.
    fn unless_revoked<T>(&self, import: &Import<Listener>, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            if !self.is_revoked() {
                import.settle();
            }
            if self.is_revoked() {
                ESTALE
            } else {
                error
            }
        })
    }

    /// Begins an access by the processor, which ends when the result is dropped. The caller must not hold a guard: the
    /// exporter may take a lock that is held while a revocation waits for guards. `ETIMEDOUT` when other devices use
    /// imported memory for too long, `EINTR` on a signal meanwhile.
    pub(crate) fn access(&self, write: bool) -> Result<Option<Access<Listener>>> {
        match self.usable(write, self.is_reached())? {
            Some(import) => self.unless_revoked(import, import.access(write).map(Some)),
            None => Ok(None),
        }
    }

    /// Waits until an RDMA device may read it, or write it if `write` is set. Otherwise as [`Self::access`].
    pub(crate) fn wait_ready(&self, write: bool) -> Result {
        match self.usable(write, !self.lacks_pages())? {
            Some(import) => self.unless_revoked(import, import.wait_fences(write)),
            None => Ok(()),
        }
    }

    /// Whether an RDMA device may ever read it, or write it if `write` is set. Does not wait; otherwise as
    /// [`Self::access`].
    pub(crate) fn check_usable(&self, write: bool) -> Result {
        self.usable(write, !self.lacks_pages()).map(|_| ())
    }

    /// Whether other devices are done with it, so that an RDMA device may read it now, or write it if `write` is set.
    /// Any context.
    pub(crate) fn is_ready(&self, write: bool) -> bool {
        let imported = self.imported.as_ref();
        imported.is_none_or(|imported| imported.import.is_quiet(write))
    }

    /// Has its exporter map it into a process; `None` when it is not imported.
    pub(super) fn map_imported(&self, vma: &VmaNew, start: u64) -> Option<Result> {
        let imported = self.imported.as_ref()?;
        Some(if self.is_revoked() {
            Err(ESTALE)
        } else if imported.import.is_mappable() {
            self.unless_revoked(&imported.import, imported.import.map(vma, start))
        } else {
            Err(EOPNOTSUPP)
        })
    }

    /// Whether messages can be written into it when they arrive. Not into imported memory: its exporter would have to
    /// be asked at a moment when nobody may wait.
    pub(crate) fn takes_messages(&self) -> bool {
        self.imported.is_none()
    }
}
