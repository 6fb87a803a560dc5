// SPDX-License-Identifier: GPL-2.0-only

//! Memory of other drivers, imported through their dma-bufs.
//!
//! Would become part of `kernel::dma_buf`.
//!
//! The attachment is pinned, so that the exporter does not move the memory, and revocable: an invalidation ends it. It
//! is in the name of a device of the driver's own, which never does DMA: processors access the memory, and the RDMA
//! devices that map its pages. The pages are found through the exporter's kernel mapping, never through its scatter
//! list, whose pages are the exporter's own business; the exporter keeps them in place as long as the mapping exists.
//! The driver's own exports are asked for their pages instead (`view.rs`).

use super::{
    device::Importing,
    raw,
    view::{is_own, own_memory, View},
    DmaBuf, Reserved,
};
use crate::kx::charged::GFP_CHARGED;
use crate::kx::{
    bar::IoRange,
    pages::{PageOwner, Pages, PAGE_BYTES},
    vma::accept,
};
use core::{cell::Cell, ptr::NonNull};
use kernel::{
    bindings::{self, dma_data_direction as Direction},
    dma::DataDirection,
    error::{from_err_ptr, to_result},
    impl_has_work,
    mm::virt::{flags, VmaNew},
    new_work,
    prelude::*,
    sync::Arc,
    workqueue::{Work, WorkItem},
};

/// Longest wait for other devices to finish with the memory, in milliseconds.
const FENCES_MS: u32 = 1000;

/// The user of an import, who is notified when the exporter revokes the memory.
pub(crate) trait Importer: Send + Sync + 'static {
    /// The exporter revokes the memory: when this returns, nobody reaches it any more. Called once at most, with the
    /// reservation lock held; may sleep, for a bounded time.
    fn invalidated(&self);
}

/// Why the kernel has no pages of a dma-buf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The exporter gives no kernel mapping.
    Mapping,
    /// The mapping is one of device registers, which have accessors of their own.
    Io,
    /// There are no pages behind the mapping.
    Pages,
}

/// What is held of the exporter. The reservation lock protects it. Exporters may call back while they are called, so
/// nothing is borrowed meanwhile.
#[derive(Default)]
struct Holding {
    attachment: Cell<Option<NonNull<raw::dma_buf_attachment>>>,
    pinned: Cell<bool>,
    mapping: Cell<Option<bindings::iosys_map>>,
    invalidated: Cell<bool>,
}

/// An attachment to a dma-buf. A work item of its own gives it up: that takes the reservation lock, whose holder may be
/// waiting for the thread that drops the last reference.
///
/// # Invariants
///
/// The attachment in `holding` is alive and has this as its private data, and what is pinned and mapped is so through it.
#[pin_data]
pub(crate) struct Import<I: Importer> {
    #[pin]
    work: Work<Import<I>>,
    holding: Holding,
    importer: I,
    dmabuf: DmaBuf,
}

impl_has_work! {
    impl{I: Importer} HasWork<Self> for Import<I> { self.work }
}

// SAFETY: `holding` is only touched with the reservation lock held; the rest may be used from any thread.
unsafe impl<I: Importer> Send for Import<I> {}
// SAFETY: `holding` is only touched with the reservation lock held; the rest may be used from any thread.
unsafe impl<I: Importer> Sync for Import<I> {}

impl<I: Importer> Import<I> {
    /// Attaches to a dma-buf. `ENODEV` when it is being revoked, `ETIMEDOUT` when other devices use it for too long,
    /// otherwise the exporter's error. Dropping the owner gives it up.
    pub(crate) fn attach(dmabuf: DmaBuf, importer: I) -> Result<Owned<I>> {
        let owned = Owned(Arc::pin_init(
            pin_init!(Self {
                work <- new_work!("Import::work"),
                holding: Holding::default(),
                importer,
                dmabuf,
            }),
            GFP_CHARGED,
        )?);
        let this = owned.import();
        let private: *const Self = &**this;
        // SAFETY: The dma-buf and the device are alive, the callbacks static; the private data lives until the attachment
        // has been detached, by its work item.
        let attachment = from_err_ptr(unsafe {
            raw::dma_buf_dynamic_attach(
                this.dmabuf.0.as_ptr(),
                Importing::device()?.as_ptr(),
                const { &Self::OPERATIONS },
                private.cast_mut().cast(),
            )
        })?;
        let reserved = this.dmabuf.reserve();
        // INVARIANT: Attached above.
        this.holding.attachment.set(NonNull::new(attachment));
        this.fill(&reserved)?;
        drop(reserved);
        this.prime();
        Ok(owned)
    }

