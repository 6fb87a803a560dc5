// SPDX-License-Identifier: GPL-2.0-only

//! The lists of an endpoint's grants: its own, which it gave to the peer, and the peer's. The endpoint's lock protects
//! them.

use super::ending::earlier;
use crate::kx::charged::GFP_CHARGED;
use crate::{
    kx::{completion::Completion, fifo::Fifo},
    logic::flow::Violation,
    rdma::{grant::EndReason, Grant, PeerGrant, Region},
    uapi,
};
use kernel::{
    fmt,
    prelude::*,
    sync::Arc,
    time::{Instant, Monotonic},
};

/// An own grant, which was given to the peer.
pub(super) struct GrantEntry {
    pub(super) number: u32,
    pub(super) region: Arc<Region>,
    pub(super) revocation: Revocation,
    pub(super) end_reason: Arc<EndReason>,
    /// When it expires.
    pub(super) expires: Option<Instant<Monotonic>>,
    /// Whether the peer's kernel counts its uses, and may return it unasked.
    pub(super) counted: bool,
    /// When the peer was asked to return it.
    pub(super) asked: Option<Instant<Monotonic>>,
    /// When its access ends without an answer, and why. Set if nobody waits for the answer: the grant has expired, or
    /// the thread that revoked it was killed.
    pub(super) left: Option<(Instant<Monotonic>, u32)>,
    /// Set when the peer has answered, or never will.
    pub(super) answered: Arc<Completion>,
}

impl GrantEntry {
    /// Whether it has expired, and its revocation has not begun.
    pub(super) fn is_expired(&self, now: Instant<Monotonic>) -> bool {
        self.revocation == Revocation::None && has_passed(self.expires, now)
    }

    /// Why it ends now, if nobody waits for its answer and the time for the answer is over.
    fn is_left(&self, now: Instant<Monotonic>) -> Option<u32> {
        let (moment, why) = self.left?;
        has_passed(Some(moment), now).then_some(why)
    }

    /// When the timer has to check it.
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

/// Progress of a grant's revocation.
#[derive(PartialEq, Eq)]
pub(super) enum Revocation {
    /// Not begun.
    None,
    /// The peer is being notified.
    Asked,
    /// The peer has no operation on it under way any more.
    Answered,
}

/// Both lists. All their memory is allocated at the start.
pub(super) struct Grants {
    pub(super) entries: KVec<GrantEntry>,
    /// Number of the next one; numbers never repeat on an endpoint.
    pub(super) next: u32,
    /// Whether a thread is announcing a grant to the peer.
    pub(super) sending: bool,
    /// The peer's grants that are not revoked.
    pub(super) known: KVec<Arc<PeerGrant>>,
    /// Those of them that the user has not taken yet.
    pub(super) inbox: Fifo<Arc<PeerGrant>>,
}

impl Grants {
    /// Lists of capacity 0.
    pub(super) const fn none() -> Self {
        Self {
            entries: KVec::new(),
            next: 1,
            sending: false,
            known: KVec::new(),
            inbox: Fifo::none(),
        }
    }

    /// Lists for one endpoint.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            entries: KVec::with_capacity(Grant::MAX_PER_ENDPOINT, GFP_CHARGED)?,
            next: 1,
            sending: false,
            known: KVec::with_capacity(Grant::MAX_PER_ENDPOINT, GFP_CHARGED)?,
            inbox: Fifo::new(Grant::MAX_PER_ENDPOINT)?,
        })
    }

    /// Adds a grant that the peer gave. More than the limit is a violation, and so is the number of another one: what
    /// ends one of the two would end the other.
    pub(super) fn arrived(&mut self, grant: &Arc<PeerGrant>) -> Result<(), Violation> {
        let keys = self.known.iter().map(|grant| grant.keys().len());
        let number = grant.number();
        if self.known.len() >= Grant::MAX_PER_ENDPOINT
            || self.known.iter().any(|other| other.number() == number)
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

    /// Wakes every thread that waits for an answer: none will come any more.
    pub(super) fn wake(&self) {
        self.entries.iter().for_each(|entry| entry.answered.set());
    }

    /// When the timer has to check the next grant.
    pub(super) fn next_look(&self) -> Option<Instant<Monotonic>> {
        self.entries
            .iter()
            .fold(None, |next, entry| earlier(next, entry.next_look()))
    }

    /// The first grant that ends now because nobody waits for its answer, and why it ends.
    pub(super) fn first_left(&self, now: Instant<Monotonic>) -> Option<(u32, u32)> {
        let mut left = self.entries.iter();
        left.find_map(|entry| Some((entry.number, entry.is_left(now)?)))
    }

    /// Whether the peer's limits allow another grant with `more` keys.
    pub(super) fn has_room(&self, more: usize) -> bool {
        let keys = self.entries.iter().map(|entry| entry.region.keys().len());
        self.entries.len() < Grant::MAX_PER_ENDPOINT
            && keys.sum::<usize>() + more <= Grant::MAX_KEYS
    }

    /// Whether a grant exists, and the peer was not asked to return it.
    pub(super) fn is_live(&self, number: u32) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.number == number && entry.revocation == Revocation::None)
    }

    /// Handles a grant that the peer returns: it was asked to, or the uses are used up. Returns why the access ends
    /// now, if nobody waits who would end it. Anything else is a violation.
    pub(super) fn answered(&mut self, number: u32) -> Result<Option<u32>, Violation> {
        // A late answer names a grant that is gone already, which is no error.
        let entry = self.entries.iter_mut().find(|entry| entry.number == number);
        match entry {
            Some(entry) if entry.revocation == Revocation::None && !entry.counted => Err(Violation),
            Some(entry) => {
                let unasked = entry.revocation == Revocation::None;
                entry.revocation = Revocation::Answered;
                entry.answered.set();
                let left = entry.left.map(|(_, why)| why);
                Ok(unasked.then_some(uapi::GRANT_END_USED).or(left))
            }
            None if number >= self.next => Err(Violation),
            None => Ok(None),
        }
    }

    /// Removes a grant that the peer revoked. An unknown one was refused before.
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
        for entry in &self.entries {
            let state = match entry.revocation {
                Revocation::None => "live",
                Revocation::Asked => "waits-for-peer",
                Revocation::Answered => "answered",
            };
            let (number, bytes) = (entry.number, entry.region.mark().bytes());
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

    /// Writes a line for the region of each own grant.
    pub(super) fn show_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries
            .iter()
            .try_for_each(|entry| entry.region.mark().show(f))
    }
}
