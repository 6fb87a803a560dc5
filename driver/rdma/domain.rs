// SPDX-License-Identifier: GPL-2.0-only

//! A protection domain: what one context has on one device.

use super::Endpoint;
use crate::{
    kx::{
        global::REGISTRY,
        rdma::{
            client::Device,
            mr::{Access, RegionSet},
            pd::Pd,
        },
        vec::retain,
    },
    logic::outcome::Down,
    memory::Memory,
    observe::RegionMark,
};
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::RBTree,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};

/// A domain of one context on one device, so that a peer's guessed key reaches no other process's memory.
///
/// Locks: `closing` is held during the whole of [`Self::close`], so that whoever calls it second returns only when
/// all is gone. `state` is taken inside it, and held while an endpoint is opened or a region made. `regions` is
/// innermost: completion callbacks take it when they drop the last reference to a region, and a teardown
/// that waits for callbacks must not hold it.
#[pin_data]
pub(crate) struct Domain {
    /// Grows from one domain to the next.
    serial: u64,
    device: Device,
    #[pin]
    closing: Mutex<()>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    regions: Mutex<RBTree<u64, Listed>>,
}

/// A region's registration, its mark in the record, and the key of the memory under it.
#[derive(Clone)]
struct Listed {
    set: Arc<RegionSet>,
    mark: Arc<RegionMark>,
    memory: usize,
}

impl Listed {
    /// Ends it. Whoever comes second returns when it is done.
    fn revoke(&self) {
        self.set.revoke();
        self.mark.revoked();
    }
}

/// What lives on the domain. The lists hold references so that removal finds them; whoever ends one of them by
/// itself takes it off.
struct State {
    /// `None` from the beginning of the end on.
    pd: Option<Pd>,
    alive: bool,
    next_id: u64,
    endpoints: RBTree<u64, Arc<Endpoint>>,
}

/// Serial of the next domain.
static SERIALS: Atomic<u64> = Atomic::new(1);

impl Domain {
    /// Allocates a domain. The registry calls this for devices that are there, and lists the result.
    pub(super) fn new(device: Device) -> Result<Arc<Self>> {
        let pd = Pd::new(device)?;
        Arc::pin_init(
            pin_init!(Self {
                serial: SERIALS.fetch_add(1, Relaxed),
                device,
                closing <- new_mutex!((), "Domain::closing"),
                state <- new_mutex!(State {
                    pd: Some(pd),
                    alive: true,
                    next_id: 1,
                    endpoints: RBTree::new(),
                }, "Domain::state"),
                regions <- new_mutex!(RBTree::new(), "Domain::regions"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether it still serves.
    pub(crate) fn is_alive(&self) -> bool {
        self.state.lock().alive
    }

    /// Whether nothing of it is left.
    fn is_over(&self) -> bool {
        self.state.lock().pd.is_none()
    }

    /// Grows from one domain to the next.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// A peer had the provider invalidate a key: ends the grant or the registration that it is of, if it is of this domain.
    pub(super) fn end_invalidated(&self, key: u32) {
        self.each_endpoint(&mut |endpoint| endpoint.end_invalidated(key));
        let listed = {
            let regions = self.regions.lock();
            let mut listed = regions.values();
            listed.find(|listed| listed.set.keys().contains(&key)).cloned()
        };
        // A registration for sending is made anew when it is used next.
        if let Some(listed) = listed {
            listed.revoke();
        }
    }

    /// Its device. Only alive as long as the domain serves.
    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Lists an endpoint under a new id and runs `open` on the domain. `ENODEV` when the device went.
    pub(super) fn add_endpoint(
        &self,
        endpoint: &Arc<Endpoint>,
        open: impl FnOnce(&Pd, u64) -> Result,
    ) -> Result {
        let mut state = self.state.lock();
        let state = &mut *state;
        let pd = state.pd.as_ref().filter(|_| state.alive).ok_or(ENODEV)?;
        let id = state.next_id;
        state
            .endpoints
            .try_create_and_insert(id, endpoint.clone(), GFP_KERNEL)?;
        state.next_id += 1;
        open(pd, id).inspect_err(|_| {
            state.endpoints.remove(&id);
        })
    }

    pub(super) fn forget_endpoint(&self, id: u64) {
        // Dropped after the lock.
        let _endpoint = self.state.lock().endpoints.remove(&id);
    }

    /// Makes regions over pages and lists them. They are not registered yet. `ENODEV` when the device went.
    pub(crate) fn make_region(
        &self,
        memory: &Memory,
        first: usize,
        count: usize,
        access: Access,
        mark: &Arc<RegionMark>,
    ) -> Result<(Arc<RegionSet>, u64)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let pd = state.pd.as_ref().filter(|_| state.alive).ok_or(ENODEV)?;
        let id = state.next_id;
        let set = RegionSet::new(pd, memory.pages()?, first, count, access)?;
        let mut regions = self.regions.lock();
        let listed = Listed {
            set: set.clone(),
            mark: mark.clone(),
            memory: memory.key(),
        };
        regions.try_create_and_insert(id, listed, GFP_KERNEL)?;
        state.next_id += 1;
        Ok((set, id))
    }

    /// Shows every endpoint to `look`, without a lock. One that is made meanwhile may be left out.
    fn each_endpoint(&self, look: &mut impl FnMut(&Endpoint)) {
        let mut last = 0;
        loop {
            let next = {
                let state = self.state.lock();
                let mut behind = state.endpoints.iter().filter(|(id, _)| **id > last);
                behind.next().map(|(id, endpoint)| (*id, endpoint.clone()))
            };
            let Some((id, endpoint)) = next else { return };
            look(&endpoint);
            last = id;
        }
    }

    /// Ends every registration of some memory. Whether the device keeps one of them.
    fn revoke_regions(&self, memory: usize) -> bool {
        let (mut last, mut kept) = (0, false);
        loop {
            let next = {
                let regions = self.regions.lock();
                let mut behind = regions
                    .iter()
                    .filter(|(id, listed)| **id > last && listed.memory == memory);
                behind.next().map(|(id, listed)| (*id, listed.clone()))
            };
            let Some((id, listed)) = next else { return kept };
            listed.revoke();
            kept |= listed.set.is_stuck();
            last = id;
        }
    }

    pub(crate) fn forget_region(&self, id: u64) {
        // Dropped after the lock.
        let _listed = self.regions.lock().remove(&id);
    }

    /// Begins the end: nothing new comes on the domain, and all its peers are notified. Waits for none of them, so that
    /// whoever ends several domains waits for the peers of all at once.
    pub(super) fn begin_close(&self, cause: Down) {
        let mut state = self.state.lock();
        state.alive = false;
        for endpoint in state.endpoints.values() {
            endpoint.bequeath_for(cause);
        }
    }

    /// Ends everything on the domain and the domain itself: endpoints first, which completes all operations,
    /// then regions, then the domain. Whoever calls it second returns when all is gone.
    pub(super) fn close(&self, cause: Down) {
        let _closing = self.closing.lock();
        self.begin_close(cause);
        loop {
            let endpoint = self.state.lock().endpoints.values().next().cloned();
            let Some(endpoint) = endpoint else { break };
            // Takes itself off the list.
            endpoint.shutdown(cause);
        }
        loop {
            let first = {
                let regions = self.regions.lock();
                let mut regions = regions.iter();
                regions.next().map(|(id, listed)| (*id, listed.clone()))
            };
            let Some((id, listed)) = first else { break };
            // In the list until it is done: whoever revokes the memory waits for it as well.
            listed.revoke();
            self.forget_region(id);
        }
        let pd = self.state.lock().pd.take();
        drop(pd);
    }
}

/// A context's domains, one for each device it uses.
#[pin_data]
pub(crate) struct Domains {
    #[pin]
    list: Mutex<KVec<Arc<Domain>>>,
}

impl Domains {
    /// None yet.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "Domains::list"),
            }),
            GFP_KERNEL,
        )
    }