    /// Begins and ends an access in both directions, for exporters that map in the direction of the first access and
    /// synchronise in that of the next, as udmabuf does. Left out while other devices use the memory, because it would
    /// wait.
    fn prime(&self) {
        let dmabuf = self.dmabuf.0.as_ptr();
        let both = DataDirection::Bidirectional.into();
        // SAFETY: The dma-buf is alive, its lock not held, and an access ends that has begun.
        unsafe {
            let quiet = raw::dmaplane_resv_wait((*dmabuf).resv, Fences::Read as u32, 0) > 0;
            if quiet && raw::dmaplane_begin_cpu_access(dmabuf, both) == 0 {
                raw::dma_buf_end_cpu_access(dmabuf, both);
            }
        }
    }

    /// Pins and maps.
    fn fill(&self, _lock: &Reserved<'_>) -> Result {
        let attachment = self.holding.attachment.get().ok_or(ENODEV)?;
        // Nothing is made yet, so the system call may restart.
        let waited = self.wait(Fences::Kernel);
        waited.map_err(|error| if error == EINTR { ERESTARTSYS } else { error })?;
        // SAFETY: The attachment is alive and dynamic, and the lock is held.
        to_result(unsafe { raw::dma_buf_pin(attachment.as_ptr()) })?;
        self.holding.pinned.set(true);
        if is_own(&self.dmabuf) {
            return Ok(());
        }
        let mut mapping = bindings::iosys_map::default();
        // SAFETY: The dma-buf is alive, pinned, and its lock held. Without the callback there is no mapping.
        let mapped = unsafe { raw::dma_buf_vmap(self.dmabuf.0.as_ptr(), &mut mapping) };
        if mapped == 0 {
            self.holding.mapping.set(Some(mapping));
        }
        Ok(())
    }

    /// Gives up what is held, except the attachment itself. The caller holds the reservation lock.
    fn empty(&self) {
        if let Some(mut mapping) = self.holding.mapping.take() {
            // SAFETY: Mapped by `fill()`, ended once; the lock is held.
            unsafe { raw::dma_buf_vunmap(self.dmabuf.0.as_ptr(), &mut mapping) };
        }
        let attachment = self.holding.attachment.get();
        if let Some(attachment) = attachment.filter(|_| self.holding.pinned.take()) {
            // SAFETY: Pinned by `fill()`, ended once; the lock is held.
            unsafe { raw::dma_buf_unpin(attachment.as_ptr()) };
        }
    }

    const OPERATIONS: raw::dma_buf_attach_ops = raw::dma_buf_attach_ops {
        // Nothing is ever mapped for the device, so that it does not matter where the memory is.
        allow_peer2peer: true,
        invalidate_mappings: Some(Self::invalidate),
    };

    /// # Safety
    ///
    /// Called by an exporter with an attachment that [`Self::attach`] made, with the reservation lock held.
    unsafe extern "C" fn invalidate(attachment: *mut raw::dma_buf_attachment) {
        // SAFETY: The private data is the import, which lives until the attachment is detached.
        let this = unsafe { &*(*attachment).importer_priv.cast::<Self>() };
        // A move before the memory is pinned, for example in order to pin it, is no revocation.
        if this.holding.pinned.get() && !this.holding.invalidated.replace(true) {
            this.importer.invalidated();
            this.empty();
        }
    }

    /// The dma-buf.
    pub(crate) fn dmabuf(&self) -> &DmaBuf {
        &self.dmabuf
    }

    /// Whether it may be written: its file may have been opened for reading only.
    pub(crate) fn is_writable(&self) -> bool {
        // SAFETY: The dma-buf is alive, and the mode of its file constant.
        unsafe { raw::dmaplane_dma_buf_is_writable(self.dmabuf.0.as_ptr()) }
    }

    /// Waits until an exporter that revokes the memory has notified everybody. The caller does not hold the reservation
    /// lock.
    pub(crate) fn settle(&self) {
        drop(self.dmabuf.reserve());
    }

