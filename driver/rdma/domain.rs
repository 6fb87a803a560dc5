// SPDX-License-Identifier: GPL-2.0-only

//! Protection domains. A context has one on each device that it uses.

use super::{Endpoint, REGISTRY};
use crate::{
    kx::{
        charged::GFP_CHARGED,
        rdma::{
            client::Device,
            mr::{Access, RegionSet},
            pd::Pd,
        },
        vec::retain,
    },
    logic::outcome::Down,
    memory::{Memory, MemoryUsers},
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

/// A context's protection domain on one device. Contexts share none, so a key that a peer guesses reaches no other
/// process's memory.
///
/// Locks: `closing` is held throughout [`Self::close`], so a second caller returns only when everything is gone.
/// `state` is taken inside it, and held while an endpoint is opened or a region made. `regions` is innermost:
/// completion callbacks take it when they drop the last reference to a region, and a teardown that waits for callbacks
/// must not hold it.
#[pin_data]
pub(crate) struct Domain {
    /// Unique; later domains have larger ones.
    serial: u64,
    device: Device,
    /// Most pages of one region on the device.
    region_pages: u32,
    #[pin]
    closing: Mutex<()>,
    #[pin]
    state: Mutex<State>,
    #[pin]
    regions: Mutex<RBTree<u64, Listed>>,
}

/// An entry of the region list: the registration, its mark in the record, and the key of the memory under it.
#[derive(Clone)]
struct Listed {
    set: Arc<RegionSet>,
    mark: Arc<RegionMark>,
    memory: usize,
    /// Serial of the endpoint through which it is registered.
    registrar: u64,
}

impl Listed {
    /// Ends the registration. A second caller returns when it has ended.
    fn revoke(&self) {
        self.set.revoke();
        self.mark.revoked();
    }
}

/// The objects on the domain. The lists hold references so that a removal of the device finds the objects; an object
/// that ends earlier is taken off its list.
struct State {
    /// `None` once the domain is closed.
    pd: Option<Pd>,
    alive: bool,
    next_id: u64,
    endpoints: RBTree<u64, Arc<Endpoint>>,
}

/// Serial of the next domain.
static SERIALS: Atomic<u64> = Atomic::new(1);

impl Domain {
    /// Allocates a domain. The registry calls this for registered devices and lists the result.
    pub(super) fn new(device: Device) -> Result<Arc<Self>> {
        let pd = Pd::new(device)?;
        Arc::pin_init(
            pin_init!(Self {
                serial: SERIALS.fetch_add(1, Relaxed),
                device,
                region_pages: device.capabilities().region_pages,
                closing <- new_mutex!((), "Domain::closing"),
                state <- new_mutex!(State {
                    pd: Some(pd),
                    alive: true,
                    next_id: 1,
                    endpoints: RBTree::new(),
                }, "Domain::state"),
                regions <- new_mutex!(RBTree::new(), "Domain::regions"),
            }),
            GFP_CHARGED,
        )
    }

    /// Whether it still accepts new objects.
    pub(crate) fn is_alive(&self) -> bool {
        self.state.lock().alive
    }

    /// Whether it is closed completely.
    fn is_over(&self) -> bool {
        self.state.lock().pd.is_none()
    }

    /// Its serial. Later domains have larger ones.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Ends the grant or registration on this domain, if any, whose key a peer had the provider invalidate.
    pub(super) fn end_invalidated(&self, key: u32) {
        self.each_endpoint(&mut |endpoint| endpoint.end_invalidated(key));
        let listed = {
            let regions = self.regions.lock();
            // A key whose registration is still under way gives no access yet that could be invalidated.
            let has_key = |listed: &&Listed| {
                listed.set.keys().contains(&key) && listed.set.registration_result().is_some()
            };
            let mut listed = regions.values();
            listed.find(has_key).cloned()
        };
        // A registration for sending is made again on its next use.
        if let Some(listed) = listed {
            listed.revoke();
        }
    }

    /// Most pages of one region on its device. Valid even when the device is gone.
    pub(crate) fn region_pages(&self) -> u32 {
        self.region_pages
    }

    /// Its device, which is certainly alive only as long as [`Self::is_alive`] is true.
    pub(super) fn device(&self) -> Device {
        self.device
    }

    /// Lists an endpoint under a new id and runs `open` on the domain. `ENODEV` when the device is gone.
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
            .try_create_and_insert(id, endpoint.clone(), GFP_CHARGED)?;
        state.next_id += 1;
        open(pd, id).inspect_err(|_| {
            state.endpoints.remove(&id);
        })
    }

    pub(super) fn forget_endpoint(&self, id: u64) {
        // Dropped after the lock is released.
        let _endpoint = self.state.lock().endpoints.remove(&id);
    }

    /// Makes regions over `bytes` from page `first` on and lists them. They are not registered yet. `ENODEV` when
    /// the device is gone.
    pub(crate) fn make_region(
        &self,
        memory: &Memory,
        (first, bytes): (usize, usize),
        access: Access,
        mark: &Arc<RegionMark>,
        registrar: u64,
    ) -> Result<(Arc<RegionSet>, u64)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let pd = state.pd.as_ref().filter(|_| state.alive).ok_or(ENODEV)?;
        let id = state.next_id;
        let set = RegionSet::new(
            pd,
            memory.pages()?,
            first,
            bytes,
            access,
            &super::hooks::HOOKS,
        )?;
        let mut regions = self.regions.lock();
        let listed = Listed {
            set: set.clone(),
            mark: mark.clone(),
            memory: memory.key(),
            registrar,
        };
        regions.try_create_and_insert(id, listed, GFP_CHARGED)?;
        state.next_id += 1;
        Ok((set, id))
    }

    /// Calls `look` for every endpoint, without holding a lock. May miss an endpoint that is added meanwhile.
    fn each_endpoint(&self, look: &mut impl FnMut(&Endpoint)) {
        let mut last = 0;
        loop {
            let next = {
                let state = self.state.lock();
                let behind = state.endpoints.cursor_lower_bound(&(last + 1));
                behind.map(|cursor| {
                    let (id, endpoint) = cursor.current();
                    (*id, endpoint.clone())
                })
            };
            let Some((id, endpoint)) = next else { return };
            look(&endpoint);
            last = id;
        }
    }

    /// Ends every registration of some memory. Returns whether the device keeps one of them.
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
            let Some((id, listed)) = next else {
                return kept;
            };
            listed.revoke();
            kept |= listed.set.is_stuck();
            last = id;
        }
    }

    /// Whether some memory is being registered through an endpoint.
    pub(super) fn is_registering(&self, memory: usize, registrar: u64) -> bool {
        let regions = self.regions.lock();
        let mut listed = regions.values();
        listed.any(|listed| {
            let meant = listed.memory == memory && listed.registrar == registrar;
            meant && listed.set.registration_result().is_none()
        })
    }

    pub(crate) fn forget_region(&self, id: u64) {
        // Dropped after the lock is released.
        let _listed = self.regions.lock().remove(&id);
    }

    /// Begins to close the domain: refuses new objects and notifies all peers. Does not wait for the peers, so a caller
    /// that closes several domains waits for all their peers at once.
    pub(super) fn begin_close(&self, cause: Down) {
        let mut state = self.state.lock();
        state.alive = false;
        for endpoint in state.endpoints.values() {
            endpoint.send_last_will_for(cause);
        }
    }

    /// Closes the domain: ends its endpoints first, which completes all operations, then its regions, then the domain
    /// itself. A second caller returns when everything is gone.
    pub(super) fn close(&self, cause: Down) {
        let _closing = self.closing.lock();
        self.begin_close(cause);
        loop {
            let endpoint = self.state.lock().endpoints.values().next().cloned();
            let Some(endpoint) = endpoint else { break };
            // It removes itself from the list.
            endpoint.shutdown(cause);
        }
        loop {
            let first = {
                let regions = self.regions.lock();
                let mut regions = regions.iter();
                regions.next().map(|(id, listed)| (*id, listed.clone()))
            };
            let Some((id, listed)) = first else { break };
            // It stays listed until it has ended: a revocation of the memory waits for that, too.
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
    /// An empty list.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "Domains::list"),
            }),
            GFP_CHARGED,
        )
    }

    /// Returns the domain on a device, made on first use. `ENODEV` when the device is gone.
    pub(crate) fn on(&self, device: Device) -> Result<Arc<Domain>> {
        let mut list = self.list.lock();
        retain(&mut list, |domain| !domain.is_over());
        let mut alive = list.iter().filter(|domain| domain.is_alive());
        if let Some(domain) = alive.find(|domain| domain.device() == device) {
            return Ok(domain.clone());
        }
        list.reserve(1, GFP_CHARGED)?;
        let domain = REGISTRY.lock().add_domain(device)?;
        list.push(domain.clone(), GFP_CHARGED)?;
        Ok(domain)
    }

    /// Calls `look` for every domain, without holding a lock. Includes domains that are being closed.
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

    /// Calls `look` for every endpoint of the context, without holding a lock. May miss an endpoint that is added
    /// meanwhile.
    pub(crate) fn each_endpoint(&self, mut look: impl FnMut(&Endpoint)) {
        self.each(|domain| domain.each_endpoint(&mut look));
    }

    /// Closes all domains. The context's objects have ended before, or end here.
    pub(crate) fn close(&self) {
        loop {
            // It stays listed until it is closed: a revocation of the context's memory finds it.
            let first = self.list.lock().first().cloned();
            let Some(domain) = first else { return };
            domain.close(Down::Local);
            REGISTRY.lock().forget_domain(&domain);
            retain(&mut self.list.lock(), |other| !Arc::ptr_eq(other, &domain));
        }
    }
}

impl MemoryUsers for Domains {
    fn sweep(&self, memory: usize) {
        self.each_endpoint(|endpoint| endpoint.sweep(memory));
    }

    fn fence_memory(&self, memory: usize) {
        self.each_endpoint(|endpoint| endpoint.fence_memory(memory));
    }

    fn give_up(&self, memory: usize) {
        // All peers are notified before the first is waited for.
        self.each_endpoint(|endpoint| endpoint.begin_give_up(memory));
        self.each_endpoint(|endpoint| endpoint.give_up(memory));
    }

    /// May miss a region that is made meanwhile.
    fn revoke_regions(&self, memory: usize) -> bool {
        let mut kept = false;
        self.each(|domain| kept |= domain.revoke_regions(memory));
        kept
    }
}
