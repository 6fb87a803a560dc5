// SPDX-License-Identifier: GPL-2.0-only

//! Grants of one endpoint: those given to the peer and those that the peer gave.

use super::{Endpoint, Phase, Shared};
use crate::{
    kx::fifo::Fifo,
    logic::{
        flow::Violation,
        wire::{GrantPart, KEYS},
    },
    memory::{Memory, Region},
    rdma::{Grant, PeerGrant},
    wait::Deadline,
};
use kernel::{prelude::*, sync::Arc};

/// A grant that was given.
struct Given {
    number: u32,
    region: Arc<Region>,
}

/// Both lists, with all their memory allocated at the start.
pub(super) struct Grants {
    given: KVec<Given>,
    /// Number of the next one; numbers never repeat on an endpoint.
    next: u32,
    /// The peer's that are not revoked.
    known: KVec<Arc<PeerGrant>>,
    /// Those of them that the user has not taken yet.
    inbox: Fifo<Arc<PeerGrant>>,
}

impl Grants {
    /// Lists without room.
    pub(super) const fn none() -> Self {
        Self {
            given: KVec::new(),
            next: 1,
            known: KVec::new(),
            inbox: Fifo::none(),
        }
    }

    /// Lists for one endpoint.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            given: KVec::with_capacity(Grant::MAX_PER_ENDPOINT, GFP_KERNEL)?,
            next: 1,
            known: KVec::with_capacity(Grant::MAX_PER_ENDPOINT, GFP_KERNEL)?,
            inbox: Fifo::new(Grant::MAX_PER_ENDPOINT)?,
        })
    }

    /// The peer gave a grant. More than its limit is a violation.
    pub(super) fn arrived(&mut self, grant: &Arc<PeerGrant>) -> Result<(), Violation> {
        if self.known.len() >= Grant::MAX_PER_ENDPOINT || self.inbox.is_full() {
            return Err(Violation);
        }
        self.known
            .push_within_capacity(grant.clone())
            .map_err(|_| Violation)?;
        self.inbox.push(grant.clone()).map_err(|_| Violation)
    }

    /// The peer took a grant back. One that is not known was refused before.
    pub(super) fn revoked(&mut self, number: u32) -> Option<Arc<PeerGrant>> {
        let at = self
            .known
            .iter()
            .position(|grant| grant.number() == number)?;
        let grant = self.known.remove(at).ok()?;
        grant.revoke();
        // If the user has not taken it yet, it never will.
        let _ = self.inbox.remove_first(|other| other.number() == number);
        Some(grant)
    }
}

impl Endpoint {
    /// Gives the peer access to a range; the caller has checked it. See the user-space interface for errors.
    pub(crate) fn grant(
        self: &Arc<Self>,
        memory: &Arc<Memory>,
        range: (u64, u64),
        rights: u32,
        label: u64,
        deadline: Deadline,
    ) -> Result<Arc<Grant>> {
        if self.is_down() {
            return Err(ENOTCONN);
        }
        let (offset, length) = range;
        let region = Region::remote(memory, offset, length, self)?;
        let number = {
            let mut state = self.shared.state.lock();
            if let Phase::Down(_) = state.phase {
                return Err(ENOTCONN);
            }
            let revocations = state.outbox.revocations();
            let grants = &mut state.grants;
            if grants.given.len() + revocations >= Grant::MAX_PER_ENDPOINT {
                return Err(EMFILE);
            }
            let number = grants.next;
            grants.next = number.checked_add(1).ok_or(EOVERFLOW)?;
            let given = Given {
                number,
                region: region.clone(),
            };
            // There is room, see above.
            grants
                .given
                .push_within_capacity(given)
                .map_err(|_| ENOMEM)?;
            number
        };
        let told = self.tell(number, length, rights, label, &region, deadline);
        // From here on the grant's drop takes it back.
        let grant = Grant::new(self.clone(), number)?;
        told?;
        Ok(grant)
    }

    /// Queues the messages that tell the peer of a grant.
    fn tell(
        &self,
        number: u32,
        length: u64,
        rights: u32,
        label: u64,
        region: &Region,
        deadline: Deadline,
    ) -> Result {
        for (index, keys) in region.keys().chunks(KEYS).enumerate() {
            let mut part = GrantPart {
                length,
                label,
                rights,
                segment_shift: region.segment_bytes().ilog2() as u8,
                first: (index * KEYS) as u32,
                count: keys.len() as u8,
                keys: [0; KEYS],
            };
            for (to, from) in part.keys.iter_mut().zip(keys) {
                *to = *from;
            }
            let mut waiting = Some(KBox::new(part, GFP_KERNEL)?);
            {
                let mut state = self.shared.state.lock();
                deadline.wait(&mut state, &self.shared.changed, |state| {
                    if let Phase::Down(_) = state.phase {
                        return Some(Err(ENOTCONN));
                    }
                    let part = waiting.take()?;
                    match state.outbox.push_part(number, part) {
                        Ok(()) => Some(Ok(())),
                        Err(part) => {
                            waiting = Some(part);
                            None
                        }
                    }
                })??;
            }
            self.shared.pump(&self.connection);
        }
        Ok(())
    }

    /// Takes a grant back: ends the access first, then tells the peer.
    pub(crate) fn take_back(&self, number: u32) {
        let given = {
            let mut state = self.shared.state.lock();
            let grants = &mut state.grants;
            let at = grants.given.iter().position(|given| given.number == number);
            at.and_then(|at| grants.given.remove(at).ok())
        };
        let Some(given) = given else { return };
        given.region.revoke();
        self.shared.state.lock().outbox.push_revocation(number);
        self.shared.pump(&self.connection);
    }

    /// Waits for the peer's next grant.
    pub(crate) fn wait_grant(&self, deadline: Deadline) -> Result<Arc<PeerGrant>> {
        let mut state = self.shared.state.lock();
        deadline.wait(&mut state, &self.shared.changed, |state| {
            match (state.grants.inbox.pop(), state.phase) {
                (Some(grant), _) => Some(Ok(grant)),
                (None, Phase::Down(_)) => Some(Err(ENOTCONN)),
                (None, _) => None,
            }
        })?
    }

    /// Whether this endpoint's peer gave a grant.
    pub(crate) fn gave(&self, grant: &PeerGrant) -> bool {
        grant.serial() == self.shared.serial
    }
}

impl Shared {
    /// Ends all grants. The queue pair is gone.
    pub(super) fn end_grants(&self) {
        let grants = core::mem::replace(&mut self.state.lock().grants, Grants::none());
        for given in grants.given.iter() {
            given.region.revoke();
        }
        drop(grants);
        self.changed.notify_all();
    }
}
