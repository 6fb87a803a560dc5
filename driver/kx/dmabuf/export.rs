// SPDX-License-Identifier: GPL-2.0-only

//! Pages that other drivers reach through a dma-buf.

use super::{raw, table::Table, DmaBuf};
use crate::kx::{pages::Pages, pages::PAGE_BYTES};
use core::{marker::PhantomData, ptr, ptr::NonNull};
use kernel::{
    bindings::{self, dma_data_direction as Direction},
    ffi::{c_int, c_void},
    mm::virt::VmaNew,
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, CondVarTimeoutResult, Mutex},
    time::{msecs_to_jiffies, Delta, Instant, Monotonic},
};

/// What a dma-buf is made of. It lives until the last reference to the dma-buf is gone.
pub(crate) trait Exported: Send + Sync + Sized + 'static {
    /// The pages, and which of them: the first one and how many.
    fn pages(&self) -> Result<(&Pages, usize, usize)>;
    /// Whether every importer must be able to let go when it is told to.
    fn only_revocable(&self) -> bool;
    /// A device is about to get its addresses.
    fn mapping(&self);
    /// Maps into a process, from the offset on that the VMA has. Runs under the process's mmap lock.
    fn map(self: &Arc<Self>, vma: &VmaNew) -> Result;
    /// The last reference to the dma-buf is gone. May sleep.
    fn released(&self);
}

/// `DMA_RESV_USAGE_BOOKKEEP`: everything that importers do.
const BOOKKEEPING: u32 = 3;

/// The exporter's side of a dma-buf.
///
/// Lock: `state`, inside the reservation lock. It is held while tables are synchronised, so that none of them goes
/// meanwhile.
///
/// # Invariants
///
/// `State::dmabuf` is the dma-buf whose private data this is, from its making until its release.
#[pin_data]
pub(crate) struct Export<E: Exported> {
    #[pin]
    state: Mutex<State>,
    #[pin]
    unmapped: CondVar,
    writable: bool,
    what: Arc<E>,
}

struct State {
    dmabuf: Option<NonNull<raw::dma_buf>>,
    tables: KVec<Mapped>,
    vmapped: bool,
    revoked: bool,
}

// SAFETY: The pointer is only used as the type's invariant allows, from any thread.
unsafe impl Send for State {}

/// A table that an importer has.
struct Mapped {
    table: KBox<Table>,
    revocable: bool,
}

impl<E: Exported> Export<E> {
    /// Makes a dma-buf of pages. Importers write only when it is `writable`.
    pub(crate) fn new(what: Arc<E>, writable: bool) -> Result<(Arc<Self>, DmaBuf)> {
        let (_, _, count) = what.pages()?;
        let export = Arc::pin_init(
            pin_init!(Self {
                state <- new_mutex!(State {
                    dmabuf: None,
                    tables: KVec::new(),
                    vmapped: false,
                    revoked: false,
                }, "Export::state"),
                unmapped <- new_condvar!("Export::unmapped"),
                writable,
                what,
            }),
            GFP_KERNEL,
        )?;
        let flags = if writable {
            bindings::O_RDWR
        } else {
            bindings::O_RDONLY
        };
        let info = raw::dma_buf_export_info {
            exp_name: c"dmaplane".as_char_ptr(),
            owner: kernel::module::this_module::<crate::LocalModule>().as_ptr(),
            ops: Operations::<E>::table(writable),
            size: count * PAGE_BYTES,
            flags: flags as c_int,
            resv: ptr::null_mut(),
            priv_: Arc::into_raw(export.clone()).cast_mut().cast(),
        };
        // SAFETY: The table is static, and the private data is what it expects: a reference that `release` gives back. The
        // module is pinned until then.
        let made = DmaBuf::adopt(unsafe { raw::dma_buf_export(&info) }).inspect_err(|_| {
            // SAFETY: The reference was not taken over.
            drop(unsafe { Arc::from_raw(info.priv_.cast::<Self>()) });
        })?;
        // INVARIANT: Its private data is this export.
        export.state.lock().dmabuf = Some(made.0);
        Ok((export, made))
    }

    /// What it is made of.
    pub(crate) fn what(&self) -> &Arc<E> {
        &self.what
    }

    /// Whether an importer's device, or a kernel mapping of an importer's, reaches the pages.
    pub(crate) fn is_held(&self) -> bool {
        let state = self.state.lock();
        state.vmapped || !state.tables.is_empty()
    }

    /// A reference to the dma-buf, unless its last one is gone already.
    fn dmabuf(&self) -> Option<DmaBuf> {
        let state = self.state.lock();
        let dmabuf = state.dmabuf?;
        // SAFETY: By the type invariant the dma-buf has not been released, and cannot be as long as the lock is held.
        let file = unsafe { bindings::get_file_active(&mut (*dmabuf.as_ptr()).file) };
        // INVARIANT: A successful get gave a reference.
        NonNull::new(file).map(|_| DmaBuf(dmabuf))
    }

