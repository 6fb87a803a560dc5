// SPDX-License-Identifier: GPL-2.0-only

//! The lists of an endpoint's grants: those given to the peer and those that the peer gave. The endpoint's lock is around
//! them.

use super::ending::earlier;
use crate::{
    kx::{fifo::Fifo, signal::Signal},
    logic::flow::Violation,
    memory::Region,
    rdma::{grant::Fate, Grant, PeerGrant},
};
use kernel::{
    fmt,
    prelude::*,
    sync::Arc,
    time::{Instant, Monotonic},
};

/// A grant that was given.
pub(super) struct Given {
    pub(super) number: u32,
    pub(super) region: Arc<Region>,
    pub(super) revocation: Revocation,
    pub(super) fate: Arc<Fate>,
    /// When it ends by itself.
    pub(super) expires: Option<Instant<Monotonic>>,
    /// Whether the peer's kernel counts its uses, and may give it back by itself.
    pub(super) counted: bool,
    /// When the peer was asked to give it back.
    pub(super) asked: Option<Instant<Monotonic>>,
    /// Set when the peer has answered, or never will.
    pub(super) answered: Arc<Signal>,
}

impl Given {
    /// Whether its time to live is over at this moment.
    pub(super) fn is_expired(&self, now: Instant<Monotonic>) -> bool {
        self.expires
            .is_some_and(|moment| !(now - moment).is_negative())
    }

    /// Whether it gives access to some memory.
    pub(super) fn is_over(&self, memory: usize) -> bool {
        self.region.memory().key() == memory
    }
}

/// How far the taking back of a grant is.
#[derive(PartialEq, Eq)]
pub(super) enum Revocation {
    /// Not begun.
    None,
    /// The peer is being told.
    Asked,
    /// The peer has nothing under way any more.
    Answered,
}

/// Both lists, with all their memory allocated at the start.
pub(super) struct Grants {
    pub(super) given: KVec<Given>,
    /// Number of the next one; numbers never repeat on an endpoint.
    pub(super) next: u32,
    /// Whether somebody is telling the peer of a grant.
    pub(super) telling: bool,
    /// The peer's that are not revoked.
    pub(super) known: KVec<Arc<PeerGrant>>,
    /// Those of them that the user has not taken yet.
    pub(super) inbox: Fifo<Arc<PeerGrant>>,
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

    /// When the next grant ends by itself.
    pub(super) fn next_expiry(&self) -> Option<Instant<Monotonic>> {
        self.given
            .iter()
            .fold(None, |next, given| earlier(next, given.expires))
    }

    /// The peer answered a revocation, or has used a grant up, which is told by its number. Anything else is a violation.
    pub(super) fn answered(&mut self, number: u32) -> Result<Option<u32>, Violation> {
        // One that was answered too late is gone, which is no news.
        let given = self.given.iter_mut().find(|given| given.number == number);
        match given {
            Some(given) if given.revocation == Revocation::None && !given.counted => Err(Violation),
            Some(given) => {
                let unasked = given.revocation == Revocation::None;
                given.revocation = Revocation::Answered;
                given.answered.set();
                Ok(unasked.then_some(number))
            }
            None if number >= self.next => Err(Violation),
            None => Ok(None),
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

impl Grants {
    /// Writes a line for each grant.
    pub(super) fn show(&self, f: &mut fmt::Formatter<'_>, endpoint: u64) -> fmt::Result {
        for given in &self.given {
            let state = match given.revocation {
                Revocation::None => "live",
                Revocation::Asked => "waits-for-peer",
                Revocation::Answered => "answered",
            };
            let (number, bytes) = (given.number, given.region.mark().bytes());
            writeln!(
                f,
                "endpoint={endpoint} side=own grant={number} bytes={bytes} state={state}"
            )?;
        }
        for grant in &self.known {
            write!(f, "endpoint={endpoint} side=peer grant={}", grant.number())?;
            let state = if grant.is_revoked() {
                "revoked"
            } else {
                "live"
            };
            writeln!(f, " bytes={} state={state}", grant.length())?;
        }
        Ok(())
    }

    /// Writes a line for each region that is given.
    pub(super) fn show_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.given
            .iter()
            .try_for_each(|given| given.region.mark().show(f))
    }
}
