// SPDX-License-Identifier: GPL-2.0-only

//! An endpoint's part in the revocation of memory. [`MemoryLifetime::revoke`](crate::memory::MemoryLifetime::revoke)
//! has the order of the steps, and names the memory by its key.

use super::{ending::Selector, grant_table::GrantEntry, Endpoint, Phase};
use crate::{
    kx::rdma::connection::Registration,
    logic::{operation::End, outcome::Down},
    rdma::Registering,
    uapi,
};
use kernel::prelude::*;

impl Endpoint {
    /// Has the provider register regions, in order. Does not wait: operations posted behind the registration find it
    /// done, and others check [`Region::registration`](crate::rdma::Region::registration).
    pub(crate) fn register(&self, registering: Registering) -> Result {
        let memory = registering.memory().clone();
        let registration = Registration::new(registering.set().clone(), registering)?;
        let refused = self.connection.register(registration);
        refused.map_err(|(error, registration)| {
            Registration::into_body(registration).end(Err(error));
            error
        })?;
        // The sweep may have come before it was queued.
        if memory.is_revoked() {
            self.withdraw(memory.key());
        }
        Ok(())
    }

    /// Ends the registrations of some memory that wait for a place. The provider's end themselves, see
    /// [`Registering::is_wanted`].
    fn withdraw(&self, memory: usize) {
        let of_memory = |registering: &Registering| registering.is_of(memory);
        while let Some(waiting) = self.connection.withdraw_registration(of_memory) {
            Registration::into_body(waiting).end(Err(ESTALE));
            // Whoever waits for it uses the memory.
            self.shared.changed.wake_all();
        }
    }

    /// Ends the operations on some memory that the provider does not have, and asks the peer to return the grants over
    /// it. Does not wait.
    pub(crate) fn sweep(&self, memory: usize) {
        let selector = Selector::Memory(memory);
        let _ended = self.end_early(&selector, End::Revoked, true);
        self.withdraw(memory);
        self.shared
            .ask_back_all(&self.connection, |entry| entry.is_over(memory));
    }

    /// Revokes the grants over some memory, and notifies their watchers.
    pub(crate) fn fence_memory(&self, memory: usize) {
        let why = uapi::GRANT_END_MEMORY;
        self.shared
            .fence_grants(&self.connection, why, |entry| entry.is_over(memory));
    }

    /// Ends the grant whose key a peer, not necessarily this endpoint's, had the provider invalidate. The grant gives
    /// no access any more: its peer and its watchers are notified, and the connection stays up.
    pub(crate) fn end_invalidated(&self, key: u32) {
        let has_key = |entry: &GrantEntry| entry.region.keys().contains(&key);
        self.shared.ask_back_all(&self.connection, has_key);
        if let Some(number) = self.shared.next_entry(0, has_key) {
            self.shared.fence(number, uapi::GRANT_END_INVALIDATED);
        }
    }

    /// Whether the provider may still use some memory.
    fn keeps(&self, key: usize) -> bool {
        let waits = {
            let mut state = self.shared.state.lock();
            let mut waits = state.broken;
            state
                .in_flight
                .for_each(|in_flight| waits |= in_flight.is_on(key));
            waits || matches!(state.phase, Phase::Down(_))
        };
        waits || self.domain.is_registering(key, self.serial())
    }

    /// Notifies the peer of the end that [`Self::give_up`] brings, so that the waits for the peers of several endpoints
    /// overlap.
    pub(crate) fn begin_give_up(&self, key: usize) {
        if self.keeps(key) {
            self.send_last_will_for(Down::Revoked);
        }
    }

    /// Ends operations on some memory that the provider does not return, and the endpoint with them.
    pub(crate) fn give_up(&self, key: usize) {
        if self.keeps(key) {
            let _asked = self.end_early(&Selector::Memory(key), End::Revoked, false);
            self.shutdown(Down::Revoked);
        }
    }
}