    /// Whether processes can map it.
    pub(crate) fn is_mappable(&self) -> bool {
        // SAFETY: The dma-buf and its table of callbacks are alive.
        unsafe { (*(*self.dmabuf.0.as_ptr()).ops).mmap.is_some() }
    }

    /// The memory, if it is one of the driver's own exports. [`Importer::invalidated`] ends all use of it.
    fn view(&self) -> Result<Option<View>> {
        let _reserved = self.dmabuf.reserve();
        // What is pinned is not invalidated yet.
        match self.holding.pinned.get() {
            true => own_memory(&self.dmabuf),
            false => Ok(None),
        }
    }

    /// Its pages, found through the kernel mapping. [`Importer::invalidated`] ends all use of them.
    fn row(&self) -> Result<KVVec<NonNull<bindings::page>>, Lacking> {
        let _reserved = self.dmabuf.reserve();
        let mapping = self.holding.mapping.get().ok_or(Lack::Mapping)?;
        if mapping.is_iomem {
            return Err(Lack::Io.into());
        }
        // SAFETY: A mapping that is not of device registers has an address.
        let start = unsafe { mapping.__bindgen_anon_1.vaddr };
        // An exporter may lend a part of a page. The rest of it must not be exposed.
        if start.addr() % PAGE_BYTES != 0 {
            return Err(Lack::Pages.into());
        }
        let count = self.dmabuf.bytes() as usize / PAGE_BYTES;
        let mut row = KVVec::with_capacity(count, GFP_CHARGED)?;
        for index in 0..count {
            // SAFETY: The mapping reaches as far as the dma-buf.
            let page = unsafe {
                raw::dmaplane_kernel_page(start.cast::<u8>().add(index * PAGE_BYTES).cast())
            };
            row.push(NonNull::new(page).ok_or(Lack::Pages)?, GFP_CHARGED)?;
        }
        Ok(row)
    }

    /// Waits for other devices. `ETIMEDOUT` after a second, `EINTR` when the thread is killed.
    fn wait(&self, fences: Fences) -> Result {
        // SAFETY: The dma-buf is alive.
        let left = unsafe {
            raw::dmaplane_resv_wait((*self.dmabuf.0.as_ptr()).resv, fences as u32, FENCES_MS)
        };
        match left {
            0 => Err(ETIMEDOUT),
            1.. => Ok(()),
            _ => Err(EINTR),
        }
    }

    /// Whether other devices have finished with it, as in [`Self::wait_fences`]. Any context.
    pub(crate) fn is_quiet(&self, write: bool) -> bool {
        let fences = if write { Fences::Read } else { Fences::Write };
        // SAFETY: The dma-buf is alive; looking at its fences takes no lock.
        unsafe { raw::dmaplane_resv_is_quiet((*self.dmabuf.0.as_ptr()).resv, fences as u32) }
    }

    /// Waits for other devices that write it and, if it is to be written, for those that read it.
    pub(crate) fn wait_fences(&self, write: bool) -> Result {
        self.wait(if write { Fences::Read } else { Fences::Write })
    }

    /// Begins a CPU access. `ETIMEDOUT` when other devices use the memory for too long, `EINTR` when the thread is killed,
    /// otherwise the exporter's error. May take the reservation lock.
    pub(crate) fn access(self: &Arc<Self>, write: bool) -> Result<Access<I>> {
        self.wait_fences(write)?;
        let direction = if write {
            DataDirection::Bidirectional
        } else {
            DataDirection::FromDevice
        };
        let direction = Direction::from(direction);
        // SAFETY: The dma-buf is alive, and its lock not held.
        let begun = unsafe { raw::dmaplane_begin_cpu_access(self.dmabuf.0.as_ptr(), direction) };
        // A restart of the system call would repeat all of it.
        to_result(begun).map_err(|error| if error == ERESTARTSYS { EINTR } else { error })?;
        Ok(Access {
            import: self.clone(),
            direction,
        })
    }

