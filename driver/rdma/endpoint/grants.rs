// SPDX-License-Identifier: GPL-2.0-only

//! Giving grants and taking them back, and waiting for those of the peer.

use super::{
    ending::run_by,
    given::{Given, Grants, Revocation},
    Endpoint, Phase, Shared,
};
use crate::{
    faults::FAULTS,
    kx::{
        fault::Point,
        rdma::{connection::Connection, mr::Access},
        signal::Signal,
        task::is_killed,
    },
    logic::{
        flow::Violation,
        wire::{GrantPart, KEYS},
    },
    memory::{Memory, Region},
    rdma::{grant::Fate, Grant, PeerGrant},
    tuning::TUNING,
    uapi,
    wait::{elapsed_ms, Deadline},
    windows::WINDOWS,
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};

/// Longest time to live, in nanoseconds: a day.
pub(crate) const MAX_TTL_NS: u64 = 86_400_000_000_000;

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
    /// Nanoseconds until it ends by itself, 0 for no limit.
    pub(crate) ttl_ns: u64,
    /// Operations that it allows, 0 for no limit.
    pub(crate) max_uses: u32,
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
        memory.wait_ready(terms.rights & uapi::RIGHT_WRITE != 0)?;
        // Until the grant is listed: a revocation of the memory then finds it.
        let guard = memory.enter()?;
        let access = Access::Remote {
            read: terms.rights & uapi::RIGHT_READ != 0,
            write: terms.rights & uapi::RIGHT_WRITE != 0,
        };
        let region =
            Region::remote(memory, terms.offset, terms.length, access, self).map_err(|error| {
                // The ways in which an endpoint that goes down fails.
                if error == ESHUTDOWN || error == ENODEV {
                    ENOTCONN
                } else {
                    error
                }
            })?;
        let answered = Signal::new()?;
        let fate = Fate::new()?;
        let expires = match terms.ttl_ns {
            0 => None,
            limit => Some(Instant::now() + Delta::from_nanos(limit.min(MAX_TTL_NS) as i64)),
        };
        let number = {
            let mut state = self.shared.state.lock();
            if let Phase::Down(_) = state.phase {
                return Err(ENOTCONN);
            }
            let grants = &mut state.grants;
            if !grants.has_room(region.keys().len()) {
                return Err(EMFILE);
            }
            let number = grants.next;
            grants.next = number.checked_add(1).ok_or(EOVERFLOW)?;
            let given = Given {
                number,
                region: region.clone(),
                revocation: Revocation::None,
                fate: fate.clone(),
                expires,
                counted: terms.max_uses != 0,
                asked: None,
                left: None,
                answered,
            };
            // There is room, see above.
            grants
                .given
                .push_within_capacity(given)
                .map_err(|_| ENOMEM)?;
            number
        };
        drop(guard);
        WINDOWS.granting.pass();
        self.record().granted(number, terms.length, terms.rights);
        let told = self.tell_alone(number, terms, &region, deadline);
        // From here on the grant's drop takes it back.
        let grant = Grant::new(self.clone(), number, region, fate)?;
        told?;
        self.arm(expires);
        if FAULTS.revoke_at_grant.fires() {
            let _ended = self.take_back(number);
        }
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
                max_uses: terms.max_uses,
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
                    // The peer has been asked for it, or will be: nothing of it may come behind that.
                    if region.memory().is_revoked() || !state.grants.is_live(number) {
                        return Some(Err(ESTALE));
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

    /// Takes a grant back for its owner, see [`Shared::take_back`].
    pub(crate) fn take_back(&self, number: u32) -> bool {
        let why = uapi::GRANT_END_REVOKED;
        self.shared.take_back(&self.connection, number, why)
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

    /// Gives a grant back that could not be handed to the user: it is the next one to be taken, if it still lives.
    pub(crate) fn return_grant(&self, grant: Arc<PeerGrant>) {
        let refused = {
            let mut state = self.shared.state.lock();
            if grant.is_revoked() {
                Err(grant)
            } else {
                // The place it had is free; without one the endpoint is over.
                state.grants.inbox.push_front(grant)
            }
        };
        drop(refused);
        self.shared.changed.notify_all();
    }

    /// Whether this endpoint's peer gave a grant.
    pub(crate) fn gave(&self, grant: &PeerGrant) -> bool {
        grant.serial() == self.shared.serial
    }
}

impl Shared {
    /// Tells the peer that a grant is taken back; the signal of its answer, unless none can come.
    fn ask_back(&self, number: u32) -> Option<(Arc<Signal>, Instant<Monotonic>)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let up = matches!(state.phase, Phase::Up);
        let given = state
            .grants
            .given
            .iter_mut()
            .find(|given| given.number == number)?;
        let ask = given.revocation == Revocation::None;
        if !up || (ask && !state.outbox.push_revoke(number)) {
            return None;
        }
        if ask {
            given.revocation = Revocation::Asked;
        }
        let asked = *given.asked.get_or_insert_with(Instant::now);
        Some((given.answered.clone(), asked))
    }

    /// Takes a grant back: tells the peer, waits until it has nothing under way, and ends the access. When this
    /// returns true, nothing of the peer's lands in the range, whatever the peer did. False when its owner was killed in the
    /// wait: the access ends when the peer has answered, or with its time for that.
    pub(super) fn take_back(&self, connection: &Connection<Self>, number: u32, why: u32) -> bool {
        self.record.revoking(number, why);
        if let Some((answer, asked)) = self.ask_back(number) {
            self.pump(connection);
            // Without an answer the access ends all the same, just below.
            let left = TUNING.answer_ms().saturating_sub(elapsed_ms(asked));
            if why == uapi::GRANT_END_REVOKED {
                let killed = !answer.wait_killable_for(left) && is_killed();
                if killed && self.leave_to_clock(number, asked, why) {
                    return false;
                }
            } else {
                // Whoever takes memory away may be killed: that is no reason to end the connections of those who had it,
                // which an access that ends in mid-write does.
                let _answered = answer.wait_at_most(left);
            }
        }
        // An endpoint that ends wakes whoever waits. Its last will comes first: what ends in mid-write takes that along.
        self.await_will();
        WINDOWS.answered.pass();
        self.fence(number, why);
        true
    }

    /// Leaves the end of a grant that the peer was asked for to its answer and to the clock; false when neither can come.
    fn leave_to_clock(&self, number: u32, asked: Instant<Monotonic>, why: u32) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut given = state.grants.given.iter_mut();
        let Some(given) = given.find(|given| given.number == number) else {
            return false;
        };
        if !matches!(state.phase, Phase::Up) || given.revocation != Revocation::Asked {
            return false;
        }
        let Some(clock) = &state.clock else {
            return false;
        };
        let end = asked + Delta::from_millis(TUNING.answer_ms().into());
        given.left = Some((end, why));
        run_by(clock, &mut state.next_tick, end);
        true
    }

    /// Takes back the grants whose time to live is over, and ends those for which nobody waits and the peer's time is over.
    /// Waits for nobody: the clock has more to do.
    pub(super) fn end_expired(&self, connection: &Connection<Self>, now: Instant<Monotonic>) {
        let mut last = 0;
        while let Some(number) = self.next_given(last, |given: &Given| given.is_expired(now)) {
            let why = uapi::GRANT_END_EXPIRED;
            self.record.revoking(number, why);
            let asked = self.ask_back(number);
            let left = asked.is_some_and(|(_, asked)| self.leave_to_clock(number, asked, why));
            if !left {
                self.fence(number, why);
            }
            last = number;
        }
        if last != 0 {
            self.pump(connection);
        }
        loop {
            let first = self.state.lock().grants.first_left(now);
            let Some((number, why)) = first else { break };
            self.fence(number, why);
        }
    }

    /// Ends a grant's access and tells whoever watches it.
    pub(super) fn fence(&self, number: u32, why: u32) {
        let region = {
            let state = self.state.lock();
            let mut given = state.grants.given.iter();
            let given = given.find(|given| given.number == number);
            given.map(|given| given.region.clone())
        };
        // The lock of the region makes a second caller wait for the first.
        if let Some(region) = region {
            region.revoke();
        }
        let given = {
            let mut state = self.state.lock();
            let grants = &mut state.grants;
            let at = grants.given.iter().position(|given| given.number == number);
            at.and_then(|at| grants.given.remove(at).ok())
        };
        if let Some(given) = given {
            given.fate.settle(why);
            drop(given);
            self.record.fenced(number, why);
            self.grant_ended(number, why);
        }
    }

    /// Ends the oldest grant when a fault point fires. The peer is not asked: what it still writes ends the connection.
    pub(super) fn fence_if(&self, point: &Point) {
        if point.fires() {
            let first = {
                let state = self.state.lock();
                state.grants.given.first().map(|given| given.number)
            };
            if let Some(number) = first {
                self.fence(number, uapi::GRANT_END_REVOKED);
            }
        }
    }

    /// Takes back all grants that `due` chooses: first all are asked for, then all are waited for.
    pub(super) fn fence_grants(
        &self,
        connection: &Connection<Self>,
        why: u32,
        due: impl Fn(&Given) -> bool,
    ) {
        self.ask_back_all(connection, &due);
        let mut last = 0;
        while let Some(number) = self.next_given(last, &due) {
            let _ended = self.take_back(connection, number, why);
            last = number;
        }
    }

    /// Asks the peer for all grants that `due` chooses. Does not wait.
    pub(super) fn ask_back_all(&self, connection: &Connection<Self>, due: impl Fn(&Given) -> bool) {
        let mut last = 0;
        while let Some(number) = self.next_given(last, &due) {
            let _asked = self.ask_back(number);
            last = number;
        }
        if last != 0 {
            self.pump(connection);
        }
    }

    /// The first grant behind a number that `due` chooses.
    pub(super) fn next_given(&self, after: u32, due: impl Fn(&Given) -> bool) -> Option<u32> {
        let state = self.state.lock();
        let numbers = state.grants.given.iter();
        let behind = numbers.filter(|given| given.number > after && due(given));
        behind.map(|given| given.number).min()
    }

    /// The peer gives a grant back, as it was asked to or because its uses are used up.
    pub(super) fn take_answer(&self, number: u32) -> Result<(), Violation> {
        let ended = self.state.lock().grants.answered(number)?;
        if let Some(why) = ended {
            self.fence(number, why);
        }
        Ok(())
    }

    /// Ends all grants. The queue pair is gone.
    pub(super) fn end_grants(&self) {
        loop {
            let first = {
                let state = self.state.lock();
                state.grants.given.first().map(|given| given.number)
            };
            let Some(number) = first else { break };
            self.fence(number, uapi::GRANT_END_ENDPOINT);
        }
        let grants = core::mem::replace(&mut self.state.lock().grants, Grants::none());
        drop(grants);
        self.changed.notify_all();
    }
}
