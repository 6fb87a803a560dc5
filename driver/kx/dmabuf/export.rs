// SPDX-License-Identifier: GPL-2.0-only

//! Memory that other drivers reach through a dma-buf.
//!
//! Would become part of `kernel::dma_buf`.
//!
//! A device's memory is revoked when the device goes, whoever uses it. So only importers that let go on an invalidation
//! get its addresses, and nobody gets a kernel mapping, which the framework gives to anybody. The driver's own importer
//! needs no mapping of either kind of memory: see `view.rs`.

use super::{
    callbacks::Operations,
    outliving::{Mappings, Reservation},
    raw,
    table::Table,
    view::{Head, Shown, View},
    DmaBuf,
};
use crate::kx::charged::GFP_CHARGED;
use crate::kx::{
    pages::PAGE_BYTES,
    task::{is_killed, sleep_killable},
};
use core::ptr::NonNull;
use kernel::{
    bindings::{self, dma_data_direction as Direction},
    dma::DataDirection,
    error::from_err_ptr,
    ffi::{c_int, c_void},
    mm::virt::VmaNew,
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, CondVarTimeoutResult, Mutex},
    time::{msecs_to_jiffies, Delta, Instant, Monotonic},
};

/// The memory behind a dma-buf. It lives until the last reference to the dma-buf is gone.
pub(crate) trait Exported: Send + Sync + Sized + 'static {
    /// The memory, and the exported part of it: the first page and the number of pages, which are inside the memory.
    fn shown(&self) -> (Shown<'_>, usize, usize);
    /// Called when a device is about to get its addresses.
    fn mapping(&self);
    /// Maps it into a process, from the VMA's offset on. Runs under the process's mmap lock.
    fn map(self: &Arc<Self>, vma: &VmaNew) -> Result;
    /// Called when the last reference to the dma-buf is gone. May sleep.
    fn released(&self);
}

/// Time between two checks whether importers have let go while a signal is pending, in milliseconds.
const SIGNALLED_POLL_MS: u32 = 5;

/// `DMA_RESV_USAGE_BOOKKEEP`: everything that importers do.
const BOOKKEEPING: u32 = 3;

/// The exporter's side of a dma-buf.
///
/// Locks: `reservation`, which is the dma-buf's reservation lock, and `state` inside it. The latter is held while
/// tables are synchronised, so that none of them is dropped meanwhile.
///
/// # Invariants
///
/// `State::dmabuf` is the dma-buf whose private data this is, from its creation until its release, which takes
/// `reservation` before it clears the member: so the dma-buf stays as long as the lock is held and the member is set,
/// though its file may not. `head` comes first, so that code that does not know `E` finds it.
#[pin_data]
#[repr(C)]
pub(crate) struct Export<E: Exported> {
    head: Head,
    #[pin]
    state: Mutex<State>,
    #[pin]
    unmapped: CondVar,
    reservation: Reservation,
    writable: bool,
    /// Whether it is a device's memory.
    device: bool,
    what: Arc<E>,
}

struct State {
    dmabuf: Option<(NonNull<raw::dma_buf>, Arc<Mappings>)>,
    tables: KVec<MappedTable>,
    vmapped: bool,
    revoked: bool,
}

// SAFETY: The pointer is only used as the type's invariant allows, from any thread.
unsafe impl Send for State {}

/// A table that an importer has.
struct MappedTable {
    table: Addresses,
    revocable: bool,
}

/// The addresses that an importer's device got.
enum Addresses {
    /// Those of host pages.
    Host(KBox<Table>),
    /// Those of a device's memory: a table of `dmaplane_p2p_map()`, which the code that takes it off the list unmaps.
    Device(NonNull<bindings::sg_table>),
}

impl Addresses {
    fn as_ptr(&self) -> *mut bindings::sg_table {
        match self {
            Self::Host(table) => table.as_ptr(),
            Self::Device(table) => table.as_ptr(),
        }
    }
}

