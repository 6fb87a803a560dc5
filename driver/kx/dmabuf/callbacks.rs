// SPDX-License-Identifier: GPL-2.0-only

//! The exporter's callbacks, which the dma-buf framework calls.
//!
//! Would become part of `kernel::dma_buf`.

use super::{
    export::{Export, Exported},
    raw,
    table::Table,
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings::{self, dma_data_direction as Direction},
    ffi::c_int,
    mm::virt::{flags, VmaNew},
    prelude::*,
    sync::Arc,
};

/// The callbacks of exports of `E`. Each is called by the framework with a dma-buf that [`Export::new`] made, whose private
/// data is a reference to its export until `release` has run.
pub(super) struct Operations<E: Exported>(PhantomData<E>);

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
    /// when that callback fails, but not when it is absent.
    pub(super) fn table(vmap: bool) -> *const raw::dma_buf_ops {
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
        // SAFETY: Its private data is a reference to its export until the release, and callbacks end before that.
        unsafe { &*(*dmabuf).priv_.cast::<Export<E>>() }
    }

    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn attach(
        _dmabuf: *mut raw::dma_buf,
        attachment: *mut raw::dma_buf_attachment,
    ) -> c_int {
        // SAFETY: The framework passes an attachment that is being made and names a device.
        let mask = unsafe { (*(*attachment).dev).dma_mask };
        // Importers that may not have the addresses are refused when they map: some leak references when they are
        // refused here.
        if mask.is_null() {
            return EOPNOTSUPP.to_errno();
        }
        0
    }

    /// Pins nothing, because the pages never move. Refuses a revoked export.
    ///
    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn pin(attachment: *mut raw::dma_buf_attachment) -> c_int {
        // SAFETY: The attachment is alive, and its dma-buf one of ours.
        let export = unsafe { Self::export((*attachment).dmabuf) };
        errno(export.check_live())
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
        let mapped = NonNull::new(attachment)
            .ok_or(EINVAL)
            .and_then(|attachment| unsafe {
                Self::export((*attachment.as_ptr()).dmabuf).map(attachment, direction)
            });
        mapped.unwrap_or_else(Error::to_ptr)
    }

    /// # Safety
    ///
    /// Called by the framework, see the type, with the reservation lock held and a table of `map_dma_buf`.
    unsafe extern "C" fn unmap_dma_buf(
        attachment: *mut raw::dma_buf_attachment,
        table: *mut bindings::sg_table,
        direction: Direction,
    ) {
        // SAFETY: The attachment is alive, and its dma-buf one of ours. The framework passes on what the importer gave
        // it.
        unsafe { Self::export((*attachment).dmabuf).unmap(attachment, table, direction) };
    }

    /// # Safety
    ///
    /// Called by the framework, see the type. Nothing else is called afterwards.
    unsafe extern "C" fn release(dmabuf: *mut raw::dma_buf) {
        // SAFETY: The private data is from `Arc::into_raw()`, and this is the only time that it is taken back.
        let export = unsafe { Arc::from_raw((*dmabuf).priv_.cast::<Export<E>>()) };
        export.released();
    }

    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn begin_cpu_access(
        dmabuf: *mut raw::dma_buf,
        _direction: Direction,
    ) -> c_int {
        // SAFETY: The framework passes a dma-buf that is one of ours and not released.
        let export = unsafe { Self::export(dmabuf) };
        errno(export.each_table(Table::sync_for_cpu))
    }

    /// # Safety
    ///
    /// Called by the framework, see the type.
    unsafe extern "C" fn end_cpu_access(dmabuf: *mut raw::dma_buf, _direction: Direction) -> c_int {
        // SAFETY: The framework passes a dma-buf that is one of ours and not released.
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
        // SAFETY: The framework passes a dma-buf that is one of ours and not released, and a VMA in its initial setup.
        let (export, new) = unsafe { (Self::export(dmabuf), VmaNew::from_raw(vma)) };
        if !export.is_writable() {
            // The framework does not check this: other drivers map it through files of their own, which may be
            // writable.
            if new.flags() & flags::WRITE != 0 {
                return EACCES.to_errno();
            }
            // SAFETY: The VMA is in its initial setup.
            unsafe { raw::dmaplane_vma_never_written(vma) };
        }
        errno(export.check_live().and_then(|()| export.what().map(new)))
    }

    /// # Safety
    ///
    /// Called by the framework, see the type, with the reservation lock held.
    unsafe extern "C" fn vmap(dmabuf: *mut raw::dma_buf, map: *mut bindings::iosys_map) -> c_int {
        // SAFETY: The framework passes a dma-buf that is one of ours and not released.
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
        // SAFETY: The framework passes a dma-buf that is one of ours and not released. The mapping is one of `vmap`'s,
        // and it is ended once.
        let export = unsafe {
            raw::dmaplane_vunmap(map);
            Self::export(dmabuf)
        };
        export.vunmapped();
    }
}

/// Converts a result to what C returns.
fn errno(result: Result) -> c_int {
    result.map_or_else(Error::to_errno, |()| 0)
}
