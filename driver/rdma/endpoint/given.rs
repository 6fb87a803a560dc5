// SPDX-License-Identifier: GPL-2.0-only

//! The lists of an endpoint's grants: those given to the peer and those that the peer gave. The endpoint's lock is around
//! them.

use super::ending::earlier;
use crate::{
    kx::{fifo::Fifo, signal::Signal},
    logic::flow::Violation,
    memory::Region,
    rdma::{grant::Fate, Grant, PeerGrant},
    uapi,
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
    /// When its access ends without an answer, and why, where nobody waits for that: its time to live is over, or whoever
    /// took it back was killed.
    pub(super) left: Option<(Instant<Monotonic>, u32)>,
    /// Set when the peer has answered, or never will.
    pub(super) answered: Arc<Signal>,
}

impl Given {
    /// Whether its time to live is over at this moment, and nobody takes it back yet.
    pub(super) fn is_expired(&self, now: Instant<Monotonic>) -> bool {
        self.revocation == Revocation::None && has_passed(self.expires, now)
    }

    /// Why it ends at this moment, if nobody waits for its answer and the time for that is over.
    fn is_left(&self, now: Instant<Monotonic>) -> Option<u32> {
        let (moment, why) = self.left?;
        has_passed(Some(moment), now).then_some(why)
    }

    /// When the clock has to look at it.
    fn next_look(&self) -> Option<Instant<Monotonic>> {
        match (self.left, &self.revocation) {
            (Some((moment, _)), _) => Some(moment),
            (None, Revocation::None) => self.expires,
            // Somebody waits for its answer.
            (None, _) => None,
        }
    }

    /// Whether it gives access to some memory.
    pub(super) fn is_over(&self, memory: usize) -> bool {
        self.region.memory().key() == memory
    }
}

fn has_passed(moment: Option<Instant<Monotonic>>, now: Instant<Monotonic>) -> bool {
    moment.is_some_and(|moment| !(now - moment).is_negative())
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
        let keys = self.known.iter().map(|grant| grant.keys().len());
        if self.known.len() >= Grant::MAX_PER_ENDPOINT
            || self.inbox.is_full()
            || keys.sum::<usize>() + grant.keys().len() > Grant::MAX_KEYS
        {
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

    /// When the clock has to look at the next grant.
    pub(super) fn next_look(&self) -> Option<Instant<Monotonic>> {
        self.given
            .iter()
            .fold(None, |next, given| earlier(next, given.next_look()))
    }

    /// The first grant that ends at this moment because nobody waits for its answer, and why.
    pub(super) fn first_left(&self, now: Instant<Monotonic>) -> Option<(u32, u32)> {
        let mut left = self.given.iter();
        left.find_map(|given| Some((given.number, given.is_left(now)?)))
    }

    /// Whether one with so many keys more is not too much, which the peer would not take.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let keys = self.given.iter().map(|given| given.region.keys().len());
        self.given.len() < Grant::MAX_PER_ENDPOINT && keys.sum::<usize>() + more <= Grant::MAX_KEYS
    }

    /// Whether a grant is there, and the peer was not asked to give it back.
    pub(super) fn is_live(&self, number: u32) -> bool {
        let mut given = self.given.iter();
        given.any(|given| given.number == number && given.revocation == Revocation::None)
    }

    /// The peer answered a revocation, or has used a grant up. Why its access ends now, where nobody waits who would end
    /// it. Anything else is a violation.
    pub(super) fn answered(&mut self, number: u32) -> Result<Option<u32>, Violation> {
        // One that was answered too late is gone, which is no news.
        let given = self.given.iter_mut().find(|given| given.number == number);
        match given {
            Some(given) if given.revocation == Revocation::None && !given.counted => Err(Violation),
            Some(given) => {
                let unasked = given.revocation == Revocation::None;
                given.revocation = Revocation::Answered;
                given.answered.set();
                let left = given.left.map(|(_, why)| why);
                Ok(unasked.then_some(uapi::GRANT_END_USED).or(left))
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