impl<E: Exported> Export<E> {
    /// Makes a dma-buf. Importers may write only when it is `writable`.
    pub(crate) fn new(what: Arc<E>, writable: bool) -> Result<(Arc<Self>, DmaBuf)> {
        let (shown, _, count) = what.shown();
        let device = matches!(shown, Shown::Device(..));
        let export = Arc::pin_init(
            try_pin_init!(Self {
                head: Head { view: Self::view },
                state <- new_mutex!(State {
                    dmabuf: None,
                    tables: KVec::new(),
                    vmapped: false,
                    revoked: false,
                }, "Export::state"),
                unmapped <- new_condvar!("Export::unmapped"),
                reservation: Reservation::new()?,
                writable,
                device,
                what,
            }),
            GFP_CHARGED,
        )?;
        let flags = if writable {
            bindings::O_RDWR
        } else {
            bindings::O_RDONLY
        };
        let info = raw::dma_buf_export_info {
            exp_name: c"dmaplane".as_char_ptr(),
            owner: kernel::module::this_module::<crate::LocalModule>().as_ptr(),
            ops: Operations::<E>::table(writable && !device),
            size: count * PAGE_BYTES,
            flags: flags as c_int,
            resv: export.reservation.as_ptr(),
            priv_: Arc::into_raw(export.clone()).cast_mut().cast(),
        };
        // SAFETY: The table is static, and the private data is what it expects: a reference that `release` gives back. The
        // module is pinned until then.
        let made = DmaBuf::adopt(unsafe { raw::dma_buf_export(&info) }).inspect_err(|_| {
            // SAFETY: The reference was not taken over.
            drop(unsafe { Arc::from_raw(info.priv_.cast::<Self>()) });
        })?;
        let mappings = Arc::new(Mappings::of(&made)?, GFP_CHARGED)?;
        // INVARIANT: Its private data is this export.
        export.state.lock().dmabuf = Some((made.0, mappings));
        Ok((export, made))
    }

    /// The memory behind it.
    pub(crate) fn what(&self) -> &Arc<E> {
        &self.what
    }

    /// # Safety
    ///
    /// The head is that of an export of this type.
    unsafe fn view(head: NonNull<Head>) -> Result<Option<View>> {
        // SAFETY: By the type invariant the head comes first, and the caller keeps the export.
        let export = unsafe { head.cast::<Self>().as_ref() };
        let (shown, first, count) = export.what.shown();
        let (io, pages) = match shown {
            Shown::Host(_) if !export.writable => return Ok(None),
            Shown::Host(pages) => (None, Some(pages)),
            Shown::Device(io, pages) => (Some(io.part(first, count).ok_or(EINVAL)?), pages),
        };
        let pages = pages.and_then(|pages| pages.as_slice().get(first..first + count));
        let row = pages.map(|pages| {
            let mut row = KVVec::with_capacity(count, GFP_CHARGED)?;
            row.extend_from_slice(pages, GFP_CHARGED)?;
            Ok::<_, Error>(row)
        });
        Ok(Some(View {
            io,
            row: row.transpose()?,
        }))
    }

    /// Whether an importer's device, or a kernel mapping of an importer's, reaches the pages.
    pub(crate) fn is_held(&self) -> bool {
        let state = self.state.lock();
        state.vmapped || !state.tables.is_empty()
    }

    /// Refuses every new use, takes the pages out of every process, and notifies the importers. May sleep.
    pub(crate) fn close(&self) {
        let _reserved = self.reservation.lock();
        let (dmabuf, mappings) = {
            let mut state = self.state.lock();
            state.revoked = true;
            let Some((dmabuf, mappings)) = &state.dmabuf else {
                return;
            };
            (dmabuf.as_ptr(), mappings.clone())
        };
        // SAFETY: By the type invariant the dma-buf is alive as long as the lock is held. The two tables differ in the
        // kernel mapping only, which is looked up under the same lock.
        unsafe { (*dmabuf).ops = Operations::<E>::table(false) };
        // They are emptied before an importer notifies anybody that the memory is gone.
        mappings.empty();
        // SAFETY: By the type invariant the dma-buf is alive as long as the lock is held, which the invalidation
        // requires.
        unsafe { raw::dma_buf_invalidate_mappings(dmabuf) };
    }

