// SPDX-License-Identifier: GPL-2.0-only

//! Buffers: what handles name, and where their memory is registered.

use super::{Guard, Memory, Pool, Region};
use crate::{
    kx::{pages::at_will, vec::retain},
    rdma::Endpoint,
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

/// A handle's view of memory: the memory and where it is registered. Lock: `regions`, which is held while a
/// region is made, so that a buffer is registered once on each domain.
#[pin_data]
pub(crate) struct Buffer {
    memory: Arc<Memory>,
    /// Whether its name is gone. Written under the lock of the memory's watches.
    ended: Atomic<u32>,
    /// The pool that it was carved from, and where it begins in it, in bytes.
    pool: Option<(Arc<Pool>, u64)>,
    #[pin]
    regions: Mutex<KVec<Arc<Region>>>,
}

impl Buffer {
    /// Names memory.
    pub(crate) fn new(memory: Arc<Memory>) -> Result<Arc<Self>> {
        Self::of(memory, None)
    }

    /// Names memory that was carved from a pool.
    pub(super) fn carved(memory: Arc<Memory>, pool: Arc<Pool>, start: u64) -> Result<Arc<Self>> {
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
            at_will(),
        )
    }

    /// The memory.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Writes its line.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.memory;
        let (policy, node) = memory.placement.told();
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
            memory.mark.serial(),
            memory.bytes()
        )?;
        write!(f, " policy={policy} node={node}")?;
        write!(f, " mappings={}", memory.mappings())?;
        memory.show(f)?;
        writeln!(f)
    }

    /// Writes a line for each watch of its memory that came by its name.
    pub(crate) fn show_watches(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let serial = self.memory.mark.serial();
        self.memory.tenure.watches.show(f, self.key(), serial)
    }

    /// Writes a line for each of its regions; one line that says so while one is being made.
    pub(crate) fn show_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.regions.try_lock() {
            Some(regions) => regions.iter().try_for_each(|region| region.mark().show(f)),
            None => writeln!(f, "buffer={} state=registering", self.memory.mark.serial()),
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

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Relaxed) != 0
    }

    pub(super) fn set_ended(&self) {
        self.ended.store(1, Relaxed);
    }

    /// Begins a use of the memory through its region on an endpoint's domain, which is made on first use and kept warm: the
    /// guard, the region, and where the buffer begins in it. What is carved from a pool is sent from the pool's. Errors
    /// name whether they are about the buffer. May sleep.
    pub(crate) fn enter_region(
        &self,
        endpoint: &Endpoint,
    ) -> core::result::Result<(Guard, Arc<Region>, u64), (Part, Error)> {
        let of_buffer = |error| (Part::Buffer, error);
        let of_region = |error| (Part::Region, error);
        // Told before anything is tried.
        let guard = self.memory.enter().map_err(of_buffer)?;
        self.memory.pages().map_err(of_buffer)?;
        let Some((pool, start)) = &self.pool else {
            let region = self.region(&guard, endpoint).map_err(of_region)?;
            return Ok((guard, region, 0));
        };
        // The pool is registered under its own name: whoever takes this buffer away would not know to wait for that.
        drop(guard);
        let pool = pool.buffer();
        let guard = pool.memory.enter().map_err(of_region)?;
        let region = pool.region(&guard, endpoint).map_err(of_region)?;
        drop(guard);
        let guard = self.memory.enter().map_err(of_buffer)?;
        Ok((guard, region, *start))
    }

    /// The region of the memory that the guard is of.
    fn region(&self, _guard: &Guard, endpoint: &Endpoint) -> Result<Arc<Region>> {
        let mut regions = self.regions.lock();
        if let Some(region) = regions
            .iter()
            .find(|region| region.is_on(endpoint.domain()) && !region.is_ended())
        {
            return Ok(region.clone());
        }
        // Those of domains that are gone serve nobody.
        retain(&mut regions, |region| region.is_alive());
        let region = Region::local(&self.memory, endpoint)?;
        regions.push(region.clone(), at_will())?;
        Ok(region)
    }
}
