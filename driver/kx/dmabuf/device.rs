// SPDX-License-Identifier: GPL-2.0-only

//! The device in whose name dma-bufs are imported, and the workqueue that gives imports up.
//!
//! Would become part of `kernel::dma_buf`.

use super::{
    import::{Import, Importer},
    raw,
};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering},
};
use kernel::{
    bindings,
    device::{Bound, Device},
    faux,
    prelude::*,
    sync::Arc,
    workqueue::Queue,
};

static DEVICE: AtomicPtr<bindings::device> = AtomicPtr::new(core::ptr::null_mut());
static QUEUE: AtomicPtr<bindings::workqueue_struct> = AtomicPtr::new(core::ptr::null_mut());

/// A device that never does DMA, and a workqueue. Dropping it waits until everything has been given up, and then
/// unregisters the device.
///
/// # Invariants
///
/// `queue` is alive until drop, and both statics are set as long as this lives.
pub(crate) struct Importing {
    queue: NonNull<bindings::workqueue_struct>,
    _device: faux::Registration,
}

// SAFETY: Queues lock themselves.
unsafe impl Send for Importing {}
// SAFETY: Queues lock themselves.
unsafe impl Sync for Importing {}

impl Importing {
    /// Registers the device.
    pub(crate) fn begin() -> Result<Self> {
        let device = faux::Registration::new(c"dmaplane", None)?;
        let raw_device: *mut bindings::device = {
            let faux: &faux::Device<Bound> = device.as_ref();
            let device: &Device<Bound> = faux.as_ref();
            // The C device behind a transparent wrapper, which allows changes through a shared reference.
            core::ptr::from_ref(device).cast_mut().cast()
        };
        // SAFETY: The device is alive and nobody uses it yet.
        unsafe { raw::dmaplane_dma_any_address(raw_device) };
        // SAFETY: The format has no arguments.
        let queue = unsafe {
            bindings::alloc_workqueue_noprof(
                c"dmaplane-imports".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND,
                0,
            )
        };
        let queue = NonNull::new(queue).ok_or(ENOMEM)?;
        DEVICE.store(raw_device, Ordering::Release);
        QUEUE.store(queue.as_ptr(), Ordering::Release);
        Ok(Self {
            queue,
            _device: device,
        })
    }

    /// The device.
    pub(super) fn device() -> Result<NonNull<bindings::device>> {
        NonNull::new(DEVICE.load(Ordering::Acquire)).ok_or(ENODEV)
    }

    /// Queues an import to be given up.
    pub(super) fn run<I: Importer>(import: Arc<Import<I>>) {
        let queue = QUEUE.load(Ordering::Acquire);
        if queue.is_null() {
            return;
        }
        // SAFETY: Imports are made and dropped between `begin()` and the drop of its result, so the queue is alive.
        let queue = unsafe { Queue::from_raw(queue) };
        // It is given up once, so it cannot be queued already.
        let _ = queue.enqueue(import);
    }
}

impl Drop for Importing {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is alive. Queued work runs first, and no more is queued.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
        QUEUE.store(core::ptr::null_mut(), Ordering::Release);
        DEVICE.store(core::ptr::null_mut(), Ordering::Release);
    }
}