    /// The domain on a device, made on first use. `ENODEV` when the device is gone.
    pub(crate) fn on(&self, device: Device) -> Result<Arc<Domain>> {
        let mut list = self.list.lock();
        retain(&mut list, |domain| !domain.is_over());
        let mut alive = list.iter().filter(|domain| domain.is_alive());
        if let Some(domain) = alive.find(|domain| domain.device() == device) {
            return Ok(domain.clone());
        }
        list.reserve(1, GFP_KERNEL)?;
        let domain = REGISTRY.lock().add_domain(device)?;
        list.push(domain.clone(), GFP_KERNEL)?;
        Ok(domain)
    }

    /// Shows every domain to `look`, without a lock: those that are being closed as well.
    fn each(&self, mut look: impl FnMut(&Domain)) {
        let mut last = 0;
        loop {
            let next = {
                let list = self.list.lock();
                let mut behind = list.iter().filter(|domain| domain.serial > last);
                behind.next().cloned()
            };
            let Some(domain) = next else { return };
            look(&domain);
            last = domain.serial;
        }
    }

    /// Shows every endpoint of the context to `look`, without a lock. One that is made meanwhile may be left out.
    pub(crate) fn each_endpoint(&self, mut look: impl FnMut(&Endpoint)) {
        self.each(|domain| domain.each_endpoint(&mut look));
    }

    /// Ends every registration of some memory. One that is made meanwhile may be left out. Whether a device keeps one.
    pub(crate) fn revoke_regions(&self, key: usize) -> bool {
        let mut kept = false;
        self.each(|domain| kept |= domain.revoke_regions(key));
        kept
    }

    /// Ends them all. The context's objects are gone by now, or go here.
    pub(crate) fn close(&self) {
        loop {
            // In the list until it is closed: whoever revokes memory of the context finds it.
            let first = self.list.lock().first().cloned();
            let Some(domain) = first else { return };
            domain.close(Down::Local);
            REGISTRY.lock().forget_domain(&domain);
            retain(&mut self.list.lock(), |other| !Arc::ptr_eq(other, &domain));
        }
    }
}