    /// Has the exporter map it into a process. Accepts only shared mappings, as for the driver's own memory, and no
    /// writable ones of memory that must not be written (`EACCES`): the framework leaves that check to its caller.
    pub(crate) fn map(&self, vma: &VmaNew, start: u64) -> Result {
        let first = usize::try_from(start).map_err(|_| EINVAL)? / PAGE_BYTES;
        if !self.is_writable() && vma.flags() & flags::WRITE != 0 {
            return Err(EACCES);
        }
        accept(vma)?;
        if !self.is_writable() {
            // SAFETY: A new VMA is exclusively ours during mmap(2).
            unsafe { raw::dmaplane_vma_never_written(vma.as_ptr()) };
        }
        // SAFETY: A new VMA is exclusively ours during mmap(2). The dma-buf is alive, and becomes the VMA's file.
        to_result(unsafe { raw::dma_buf_mmap(self.dmabuf.0.as_ptr(), vma.as_ptr(), first) })
    }
}

/// Kinds of use by others, as in `enum dma_resv_usage`.
#[derive(Clone, Copy)]
enum Fences {
    /// The kernel moves or clears it.
    Kernel = 0,
    /// Devices write it.
    Write = 1,
    /// Devices read or write it.
    Read = 2,
}

impl<I: Importer> WorkItem for Import<I> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let attachment = {
            let _reserved = this.dmabuf.reserve();
            this.empty();
            this.holding.attachment.take()
        };
        if let Some(attachment) = attachment {
            // SAFETY: Attached by `attach()`, detached once; the lock is not held. No callback comes afterwards.
            unsafe { raw::dma_buf_detach(this.dmabuf.0.as_ptr(), attachment.as_ptr()) };
        }
    }
}

/// The only owner of an import. Dropping it gives the import up, and never sleeps.
pub(crate) struct Owned<I: Importer>(Arc<Import<I>>);

impl<I: Importer> Owned<I> {
    /// The import.
    pub(crate) fn import(&self) -> &Arc<Import<I>> {
        &self.0
    }

    /// Turns it into its memory, which owns the import from here on.
    pub(crate) fn into_memory(self) -> Result<Lent> {
        let (io, row, lack) = match self.0.view()? {
            Some(View { io, row }) => {
                let lack = row.is_none().then_some(Lack::Pages);
                (io, row.unwrap_or(KVVec::new()), lack)
            }
            None => match self.0.row() {
                Ok(row) => (None, row, None),
                Err(Lacking::Of(lack)) => (None, KVVec::new(), Some(lack)),
                Err(Lacking::Memory) => return Err(ENOMEM),
            },
        };
        let owner: KBox<dyn PageOwner> = KBox::new(self, GFP_CHARGED)?;
        // SAFETY: The kernel maps each page, as the exporter's mapping shows, or the page is memory of the driver's
        // own. The pages stay until the attachment is given up or invalidated, and all use of them ends before that.
        let pages = unsafe { Pages::foreign(row, owner) };
        Ok(Lent { pages, io, lack })
    }
}

/// The memory of an import.
pub(crate) struct Lent {
    /// Its pages, which own the import; empty if there are none.
    pub(crate) pages: Pages,
    /// How the CPU reaches it, if not by pages.
    pub(crate) io: Option<IoRange>,
    /// Why there are no pages.
    pub(crate) lack: Option<Lack>,
}

impl<I: Importer> PageOwner for Owned<I> {}

impl<I: Importer> Drop for Owned<I> {
    fn drop(&mut self) {
        Importing::run(self.0.clone());
    }
}

/// Why there is no row of pages.
enum Lacking {
    Of(Lack),
    Memory,
}

impl From<Lack> for Lacking {
    fn from(lack: Lack) -> Self {
        Lacking::Of(lack)
    }
}

impl From<kernel::alloc::AllocError> for Lacking {
    fn from(_: kernel::alloc::AllocError) -> Self {
        Lacking::Memory
    }
}

/// A CPU access, from its begin to its end.
pub(crate) struct Access<I: Importer> {
    import: Arc<Import<I>>,
    direction: Direction,
}

impl<I: Importer> Drop for Access<I> {
    fn drop(&mut self) {
        let dmabuf = self.import.dmabuf.0.as_ptr();
        // SAFETY: The dma-buf is alive, its lock not held, and the access has begun. An exporter that fails here has
        // revoked the memory.
        let _ = unsafe { raw::dma_buf_end_cpu_access(dmabuf, self.direction) };
    }
}
