// SPDX-License-Identifier: GPL-2.0-only

//! Memory registered on a protection domain.

use super::{Domain, Endpoint};
use crate::{
    base::{
        gauges::{Held, GAUGES},
        quota::Charge,
    },
    kx::{
        charged::GFP_CHARGED,
        pages::PAGE_BYTES,
        rdma::mr::{region_bytes, segments, Access, RegionSet},
        stay_loaded,
    },
    logic::wire::MAX_SEGMENTS,
    memory::{Guard, Memory},
    observe::RegionMark,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// A range of memory registered on a domain. Its keys are known from the beginning; it may be used once
/// [`Self::registration`] has succeeded. Kept by a buffer's cache or a grant and by each operation under way. The
/// domain lists it, so that the domain's removal ends it. Field order is drop order: `drop` revokes the registration
/// first, then the memory may be freed.
pub(crate) struct Region {
    set: Arc<RegionSet>,
    id: u64,
    domain: Arc<Domain>,
    /// Serial of the endpoint through which it is registered.
    registrar: u64,
    mark: Arc<RegionMark>,
    /// Whether nobody will use it although its registration has not ended.
    abandoned: Atomic<u32>,
    _charge: Charge,
    _count: Held,
    memory: Arc<Memory>,
}

impl Region {
    /// Registers all of the memory, to send from it. Does not wait for the provider.
    pub(crate) fn local(memory: &Arc<Memory>, endpoint: &Endpoint) -> Result<Arc<Self>> {
        let bytes = memory.count() * PAGE_BYTES;
        Self::new(memory, 0, bytes, Access::Local, endpoint)
    }

    /// Registers a range of the memory for the peer to access. Does not wait for the provider. The caller has checked
    /// that `offset` is page-aligned and the range inside the memory. The peer reaches no byte behind it. `E2BIG` if it has
    /// more segments than a peer takes.
    pub(crate) fn remote(
        memory: &Arc<Memory>,
        offset: u64,
        length: u64,
        access: Access,
        endpoint: &Endpoint,
    ) -> Result<Arc<Self>> {
        let first = usize::try_from(offset).map_err(|_| ERANGE)? / PAGE_BYTES;
        let bytes = usize::try_from(length).map_err(|_| ERANGE)?;
        let region_pages = endpoint.domain().region_pages();
        if segments(region_pages, bytes.div_ceil(PAGE_BYTES))? > MAX_SEGMENTS as usize {
            return Err(E2BIG);
        }
        Self::new(memory, first, bytes, access, endpoint)
    }

    fn new(
        memory: &Arc<Memory>,
        first: usize,
        bytes: usize,
        access: Access,
        endpoint: &Endpoint,
    ) -> Result<Arc<Self>> {
        let domain = endpoint.domain().clone();
        let remote = matches!(access, Access::Remote { .. });
        let mark = RegionMark::new(memory.mark(), bytes as u64, remote);
        let mark = Arc::new(mark, GFP_CHARGED)?;
        let provider_bytes = region_bytes(domain.region_pages(), bytes.div_ceil(PAGE_BYTES))?;
        let charge = endpoint.charge().charge_provider(provider_bytes)?;
        let registrar = endpoint.serial();
        let (set, id) = domain.make_region(memory, (first, bytes), access, &mark, registrar)?;
        let region = Arc::new(
            Self {
                set,
                id,
                domain,
                registrar,
                mark,
                abandoned: Atomic::new(0),
                _charge: charge,
                _count: GAUGES.regions.hold(1),
                memory: memory.clone(),
            },
            GFP_CHARGED,
        )?;
        endpoint.register(Registering {
            guard: memory.enter()?,
            region: region.clone(),
        })?;
        Ok(region)
    }

    /// How its registration ended; `None` as long as the provider has it.
    pub(crate) fn registration(&self) -> Option<Result> {
        self.set.registration_result()
    }

    /// Whether operations of an endpoint may use it: when it is registered, or will be before they are posted, because
    /// that same endpoint registers it. A registration through another endpoint may fail, because that endpoint ends.
    pub(crate) fn serves(&self, endpoint: &Endpoint) -> bool {
        let registered = match self.registration() {
            Some(result) => result.is_ok(),
            None => self.registrar == endpoint.serial(),
        };
        registered && !self.is_ended() && Arc::ptr_eq(&self.domain, endpoint.domain())
    }

    /// Its mark in the record.
    pub(crate) fn mark(&self) -> &RegionMark {
        &self.mark
    }

    /// Whether its domain is still there, and the registration was not ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.domain.is_alive() && !self.is_ended()
    }

    /// Whether its registration was ended, as by a peer that had the provider invalidate it, or failed.
    fn is_ended(&self) -> bool {
        self.set.is_ended()
    }

    /// The memory that it is over.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Bytes of every segment but the last.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.set.segment_bytes()
    }

    /// Keys of the segments.
    pub(crate) fn keys(&self) -> &[u32] {
        self.set.keys()
    }

    /// Nobody will use it: its registration need not go on.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(1, Relaxed);
    }

    /// Ends all access now. When it returns, neither this side nor the peer touches the memory through it.
    pub(crate) fn revoke(&self) {
        self.set.revoke();
        if self.set.is_stuck() {
            self.memory.never_reuse();
        }
        self.mark.revoked();
    }
}

/// A registration that the provider has, or will have. Its guard keeps a revocation from giving the region back meanwhile.
pub(crate) struct Registering {
    region: Arc<Region>,
    guard: Guard,
}

impl Registering {
    /// What is registered.
    pub(crate) fn set(&self) -> &Arc<RegionSet> {
        &self.region.set
    }

    /// The memory that is registered.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.region.memory
    }

    /// Whether it shall go on: somebody wants the region, and the memory is not being revoked, which waits for the guard.
    pub(crate) fn is_wanted(&self) -> bool {
        self.region.abandoned.load(Relaxed) == 0 && !self.region.memory.is_revoked()
    }

    /// Whether it is of some memory, by its key.
    pub(crate) fn is_of(&self, memory: usize) -> bool {
        self.region.memory.key() == memory
    }

    /// Ends the registration with its result. May sleep.
    pub(crate) fn end(self, result: Result) {
        let Self { region, guard } = self;
        match result {
            Ok(()) => region.mark.registered(),
            // Nothing refers to the region, and whoever needs it makes another.
            Err(_) => region.revoke(),
        }
        region.set.set_registered(result);
        drop(guard);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.revoke();
        self.domain.forget_region(self.id);
        if self.set.is_stuck() {
            // Leaks the memory: the provider may still write into it, so nobody else may get it. Its pages' owner may
            // call this module, which therefore stays loaded.
            core::mem::forget(self.memory.clone());
            stay_loaded();
        }
    }
}