    /// Refuses every new use, takes the pages out of every process, tells the importers to let go, and waits for those that
    /// can, at most so long. May sleep.
    pub(crate) fn revoke(&self, limit_ms: u32) {
        let Some(dmabuf) = self.dmabuf() else {
            return;
        };
        let end = Instant::<Monotonic>::now() + Delta::from_millis(limit_ms.into());
        let raw_dmabuf = dmabuf.0.as_ptr();
        {
            let _reserved = dmabuf.reserve();
            self.state.lock().revoked = true;
            // SAFETY: The dma-buf is alive. Both tables differ in the kernel mapping only, which is looked up under the
            // reservation lock, held here, as it has to be for the invalidation. Its file's mapping has the VMAs of this
            // dma-buf alone, all of which are meant; they go before an importer tells anybody that the memory is gone.
            unsafe {
                (*raw_dmabuf).ops = Operations::<E>::table(false);
                bindings::unmap_mapping_range((*(*raw_dmabuf).file).f_mapping, 0, 0, 1);
                raw::dma_buf_invalidate_mappings(raw_dmabuf);
            }
        }
        let mut state = self.state.lock();
        if state.tables.is_empty() {
            return;
        }
        drop(state);
        // Importers may go on until their fences have signalled.
        // SAFETY: The dma-buf is alive.
        unsafe {
            let _ = raw::dmaplane_resv_wait((*raw_dmabuf).resv, BOOKKEEPING, limit_ms);
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
                break;
            }
        }
    }

    /// Runs `sync` on every table.
    fn each_table(&self, sync: impl Fn(&Table)) -> Result {
        let state = self.state.lock();
        if state.revoked {
            return Err(ENODEV);
        }
        state.tables.iter().for_each(|mapped| sync(&mapped.table));
        Ok(())
    }

    fn may_write(&self, direction: Direction) -> bool {
        self.writable || direction == Direction::DMA_TO_DEVICE
    }

    /// Maps the pages for an importer's device.
    fn map(
        &self,
        device: *mut bindings::device,
        revocable: bool,
        direction: Direction,
    ) -> Result<*mut bindings::sg_table> {
        if !self.may_write(direction) {
            return Err(EACCES);
        }
        if self.state.lock().revoked {
            return Err(ENODEV);
        }
        self.what.mapping();
        let (pages, first, count) = self.what.pages()?;
        let range = pages.as_slice().get(first..first + count).ok_or(EINVAL)?;
        let device = NonNull::new(device).ok_or(EINVAL)?;
        // SAFETY: `attach` saw that the device can do DMA. An importer keeps its device until it has unmapped, and
        // `what` keeps the pages.
        let table = unsafe { Table::new(range, device, direction) }?;
        let result = table.as_ptr();
        let mut state = self.state.lock();
        state.tables.push(Mapped { table, revocable }, GFP_KERNEL)?;
        Ok(result)
    }

    /// Takes a table back.
    fn unmap(&self, table: *mut bindings::sg_table) {
        let gone = {
            let mut state = self.state.lock();
            let tables = &mut state.tables;
            let at = tables
                .iter()
                .position(|mapped| mapped.table.as_ptr() == table);
            at.and_then(|at| tables.remove(at).ok())
        };
        // After the lock, which the next importer's processor access may be waiting for.
        drop(gone);
        self.unmapped.notify_all();
    }

    /// Maps the pages into the kernel.
    fn vmap(&self) -> Result<*mut c_void> {
        let (pages, first, count) = self.what.pages()?;
        let range = pages.as_slice().get(first..first + count).ok_or(EINVAL)?;
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

/// The callbacks of exports of `E`. Each is called by the framework with a dma-buf that [`Export::new`] made, whose private
/// data is a reference to its export until `release` has run.
struct Operations<E: Exported>(PhantomData<E>);

impl<E: Exported> Operations<E> {
    const CLOSED: raw::dma_buf_ops = raw::dma_buf_ops {
        attach: Some(Self::attach),
        detach: None,
        pin: Some(Self::pin),
        unpin: Some(Self::unpin),
        map_dma_buf: Some(Self::map_dma_buf),
        unmap_dma_buf: Some(Self::unmap_dma_buf),
        release: Some(Self::release),
        begin_cpu_access: Some(Self::begin_cpu_access),
        end_cpu_access: Some(Self::end_cpu_access),
        mmap: Some(Self::mmap),
        vmap: None,
        vunmap: Some(Self::vunmap),
    };
    const OPEN: raw::dma_buf_ops = raw::dma_buf_ops {
        vmap: Some(Self::vmap),
        ..Self::CLOSED
    };

    /// The callbacks, with or without a mapping into the kernel, through which anybody could write. The framework warns
    /// when that callback fails, and not when there is none.
    fn table(vmap: bool) -> *const raw::dma_buf_ops {
        if vmap {
            const { &Self::OPEN }
        } else {
            const { &Self::CLOSED }
        }
    }

    /// # Safety
    ///
    /// The dma-buf is one of ours and not released.
    unsafe fn export<'a>(dmabuf: *mut raw::dma_buf) -> &'a Export<E> {
        // SAFETY: Its private data is a reference, see the type. Callbacks end before the release.
        unsafe { &*(*dmabuf).priv_.cast::<Export<E>>() }
    }

    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn attach(
        dmabuf: *mut raw::dma_buf,
        attachment: *mut raw::dma_buf_attachment,
    ) -> c_int {
        // SAFETY: See the type; the attachment is being made and names a device.
        let (export, mask, revocable) = unsafe {
            let export = Self::export(dmabuf);
            let mask = (*(*attachment).dev).dma_mask;
            (export, mask, raw::dma_buf_attach_revocable(attachment))
        };
        // A revoked one is refused when it is mapped: importers that are refused here have lost references before.
        if mask.is_null() || (export.what.only_revocable() && !revocable) {
            return EOPNOTSUPP.to_errno();
        }
        0
    }

    /// The pages never move.
    ///
    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn pin(attachment: *mut raw::dma_buf_attachment) -> c_int {
        // SAFETY: The attachment is alive, and its dma-buf one of ours.
        let export = unsafe { Self::export((*attachment).dmabuf) };
        if export.state.lock().revoked {
            ENODEV.to_errno()
        } else {
            0
        }
    }

    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn unpin(_attachment: *mut raw::dma_buf_attachment) {}

    /// # Safety
    ///
    /// Called by the framework, see the type, with the reservation lock held.
    unsafe extern "C" fn map_dma_buf(
        attachment: *mut raw::dma_buf_attachment,
        direction: Direction,
    ) -> *mut bindings::sg_table {
        // SAFETY: The attachment is alive, and its dma-buf one of ours.
        let (export, device, revocable) = unsafe {
            (
                Self::export((*attachment).dmabuf),
                (*attachment).dev,
                raw::dma_buf_attach_revocable(attachment),
            )
        };
        match export.map(device, revocable, direction) {
            Ok(table) => table,
            Err(error) => error.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// Called by the framework, see the type, with the reservation lock held and a table of `map_dma_buf`.
    unsafe extern "C" fn unmap_dma_buf(
        attachment: *mut raw::dma_buf_attachment,
        table: *mut bindings::sg_table,
        _direction: Direction,
    ) {
        // SAFETY: The attachment is alive, and its dma-buf one of ours.
        unsafe { Self::export((*attachment).dmabuf) }.unmap(table);
    }

    /// # Safety
    ///
    /// Called by the framework, see the type. Nothing else is called afterwards.
    unsafe extern "C" fn release(dmabuf: *mut raw::dma_buf) {
        // SAFETY: The private data is from `Arc::into_raw()`, and this is the only time that it is taken back.
        let export = unsafe { Arc::from_raw((*dmabuf).priv_.cast::<Export<E>>()) };
        // Whoever looks for the dma-buf from here on does not find it.
        export.state.lock().dmabuf = None;
        export.what.released();
    }

    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn begin_cpu_access(
        dmabuf: *mut raw::dma_buf,
        _direction: Direction,
    ) -> c_int {
        // SAFETY: See the type.
        let export = unsafe { Self::export(dmabuf) };
        errno(export.each_table(Table::sync_for_cpu))
    }

    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn end_cpu_access(dmabuf: *mut raw::dma_buf, _direction: Direction) -> c_int {
        // SAFETY: See the type.
        let export = unsafe { Self::export(dmabuf) };
        errno(export.each_table(Table::sync_for_device))
    }

    /// # Safety
    ///
    /// Called by the framework, see the type, for a VMA that mmap(2) is making.
    unsafe extern "C" fn mmap(
        dmabuf: *mut raw::dma_buf,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: See the type; the VMA is in its initial setup.
        let (export, vma) = unsafe { (Self::export(dmabuf), VmaNew::from_raw(vma)) };
        if export.state.lock().revoked {
            return ENODEV.to_errno();
        }
        errno(export.what.map(vma))
    }

    /// # Safety
    ///
    /// Called by the framework, see the type, with the reservation lock held.
    unsafe extern "C" fn vmap(dmabuf: *mut raw::dma_buf, map: *mut bindings::iosys_map) -> c_int {
        // SAFETY: See the type.
        let made = unsafe { Self::export(dmabuf) }.vmap();
        errno(made.map(|start| {
            // SAFETY: The framework gives a place for the result.
            unsafe { raw::dmaplane_iosys_map_set(map, start) };
        }))
    }

    /// # Safety
    ///
    /// Called by the framework, see the type, with the reservation lock held and a mapping of `vmap`.
    unsafe extern "C" fn vunmap(dmabuf: *mut raw::dma_buf, map: *mut bindings::iosys_map) {
        // SAFETY: See the type. The mapping is one of `vmap`'s, and it is ended once.
        let export = unsafe {
            raw::dmaplane_vunmap(map);
            Self::export(dmabuf)
        };
        export.state.lock().vmapped = false;
    }
}

/// A result as C has it.
fn errno(result: Result) -> c_int {
    result.map_or_else(Error::to_errno, |()| 0)
}
