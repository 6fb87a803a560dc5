// SPDX-License-Identifier: GPL-2.0-only

//! Memory registered on a protection domain.

use super::Memory;
use crate::{
    gauges::{Held, GAUGES},
    kx::{
        pages::{at_will, PAGE_BYTES},
        rdma::mr::{Access, RegionSet},
        stay_loaded,
    },
    observe::RegionMark,
    rdma::{Domain, Endpoint},
};
use kernel::{prelude::*, sync::Arc};

/// A range of memory registered on a domain. Kept by a buffer's cache or a grant and by each operation under
/// way. The domain lists it, so that its removal ends it. Field order is drop order: `drop` revokes
/// the registration first, then the memory may go.
pub(crate) struct Region {
    set: Arc<RegionSet>,
    id: u64,
    domain: Arc<Domain>,
    mark: Arc<RegionMark>,
    _count: Held,
    memory: Arc<Memory>,
}

impl Region {
    /// All of the memory, for sending from it.
    pub(super) fn local(memory: &Arc<Memory>, endpoint: &Endpoint) -> Result<Arc<Self>> {
        Self::new(memory, 0, memory.count(), Access::Local, endpoint)
    }

    /// A range of it, for the peer to reach. `offset` is page-aligned and the range inside the memory, which
    /// the caller checked; the region ends on a page's end all the same.
    pub(crate) fn remote(
        memory: &Arc<Memory>,
        offset: u64,
        length: u64,
        access: Access,
        endpoint: &Endpoint,
    ) -> Result<Arc<Self>> {
        let first = usize::try_from(offset).map_err(|_| ERANGE)? / PAGE_BYTES;
        let count = usize::try_from(length)
            .map_err(|_| ERANGE)?
            .div_ceil(PAGE_BYTES);
        Self::new(memory, first, count, access, endpoint)
    }

    fn new(
        memory: &Arc<Memory>,
        first: usize,
        count: usize,
        access: Access,
        endpoint: &Endpoint,
    ) -> Result<Arc<Self>> {
        let domain = endpoint.domain().clone();
        let remote = matches!(access, Access::Remote { .. });
        let mark = RegionMark::new(memory.mark(), (count * PAGE_BYTES) as u64, remote);
        let mark = Arc::new(mark, at_will())?;
        let (set, id) = domain.make_region(memory, first, count, access, &mark)?;
        let region = Arc::new(
            Self {
                set,
                id,
                domain,
                mark,
                _count: GAUGES.regions.hold(1),
                memory: memory.clone(),
            },
            at_will(),
        )?;
        // On a failure the region ends here, and with it whatever was registered.
        endpoint.register(memory, &region.set)?;
        region.mark.registered();
        Ok(region)
    }

    /// Its mark in the record.
    pub(crate) fn mark(&self) -> &RegionMark {
        &self.mark
    }

    /// Whether it is usable by endpoints of this domain.
    pub(super) fn is_on(&self, domain: &Arc<Domain>) -> bool {
        Arc::ptr_eq(&self.domain, domain)
    }

    /// Whether its domain is still there, and the registration was not ended.
    pub(super) fn is_alive(&self) -> bool {
        self.domain.is_alive() && !self.is_ended()
    }

    /// Whether its registration was ended, as by a peer that had the provider invalidate it.
    pub(super) fn is_ended(&self) -> bool {
        self.set.is_ended()
    }

    /// What it is over.
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

    /// Ends all access now. When it returns, neither this side nor the peer touches the memory through it.
    pub(crate) fn revoke(&self) {
        self.set.revoke();
        if self.set.is_stuck() {
            self.memory.never_reuse();
        }
        self.mark.revoked();
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.revoke();
        self.domain.forget_region(self.id);
        if self.set.is_stuck() {
            // Rather lost than somebody else's, while the provider may still write into it. What it is of may call this module.
            core::mem::forget(self.memory.clone());
            stay_loaded();
        }
    }
}
