// SPDX-License-Identifier: GPL-2.0-only

//! Creating and revoking grants, and waiting for the peer's.

use super::{
    ending::run_by,
    grant_table::{GrantEntry, Grants, Revocation},
    Endpoint, Phase, Shared,
};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::{
        delay_points::DELAY_POINTS,
        faults::FAULTS,
        tuning::TUNING,
        wait::{elapsed_ms, Deadline},
    },
    kx::{
        completion::Completion,
        fault::Point,
        rdma::{connection::Connection, mr::Access},
        task::is_killed,
        waitq::EndedBy,
    },
    logic::{
        flow::Violation,
        wire::{GrantPart, KEYS},
    },
    memory::Memory,
    rdma::{grant::EndReason, Grant, PeerGrant, Region},
    uapi,
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};

/// Longest time to live, in nanoseconds: a day.
pub(crate) const MAX_TTL_NS: u64 = 86_400_000_000_000;

/// The terms of a grant, as its user requested them. The caller has checked all of them against the memory.
pub(crate) struct Terms {
    /// Start of the range in the memory, a multiple of the page size, in bytes.
    pub(crate) offset: u64,
    /// Bytes of the range.
    pub(crate) length: u64,
    /// `RIGHT_*` bits.
    pub(crate) rights: u32,
    /// For the peer's user.
    pub(crate) label: u64,
    /// Nanoseconds until it expires, 0 for no limit.
    pub(crate) ttl_ns: u64,
    /// Operations that it allows, 0 for no limit.
    pub(crate) max_uses: u32,
}

impl Endpoint {
    /// Gives the peer access to a range that the caller has checked. See the user-space interface for errors.
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
        // Held until the grant is listed, where a revocation of the memory finds it.
        let guard = memory.enter()?;
        let access = Access::Remote {
            read: terms.rights & uapi::RIGHT_READ != 0,
            write: terms.rights & uapi::RIGHT_WRITE != 0,
        };
        let made = Region::remote(memory, terms.offset, terms.length, access, self);
        let made = made.and_then(|region| {
            self.wait_registered(&region, deadline)
                .inspect_err(|_| region.abandon())?;
            Ok(region)
        });
        let region = made.map_err(|error| {
            // The errors of an endpoint that goes down.
            if error == ESHUTDOWN || error == ENODEV {
                ENOTCONN
            } else {
                error
            }
        })?;
        let answered = Completion::new()?;
        let end_reason = EndReason::new()?;
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
            let entry = GrantEntry {
                number,
                region: region.clone(),
                revocation: Revocation::None,
                end_reason: end_reason.clone(),
                expires,
                counted: terms.max_uses != 0,
                asked: None,
                left: None,
                answered,
            };
            // There is room: `has_room()` was checked above.
            grants
                .entries
                .push_within_capacity(entry)
                .map_err(|_| ENOMEM)?;
            number
        };
        drop(guard);
        DELAY_POINTS.grant_unannounced.pass();
        self.record().granted(number, terms.length, terms.rights);
        // Also if others' announcements come first, or this one's: the provider knows the keys.
        self.arm(expires);
        let announced = self.announce_in_turn(number, terms, &region, deadline);
        // From here on the grant's drop revokes it.
        let grant = Grant::new(self.clone(), number, region, end_reason)?;
        announced?;
        if FAULTS.revoke_at_grant.fires() {
            let _ended = self.take_back(number);
        }
        Ok(grant)
    }

    /// Waits until the provider has registered a region: `ETIMEDOUT`, or `EINTR` when the thread is killed. After
    /// either the provider may still register it, and then releases the memory.
    fn wait_registered(&self, region: &Region, deadline: Deadline) -> Result {
        deadline.wait_on(&self.shared.changed, EndedBy::Kill, || {
            region.registration()
        })?
    }

    /// Announces a grant to the peer. One grant at a time: the peer assembles one after the other.
    fn announce_in_turn(
        &self,
        number: u32,
        terms: &Terms,
        region: &Region,
        deadline: Deadline,
    ) -> Result {
        // The grant exists already, and a signal would require its revocation: only a kill ends the wait.
        deadline.wait_on(&self.shared.changed, EndedBy::Kill, || {
            let mut state = self.shared.state.lock();
            if let Phase::Down(_) = state.phase {
                return Some(Err(ENOTCONN));
            }
            if !state.grants.is_live(number) {
                return Some(Err(ESTALE));
            }
            let alone = !state.grants.sending;
            state.grants.sending = true;
            alone.then_some(Ok(()))
        })??;
        let announced = self.announce(number, terms, region, deadline);
        self.shared.state.lock().grants.sending = false;
        self.shared.changed.wake_all();
        announced
    }

    /// Queues the messages that announce a grant to the peer.
    fn announce(&self, number: u32, terms: &Terms, region: &Region, deadline: Deadline) -> Result {
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
            let mut waiting = Some(KBox::new(part, GFP_CHARGED)?);
            deadline.wait_on(&self.shared.changed, EndedBy::Kill, || {
                let mut state = self.shared.state.lock();
                if let Phase::Down(_) = state.phase {
                    return Some(Err(ENOTCONN));
                }
                // The peer was or will be asked to return the grant: no part of it may follow that message.
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
            self.shared.pump(&self.connection);
        }
        Ok(())
    }

    /// Revokes a grant for its owner, see [`Shared::take_back`].
    pub(crate) fn take_back(&self, number: u32) -> bool {
        let why = uapi::GRANT_END_REVOKED;
        self.shared.take_back(&self.connection, number, why)
    }

    /// Waits for the peer's next grant. `ERESTARTSYS` on a signal: nothing was made yet.
    pub(crate) fn wait_grant(&self, deadline: Deadline) -> Result<Arc<PeerGrant>> {
        deadline.wait_on(&self.shared.changed, EndedBy::AnySignal, || {
            let mut state = self.shared.state.lock();
            match (state.grants.inbox.pop(), state.phase) {
                (Some(grant), _) => Some(Ok(grant)),
                (None, Phase::Down(_)) => Some(Err(ENOTCONN)),
                (None, _) => None,
            }
        })?
    }

    /// Puts back a grant that could not be handed to the user: it is the next one to be taken, unless it was revoked.
    pub(crate) fn return_grant(&self, grant: Arc<PeerGrant>) {
        let refused = {
            let mut state = self.shared.state.lock();
            if grant.is_revoked() {
                Err(grant)
            } else {
                // The slot that it had is free. Without one the endpoint is down.
                state.grants.inbox.push_front(grant)
            }
        };
        drop(refused);
        self.shared.changed.wake_all();
    }

    /// Whether this endpoint's peer gave a grant.
    pub(crate) fn gave(&self, grant: &PeerGrant) -> bool {
        grant.serial() == self.shared.serial
    }
}

