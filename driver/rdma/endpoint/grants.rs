// SPDX-License-Identifier: GPL-2.0-only

//! Grants of one endpoint: those given to the peer and those that the peer gave.

use super::{Endpoint, Phase, Shared};
use crate::{
    kx::{fifo::Fifo, signal::Signal},
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
    revocation: Revocation,
    /// Set when the peer has answered, or never will.
    answered: Arc<Signal>,
}

/// How far the taking back of a grant is.
#[derive(PartialEq, Eq)]
enum Revocation {
    /// Not begun.
    None,
    /// The peer is being told.
    Asked,
    /// The peer has nothing under way any more.
    Answered,
}

/// How long the peer may take to answer a revocation, in milliseconds. Afterwards its access ends all the same, and if it still writes,
/// so does the connection.
const ANSWER_MS: u32 = 1000;

/// What a grant gives, as its user asked for it. The caller has checked all of it against the memory.
pub(crate) struct Terms {
    /// Start of the range in the memory, a multiple of the page size, in bytes.
    pub(crate) offset: u64,
    /// Bytes of the range.
    pub(crate) length: u64,
    /// `RIGHT_*` bits.
    pub(crate) rights: u32,
    /// For the peer's user.
    pub(crate) label: u64,
}

/// Both lists, with all their memory allocated at the start.
pub(super) struct Grants {
    given: KVec<Given>,
    /// Number of the next one; numbers never repeat on an endpoint.
    next: u32,
    /// Whether somebody is telling the peer of a grant.
    telling: bool,
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
            telling: false,
            known: KVec::new(),
            inbox: Fifo::none(),
        }
    }

    /// Lists for one endpoint.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            given: KVec::with_capacity(Grant::MAX_PER_ENDPOINT, GFP_KERNEL)?,
            next: 1,
            telling: false,
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

    /// Wakes whoever waits for an answer: none will come any more.
    pub(super) fn wake(&self) {
        self.given.iter().for_each(|given| given.answered.set());
    }

    /// The peer answered a revocation. One that was not asked for is a violation.
    pub(super) fn answered(&mut self, number: u32) -> Result<(), Violation> {
        // One that was answered too late is gone, which is no news.
        let given = self.given.iter_mut().find(|given| given.number == number);
        match given {
            Some(given) if given.revocation == Revocation::None => Err(Violation),
            Some(given) => {
                given.revocation = Revocation::Answered;
                given.answered.set();
                Ok(())
            }
            None if number >= self.next => Err(Violation),
            None => Ok(()),
        }
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
        terms: &Terms,
        deadline: Deadline,
    ) -> Result<Arc<Grant>> {
        if self.is_down() {
            return Err(ENOTCONN);
        }
        let region = Region::remote(memory, terms.offset, terms.length, self).map_err(|error| {
            // The ways in which an endpoint that goes down fails.
            if error == ESHUTDOWN || error == ENODEV {
                ENOTCONN
            } else {
                error
            }
        })?;
        let answered = Signal::new()?;
        let number = {
            let mut state = self.shared.state.lock();
            if let Phase::Down(_) = state.phase {
                return Err(ENOTCONN);
            }
            let grants = &mut state.grants;
            if grants.given.len() >= Grant::MAX_PER_ENDPOINT {
                return Err(EMFILE);
            }
            let number = grants.next;
            grants.next = number.checked_add(1).ok_or(EOVERFLOW)?;
            let given = Given {
                number,
                region: region.clone(),
                revocation: Revocation::None,
                answered,
            };
            // There is room, see above.
            grants
                .given
                .push_within_capacity(given)
                .map_err(|_| ENOMEM)?;
            number
        };
        let told = self.tell_alone(number, terms, &region, deadline);
        // From here on the grant's drop takes it back.
        let grant = Grant::new(self.clone(), number)?;
        told?;
        Ok(grant)
    }

    /// Tells the peer of a grant. One at a time: the peer puts one grant together after the other.
    fn tell_alone(
        &self,
        number: u32,
        terms: &Terms,
        region: &Region,
        deadline: Deadline,
    ) -> Result {
        {
            let mut state = self.shared.state.lock();
            deadline.wait(&mut state, &self.shared.changed, |state| {
                if let Phase::Down(_) = state.phase {
                    return Some(Err(ENOTCONN));
                }
                let alone = !state.grants.telling;
                state.grants.telling = true;
                alone.then_some(Ok(()))
            })??;
        }
        let told = self.tell(number, terms, region, deadline);
        self.shared.state.lock().grants.telling = false;
        self.shared.changed.notify_all();
        told
    }

    /// Queues the messages that tell the peer of a grant.
    fn tell(&self, number: u32, terms: &Terms, region: &Region, deadline: Deadline) -> Result {
        for (index, keys) in region.keys().chunks(KEYS).enumerate() {
            let mut part = GrantPart {
                length: terms.length,
                label: terms.label,
                rights: terms.rights,
                segment_shift: region.segment_bytes().trailing_zeros() as u8,
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

    /// Takes a grant back: tells the peer, waits until it has nothing under way, and ends the access. When this
    /// returns, nothing of the peer's lands in the range, whatever the peer did.
    pub(crate) fn take_back(&self, number: u32) {
        let answer = {
            let mut state = self.shared.state.lock();
            let state = &mut *state;
            let up = matches!(state.phase, Phase::Up);
            let given = state
                .grants
                .given
                .iter_mut()
                .find(|given| given.number == number);
            match given {
                Some(given) if up && state.outbox.push_revoke(number) => {
                    given.revocation = Revocation::Asked;
                    Some(given.answered.clone())
                }
                _ => None,
            }
        };
        if let Some(answer) = answer {
            self.shared.pump(&self.connection);
            // Without an answer the access ends all the same, just below.
            let _answered = answer.wait_killable_for(ANSWER_MS);
        }
        let given = {
            let mut state = self.shared.state.lock();
            let grants = &mut state.grants;
            let at = grants.given.iter().position(|given| given.number == number);
            at.and_then(|at| grants.given.remove(at).ok())
        };
        if let Some(given) = given {
            given.region.revoke();
        }
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

    /// Gives a grant back that could not be handed to the user: it is the next one's turn, then.
    pub(crate) fn return_grant(&self, grant: Arc<PeerGrant>) {
        // The place it had is free; without one the endpoint is over.
        let refused = self.shared.state.lock().grants.inbox.push(grant);
        drop(refused);
        self.shared.changed.notify_all();
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
