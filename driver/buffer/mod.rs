// SPDX-License-Identifier: GPL-2.0-only

//! Buffers: what handles name, and where their memory is registered.

mod pool;

pub(crate) use pool::Pool;

use crate::{
    channel::{Ticket, TicketKey},
    kx::{charged::GFP_CHARGED, vec::retain},
    memory::{Guard, Memory},
    rdma::{Endpoint, Region},
    uapi,
};
use kernel::{
    fmt, new_mutex,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};

/// What an error of [`Buffer::enter_region`] is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The buffer.
    Buffer,
    /// Its registration.
    Region,
}

/// A handle's view of memory: the memory and where it is registered. Lock: `regions`, held while a region is made, and
/// not while the provider registers it. So a buffer is registered once on each domain, or once for each of several
/// endpoints that begin to use it at the same time.
#[pin_data]
pub(crate) struct Buffer {
    memory: Arc<Memory>,
    /// Whether its handle is gone. Written under the lock of the memory's watches.
    ended: Atomic<u32>,
    /// The pool that it was carved from, and where it begins in it, in bytes.
    pool: Option<(Arc<Pool>, u64)>,
    #[pin]
    regions: Mutex<KVec<Arc<Region>>>,
}

impl Buffer {
    /// A buffer of memory.
    pub(crate) fn new(memory: Arc<Memory>) -> Result<Arc<Self>> {
        Self::of(memory, None)
    }

    /// A buffer of memory that was carved from a pool.
    fn carved(memory: Arc<Memory>, pool: Arc<Pool>, start: u64) -> Result<Arc<Self>> {
        Self::of(memory, Some((pool, start)))
    }

    fn of(memory: Arc<Memory>, pool: Option<(Arc<Pool>, u64)>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                memory,
                ended: Atomic::new(0),
                pool,
                regions <- new_mutex!(KVec::new(), "Buffer::regions"),
            }),
            GFP_CHARGED,
        )
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Writes its line.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        let (policy, node) = memory.placement().report();
        let policy = match policy {
            uapi::PLACE_INTERLEAVE => "interleave",
            uapi::PLACE_NEAR_RDMA => "near-rdma",
            uapi::PLACE_NEAR_PCI => "near-pci",
            uapi::PLACE_PREFERRED => "preferred",
            uapi::PLACE_STRICT => "strict",
            _ => "any",
        };
        write!(
            f,
            "buffer={} bytes={}",
            memory.mark().serial(),
            memory.bytes()
        )?;
        write!(f, " policy={policy} node={node}")?;
        write!(f, " mappings={}", memory.mappings())?;
        memory.show(f)?;
        writeln!(f)
    }

    /// Writes a line for each watch of its memory that names this buffer.
    pub(crate) fn show_watches(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serial = self.memory.mark().serial();
        let watches = self.memory.lifetime().watches();
        watches.show(f, self.key(), serial)
    }

    /// Writes a line for each of its regions; while one is being made, only one line, which says so.
    pub(crate) fn show_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.regions.try_lock() {
            Some(regions) => regions.iter().try_for_each(|region| region.mark().show(f)),
            None => writeln!(
                f,
                "buffer={} state=registering",
                self.memory.mark().serial()
            ),
        }
    }

    /// Domains on which it is registered.
    pub(crate) fn regions(&self) -> usize {
        match &self.pool {
            Some((pool, _)) => pool.buffer().regions(),
            None => self.regions.lock().len(),
        }
    }

    /// Whether it is a part of a pool, with which it is charged.
    pub(crate) fn is_carved(&self) -> bool {
        self.pool.is_some()
    }

    fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Adds a watch. It completes with the memory's revocation, at once if that is over, or when it is canceled or the
    /// buffer is destroyed.
    pub(crate) fn watch(&self, ticket: Ticket) {
        let watches = self.memory.lifetime().watches();
        watches.add(ticket, self.key(), || self.ended.load(Relaxed) != 0);
    }

    /// Cancels its watches, or the first one with a key, and returns how many.
    pub(crate) fn cancel(&self, key: Option<TicketKey>) -> u32 {
        self.memory.lifetime().watches().cancel(self.key(), key)
    }

    /// Ends its watches when its handle is gone: none is added any more.
    pub(crate) fn end(&self) {
        let watches = self.memory.lifetime().watches();
        watches.end_of(self.key(), || self.ended.store(1, Relaxed));
    }

    /// Begins a use of the memory through its region on an endpoint's domain. Returns the guard, the region, and where
    /// the buffer begins in it. The region is made on first use and kept; its registration may still be under way. A
    /// carved buffer uses its pool's region. Errors name whether they are about the buffer. May sleep.
    pub(crate) fn enter_region(
        &self,
        endpoint: &Endpoint,
    ) -> core::result::Result<(Guard, Arc<Region>, u64), (Part, Error)> {
        let of_buffer = |error| (Part::Buffer, error);
        let of_region = |error| (Part::Region, error);
        // Errors of the buffer come first, before anything is tried.
        let guard = self.memory.enter().map_err(of_buffer)?;
        self.memory.pages().map_err(of_buffer)?;
        let Some((pool, start)) = &self.pool else {
            let region = self.region(&guard, endpoint).map_err(of_region)?;
            return Ok((guard, region, 0));
        };
        // Dropped because the registration is the pool's: a revocation of this buffer would have to wait for it without
        // knowing of it.
        drop(guard);
        let pool = pool.buffer();
        let guard = pool.memory.enter().map_err(of_region)?;
        let region = pool.region(&guard, endpoint).map_err(of_region)?;
        drop(guard);
        let guard = self.memory.enter().map_err(of_buffer)?;
        Ok((guard, region, *start))
    }

    /// The region for an endpoint, which is made if there is none. The guard is one of the memory.
    fn region(&self, _guard: &Guard, endpoint: &Endpoint) -> Result<Arc<Region>> {
        let mut regions = self.regions.lock();
        if let Some(region) = regions.iter().find(|region| region.serves(endpoint)) {
            return Ok(region.clone());
        }
        // Regions of domains that are gone serve nobody.
        retain(&mut regions, |region| region.is_alive());
        let region = Region::local(&self.memory, endpoint)?;
        regions.push(region.clone(), GFP_CHARGED)?;
        Ok(region)
    }
}