    /// Waits for importers that can let go, after [`Self::close`]. Host pages stay as long as somebody has them, so the
    /// wait for them is `limit_ms` at most. A device's memory does not stay, so the wait lasts until all importers have
    /// let go; only importers that do so in bounded time have it. May sleep.
    pub(crate) fn wait_let_go(&self, limit_ms: u32) {
        let end = Instant::<Monotonic>::now() + Delta::from_millis(limit_ms.into());
        let mut state = self.state.lock();
        if state.tables.is_empty() {
            return;
        }
        drop(state);
        if self.device {
            {
                // Nobody adds fences meanwhile, which would prolong the wait. None may wait for this lock.
                let _reserved = self.reservation.lock();
                // SAFETY: The reservation lock is ours and initialised.
                unsafe { raw::dmaplane_resv_wait_all(self.reservation.as_ptr()) };
            }
            state = self.state.lock();
            while !state.tables.is_empty() {
                self.unmapped.wait(&mut state);
            }
            return;
        }
        // Importers may go on until their fences have signalled.
        // SAFETY: The reservation lock is ours and initialised.
        unsafe {
            let _ = raw::dmaplane_resv_wait(self.reservation.as_ptr(), BOOKKEEPING, limit_ms);
        }
        state = self.state.lock();
        while state.tables.iter().any(|mapped| mapped.revocable) {
            let left = end - Instant::now();
            if left.is_negative() || left.is_zero() {
                break;
            }
            let left_ms = u32::try_from(left.as_millis_ceil()).unwrap_or(limit_ms);
            let slept = self
                .unmapped
                .wait_interruptible_timeout(&mut state, msecs_to_jiffies(left_ms));
            if let CondVarTimeoutResult::Signal { .. } = slept {
                if is_killed() {
                    break;
                }
                // A signal must not decide whether the memory is free. While one is pending, the wait would return at
                // once, so poll.
                drop(state);
                sleep_killable(SIGNALLED_POLL_MS);
                state = self.state.lock();
            }
        }
    }

    /// Whether others may write through it.
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// `ENODEV` once it is revoked.
    pub(super) fn check_live(&self) -> Result {
        match self.state.lock().revoked {
            true => Err(ENODEV),
            false => Ok(()),
        }
    }

    /// Handles the release of the dma-buf: the last reference is gone.
    pub(super) fn released(&self) {
        let gone = {
            // A revocation may be using the dma-buf.
            let _reserved = self.reservation.lock();
            self.state.lock().dmabuf.take()
        };
        drop(gone);
        self.what.released();
    }

    /// Records that the mapping of [`Self::vmap`] has ended.
    pub(super) fn vunmapped(&self) {
        self.state.lock().vmapped = false;
    }

    /// Runs `sync` on every table.
    pub(super) fn each_table(&self, sync: impl Fn(&Table)) -> Result {
        let state = self.state.lock();
        if state.revoked {
            return Err(ENODEV);
        }
        for mapped in state.tables.iter() {
            // A device's memory is not in any cache.
            if let Addresses::Host(table) = &mapped.table {
                sync(table);
            }
        }
        Ok(())
    }

    fn may_write(&self, direction: Direction) -> bool {
        self.writable || direction == DataDirection::ToDevice.into()
    }