impl Shared {
    /// Notifies the peer that a grant is revoked. Returns the completion of the answer and when the peer was asked;
    /// `None` if no answer can come.
    fn ask_back(&self, number: u32) -> Option<(Arc<Completion>, Instant<Monotonic>)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        let up = matches!(state.phase, Phase::Up);
        let entry = state
            .grants
            .entries
            .iter_mut()
            .find(|entry| entry.number == number)?;
        let ask = entry.revocation == Revocation::None;
        if !up || (ask && !state.outbox.push_revoke(number)) {
            return None;
        }
        if ask {
            entry.revocation = Revocation::Asked;
            // Its announcement may wait for its turn, or for room.
            self.changed.wake_all();
        }
        let asked = *entry.asked.get_or_insert_with(Instant::now);
        Some((entry.answered.clone(), asked))
    }

    /// Revokes a grant: notifies the peer, waits until it has nothing under way, and ends the access. When this returns
    /// true, nothing of the peer's reaches the range, whatever the peer did. False when the owner was killed during the
    /// wait: the access then ends when the peer has answered, or its time for that is over.
    pub(super) fn take_back(&self, connection: &Connection<Self>, number: u32, why: u32) -> bool {
        self.record.revoking(number, why);
        if let Some((answer, asked)) = self.ask_back(number) {
            self.pump(connection);
            // Without an answer the access still ends, just below.
            let left = TUNING.answer_ms().saturating_sub(elapsed_ms(asked));
            if why == uapi::GRANT_END_REVOKED {
                let killed = !answer.wait_killable_for(left) && is_killed();
                if killed && self.leave_to_timer(number, asked, why) {
                    return false;
                }
            } else {
                // The thread that revokes memory may be killed. That is no reason to break the connections of those who
                // use it, as ending an access in the middle of a write does.
                let _answered = answer.wait_timeout(left);
            }
        }
        // An endpoint that ends wakes the waiters. Its last will goes first: ending an access in the middle of a write
        // would discard it.
        self.await_will();
        DELAY_POINTS.grant_returned.pass();
        self.fence(number, why);
        true
    }

    /// Leaves the end of a grant that the peer was asked to return to the answer and the timer; false if neither can
    /// come.
    fn leave_to_timer(&self, number: u32, asked: Instant<Monotonic>, why: u32) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut entries = state.grants.entries.iter_mut();
        let Some(entry) = entries.find(|entry| entry.number == number) else {
            return false;
        };
        if !matches!(state.phase, Phase::Up) || entry.revocation != Revocation::Asked {
            return false;
        }
        let Some(timer) = &state.timer else {
            return false;
        };
        let end = asked + Delta::from_millis(TUNING.answer_ms().into());
        entry.left = Some((end, why));
        run_by(timer, &mut state.next_expiry, end);
        true
    }

    /// Revokes the grants that have expired, and ends those for which nobody waits and the peer's time is over. Waits
    /// for nobody: the timer has more to do.
    pub(super) fn end_expired(&self, connection: &Connection<Self>, now: Instant<Monotonic>) {
        let mut last = 0;
        while let Some(number) = self.next_entry(last, |entry: &GrantEntry| entry.is_expired(now)) {
            let why = uapi::GRANT_END_EXPIRED;
            self.record.revoking(number, why);
            let asked = self.ask_back(number);
            let left = asked.is_some_and(|(_, asked)| self.leave_to_timer(number, asked, why));
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

    /// Ends a grant's access and notifies its watchers.
    pub(super) fn fence(&self, number: u32, why: u32) {
        let region = {
            let state = self.state.lock();
            let mut entries = state.grants.entries.iter();
            let entry = entries.find(|entry| entry.number == number);
            entry.map(|entry| entry.region.clone())
        };
        // The lock of the region makes a second caller wait for the first.
        if let Some(region) = region {
            region.revoke();
        }
        let entry = {
            let mut state = self.state.lock();
            let grants = &mut state.grants;
            let at = grants
                .entries
                .iter()
                .position(|entry| entry.number == number);
            at.and_then(|at| grants.entries.remove(at).ok())
        };
        if let Some(entry) = entry {
            entry.end_reason.settle(why);
            drop(entry);
            self.record.grant_ended(number, why);
            self.grant_ended(number, why);
        }
    }

    /// Ends the oldest grant when a fault point fires. The peer is not asked: a write that it still sends breaks the
    /// connection.
    pub(super) fn fence_if(&self, point: &Point) {
        if point.fires() {
            let first = {
                let state = self.state.lock();
                state.grants.entries.first().map(|entry| entry.number)
            };
            if let Some(number) = first {
                self.fence(number, uapi::GRANT_END_REVOKED);
            }
        }
    }

    /// Revokes all grants that `due` selects: first asks the peer for all, then waits for all.
    pub(super) fn fence_grants(
        &self,
        connection: &Connection<Self>,
        why: u32,
        due: impl Fn(&GrantEntry) -> bool,
    ) {
        self.ask_back_all(connection, &due);
        let mut last = 0;
        while let Some(number) = self.next_entry(last, &due) {
            let _ended = self.take_back(connection, number, why);
            last = number;
        }
    }

    /// Asks the peer to return all grants that `due` selects. Does not wait.
    pub(super) fn ask_back_all(
        &self,
        connection: &Connection<Self>,
        due: impl Fn(&GrantEntry) -> bool,
    ) {
        let mut last = 0;
        while let Some(number) = self.next_entry(last, &due) {
            let _asked = self.ask_back(number);
            last = number;
        }
        if last != 0 {
            self.pump(connection);
        }
    }

    /// The number of the first grant after `after` that `due` selects.
    pub(super) fn next_entry(&self, after: u32, due: impl Fn(&GrantEntry) -> bool) -> Option<u32> {
        let state = self.state.lock();
        let numbers = state.grants.entries.iter();
        let behind = numbers.filter(|entry| entry.number > after && due(entry));
        behind.map(|entry| entry.number).min()
    }

    /// Handles a grant that the peer returns: it was asked to, or the uses are used up.
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
                state.grants.entries.first().map(|entry| entry.number)
            };
            let Some(number) = first else { break };
            self.fence(number, uapi::GRANT_END_ENDPOINT);
        }
        let grants = core::mem::replace(&mut self.state.lock().grants, Grants::none());
        drop(grants);
        self.changed.wake_all();
    }
}
