// SPDX-License-Identifier: GPL-2.0-only

//! What an endpoint does when memory is taken away from under it. [`Tenure::revoke`](crate::memory::Tenure::revoke) has
//! the order, and names the memory by its key.

use super::{ending::Selector, given::Given, Endpoint, Phase};
use crate::{
    kx::rdma::mr::RegionSet,
    logic::{operation::End, outcome::Down},
    memory::Memory,
    tuning::TUNING,
    uapi,
};
use kernel::{prelude::*, sync::Arc};

/// Most registrations of one endpoint that may be under way.
const MAX_REGISTRATIONS: usize = 16;

/// The keys of the memory that is being registered through an endpoint; 0 for none. Its endpoint's lock protects it.
#[derive(Default)]
pub(super) struct Registering([usize; MAX_REGISTRATIONS]);

impl Registering {
    /// Takes a place; false without one.
    fn begin(&mut self, memory: usize) -> bool {
        let free = self.0.iter_mut().find(|place| **place == 0);
        free.map(|place| *place = memory).is_some()
    }

    fn end(&mut self, memory: usize) {
        if let Some(place) = self.0.iter_mut().find(|place| **place == memory) {
            *place = 0;
        }
    }
}

impl Endpoint {
    /// Registers regions over memory through the endpoint's queue pair. The caller holds a guard of the memory. `EBUSY`
    /// when too many threads register at once.
    pub(crate) fn register(&self, memory: &Memory, set: &Arc<RegionSet>) -> Result {
        let key = memory.key();
        if !self.shared.state.lock().registering.begin(key) {
            return Err(EBUSY);
        }
        let result = self.connection.register(set, TUNING.will_ms(), || {
            // The end of whoever waits here: the peer, and others who have the file, are told of it.
            self.bequeath_for(Down::Local);
            self.shared.go_down(Down::Local);
            self.shared.await_will();
        });
        self.shared.state.lock().registering.end(key);
        result
    }

    /// Ends the operations on some memory that the driver itself still has, and asks the peer for the grants over it.
    /// Does not wait.
    pub(crate) fn sweep(&self, memory: usize) {
        let selector = Selector::Memory(memory);
        let _ended = self.end_early(&selector, End::Revoked, true);
        self.shared
            .ask_back_all(&self.connection, |given| given.is_over(memory));
    }

    /// Takes the grants over some memory back, and tells whoever watches them.
    pub(crate) fn fence_memory(&self, memory: usize) {
        let why = uapi::GRANT_END_MEMORY;
        self.shared
            .fence_grants(&self.connection, why, |given| given.is_over(memory));
    }

    /// A peer, not necessarily this endpoint's, had the provider invalidate a key. A grant with that key gives no access any
    /// more: its peer and whoever watches it are notified, and the connection lives on.
    pub(crate) fn end_invalidated(&self, key: u32) {
        let has_key = |given: &Given| given.region.keys().contains(&key);
        self.shared.ask_back_all(&self.connection, has_key);
        if let Some(number) = self.shared.next_given(0, has_key) {
            self.shared.fence(number, uapi::GRANT_END_INVALIDATED);
        }
    }

    /// Ends what the provider does not give back of some memory, and the endpoint with it.
    pub(crate) fn give_up(&self, key: usize) {
        let waits = {
            let mut state = self.shared.state.lock();
            let mut waits = state.registering.0.contains(&key) || state.broken;
            state.flying.for_each(|flying| waits |= flying.is_on(key));
            waits || matches!(state.phase, Phase::Down(_))
        };
        if waits {
            let _asked = self.end_early(&Selector::Memory(key), End::Revoked, false);
            self.shutdown(Down::Revoked);
        }
    }
}