    /// Maps the memory for an importer's device. For a device's memory, `EOPNOTSUPP` if the importer does not let go on
    /// an invalidation, or its device does not reach the memory.
    ///
    /// # Safety
    ///
    /// The attachment is one to this export's dma-buf, whose reservation lock is held.
    pub(super) unsafe fn map(
        &self,
        attachment: NonNull<raw::dma_buf_attachment>,
        direction: Direction,
    ) -> Result<*mut bindings::sg_table> {
        let raw_attachment = attachment.as_ptr();
        // SAFETY: The caller's attachment is alive.
        let (device, peer, revocable) = unsafe {
            (
                (*raw_attachment).dev,
                (*raw_attachment).peer2peer,
                raw::dma_buf_attach_revocable(raw_attachment),
            )
        };
        if !self.may_write(direction) {
            return Err(EACCES);
        }
        if self.device && !(revocable && peer) {
            return Err(EOPNOTSUPP);
        }
        {
            let mut state = self.state.lock();
            if state.revoked {
                return Err(ENODEV);
            }
            // Others that map wait for the reservation lock, so nobody takes the room.
            state.tables.reserve(1, GFP_CHARGED)?;
        }
        self.what.mapping();
        let (shown, first, count) = self.what.shown();
        let table = match &shown {
            Shown::Host(_) => {
                let range = shown.row(first, count)?;
                let device = NonNull::new(device).ok_or(EINVAL)?;
                // SAFETY: `attach` saw that the device can do DMA. An importer keeps its device until it has unmapped, and
                // `what` keeps the pages.
                Addresses::Host(unsafe { Table::new(range, device, direction) }?)
            }
            Shown::Device(io, _) => {
                let io = io.part(first, count).ok_or(EINVAL)?;
                let provider = io.provider().ok_or(EOPNOTSUPP)?;
                let start = (io.pfn() * PAGE_BYTES) as u64;
                // SAFETY: The lock is held, so the memory is not revoked: its device is bound, and the provider exists.
                // The end of the device waits until the table is unmapped.
                let table = from_err_ptr(unsafe {
                    raw::dmaplane_p2p_map(
                        raw_attachment,
                        provider.as_ptr(),
                        start,
                        count * PAGE_BYTES,
                        direction,
                    )
                })?;
                Addresses::Device(NonNull::new(table).ok_or(ENOMEM)?)
            }
        };
        let result = table.as_ptr();
        let mapped = MappedTable { table, revocable };
        // There is room: it was reserved above.
        let _ = self.state.lock().tables.push_within_capacity(mapped);
        Ok(result)
    }

    /// Unmaps a table that an importer returns.
    ///
    /// # Safety
    ///
    /// The attachment is one to this export's dma-buf, whose reservation lock is held, and the table was mapped through it
    /// for this direction.
    pub(super) unsafe fn unmap(
        &self,
        attachment: *mut raw::dma_buf_attachment,
        table: *mut bindings::sg_table,
        direction: Direction,
    ) {
        let gone = {
            let mut state = self.state.lock();
            let tables = &mut state.tables;
            let at = tables
                .iter()
                .position(|mapped| mapped.table.as_ptr() == table);
            if let Some(Addresses::Device(table)) =
                at.and_then(|at| tables.get(at)).map(|mapped| &mapped.table)
            {
                // Before a revocation sees that it is gone.
                // SAFETY: The caller's, made by `map()`, and unmapped once.
                unsafe { raw::dmaplane_p2p_unmap(attachment, table.as_ptr(), direction) };
            }
            at.and_then(|at| tables.remove(at).ok())
        };
        // Dropped after the lock, for which the CPU access of another importer may be waiting.
        drop(gone);
        self.unmapped.notify_all();
    }

    /// Maps the pages into the kernel.
    pub(super) fn vmap(&self) -> Result<*mut c_void> {
        let (shown, first, count) = self.what.shown();
        let range = shown.row(first, count)?;
        let count = u32::try_from(count).map_err(|_| E2BIG)?;
        // SAFETY: The pages are alive as long as the mapping, which the dma-buf ends before it is released. The callee only
        // reads the array.
        let start = unsafe { raw::dmaplane_vmap(range.as_ptr().cast_mut().cast(), count) };
        if start.is_null() {
            return Err(ENOMEM);
        }
        self.state.lock().vmapped = true;
        Ok(start)
    }
}
