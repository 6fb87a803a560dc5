// SPDX-License-Identifier: GPL-2.0-only

//! Control messages, in both directions.

use super::{Shared, State};
use crate::{
    channel::MAX_OP_BYTES,
    faults::{self, FAULTS},
    kx::{fifo::Fifo, rdma::connection::Connection},
    logic::{
        flow::{Violation, MAX_DEPTH},
        wire::{Body, GrantPart, Message, Payload, MESSAGE_BYTES},
    },
    rdma::{grant::PeerGrant, Grant},
    uapi,
};
use kernel::{prelude::*, sync::Arc};

/// Parts of grants that may wait to be sent.
const MAX_PARTS: usize = 64;

/// A message that waits for a control credit.
struct Entry {
    number: u32,
    what: What,
}

enum What {
    /// A part of a grant.
    Part(KBox<GrantPart>),
    /// A grant of this side's is taken back.
    Revoke,
    /// A grant of the peer's is out of use here.
    Revoked,
}

/// Messages that wait, in order: a revocation never overtakes its grant. Revocations and their answers always find
/// room with an honest peer, because each grant has a place for either.
pub(super) struct Outbox {
    queue: Fifo<Entry>,
    parts: usize,
}

impl Outbox {
    /// An outbox without room.
    pub(super) const fn none() -> Self {
        Self {
            queue: Fifo::none(),
            parts: 0,
        }
    }

    /// An outbox for one endpoint.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            queue: Fifo::new(MAX_PARTS + 2 * Grant::MAX_PER_ENDPOINT)?,
            parts: 0,
        })
    }

    /// Queues a part of a grant, or gives it back when too many wait.
    pub(super) fn push_part(
        &mut self,
        number: u32,
        part: KBox<GrantPart>,
    ) -> core::result::Result<(), KBox<GrantPart>> {
        if self.parts >= MAX_PARTS {
            return Err(part);
        }
        let what = What::Part(part);
        match self.queue.push(Entry { number, what }) {
            Ok(()) => {
                self.parts += 1;
                Ok(())
            }
            // Only reached without room at all, in an endpoint that is over.
            Err(entry) => match entry.what {
                What::Part(part) => Err(part),
                What::Revoke | What::Revoked => Ok(()),
            },
        }
    }

    /// Queues a revocation. False without room: then the endpoint is over.
    pub(super) fn push_revoke(&mut self, number: u32) -> bool {
        let what = What::Revoke;
        self.queue.push(Entry { number, what }).is_ok()
    }

    /// Queues the answer to a revocation. False without room: the peer revokes more than it granted.
    pub(super) fn push_revoked(&mut self, number: u32) -> bool {
        let what = What::Revoked;
        self.queue.push(Entry { number, what }).is_ok()
    }

    /// The next message's name and body.
    fn pop(&mut self) -> Option<(u32, Body)> {
        let Entry { number, what } = self.queue.pop()?;
        let body = match what {
            What::Part(part) => {
                self.parts -= 1;
                Body::Grant(*part)
            }
            What::Revoke => Body::Revoke,
            What::Revoked => Body::Revoked,
        };
        Some((number, body))
    }

    fn is_empty(&self) -> bool {
        self.queue.front().is_none()
    }
}

impl State {
    /// Sends what waits and is allowed. True when the outbox has more room than before.
    pub(super) fn send_messages(&mut self, connection: &Connection<Shared>) -> bool {
        let mut drained = false;
        // Nothing comes after a last will. Whether there is a slot is asked each time: what cannot be sent then is lost, and
        // with it the endpoint.
        while self.will.is_none() && !self.broken && connection.can_send_message() {
            if self.flow.credit_due() {
                if FAULTS.credit_lost.fires() {
                    let _untold = self.flow.totals();
                } else {
                    self.broken |= self.send(connection, 0, Body::Credit).is_err();
                }
                self.flow.sent_credit();
            } else if core::mem::take(&mut self.pulse.ping) {
                // Without room for one the peer has not answered the last ones, and hears enough.
                if self.flow.may_ping() {
                    self.broken |= self.send(connection, 0, Body::Ping).is_err();
                    self.flow.sent_credit();
                }
            } else if self.flow.has_control() && !self.outbox.is_empty() {
                let Some((number, body)) = self.outbox.pop() else {
                    break;
                };
                let _spent = self.flow.take_control();
                drained = true;
                self.broken |= self.send(connection, number, body).is_err();
            } else {
                break;
            }
        }
        drained
    }

    /// Announces the length of an operation in several pieces, which is posted next. False when it must not be: that has to
    /// wait for a control credit or a slot, or the endpoint is broken.
    pub(super) fn announce(&mut self, connection: &Connection<Shared>, length: u32) -> bool {
        if !self.flow.has_control() || !connection.can_send_message() {
            return false;
        }
        let _spent = self.flow.take_control();
        let split = Body::Split(length.into());
        // As above. Without the announcement the peer would take the last piece for all.
        self.broken |= self.send(connection, 0, split).is_err();
        !self.broken
    }

    /// Sends a user's few bytes and tells the message's slot. The caller has a credit.
    pub(super) fn send_payload(
        &mut self,
        connection: &Connection<Shared>,
        payload: Payload,
    ) -> Result<u16> {
        self.send(connection, 0, Body::Send(payload))
    }

    pub(super) fn send(
        &mut self,
        connection: &Connection<Shared>,
        number: u32,
        body: Body,
    ) -> Result<u16> {
        self.record.message_sent(body.kind(), number);
        let told = self.flow.told();
        let mut message = Message {
            grant: number,
            generation: number,
            totals: self.flow.totals(),
            body,
        };
        if FAULTS.totals_forged.fires() {
            message.totals.data_limit = message.totals.data_limit.wrapping_add(MAX_DEPTH + 1);
        }
        if FAULTS.generation_forged.fires() {
            message.generation = number.wrapping_add(1);
        }
        let invalidate = FAULTS.send_invalidates.fires().then(faults::granted_key);
        let sent = connection.send_message(&message.encode(), invalidate);
        sent.inspect_err(|_| self.flow.untell(told))
    }
}

/// The peer's grant that is being put together from several messages.
pub(super) struct Assembly(Option<Partial>);

struct Partial {
    number: u32,
    head: GrantPart,
    keys: KVVec<u32>,
}

impl Assembly {
    /// Nothing is being put together.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Adds a part; the whole grant once its last key is there.
    fn add(&mut self, number: u32, part: &GrantPart) -> Result<Option<Partial>, Violation> {
        if part.first == 0 {
            // Bounded by the wire format's limit on segments.
            FAULTS.alloc_assembly.fail(ENOMEM).map_err(|_| Violation)?;
            let segments = usize::try_from(part.segments()).map_err(|_| Violation)?;
            let keys = KVVec::with_capacity(segments, GFP_KERNEL).map_err(|_| Violation)?;
            self.0 = Some(Partial {
                number,
                head: *part,
                keys,
            });
        }
        let partial = self.0.as_mut().ok_or(Violation)?;
        let same = partial.number == number
            && partial.head.length == part.length
            && partial.head.label == part.label
            && partial.head.rights == part.rights
            && partial.head.max_uses == part.max_uses
            && partial.head.segment_shift == part.segment_shift
            && partial.keys.len() == part.first as usize;
        if !same {
            return Err(Violation);
        }
        for key in part.keys() {
            partial
                .keys
                .push_within_capacity(*key)
                .map_err(|_| Violation)?;
        }
        if partial.keys.len() as u64 == part.segments() {
            return Ok(self.0.take());
        }
        Ok(None)
    }

    fn forget(&mut self, number: u32) {
        if self
            .0
            .as_ref()
            .is_some_and(|partial| partial.number == number)
        {
            self.0 = None;
        }
    }
}

impl Shared {
    /// Reads a message of the peer's.
    pub(super) fn take_message(&self, bytes: &[u8; MESSAGE_BYTES]) -> Result<(), Violation> {
        let message = Message::decode(bytes).map_err(|_| Violation)?;
        let budget = message.body.budget();
        self.record.message_came(message.body.kind(), message.grant);
        {
            let mut state = self.state.lock();
            state.flow.receive_message(budget, message.totals)?;
        }
        if message.grant != message.generation {
            return Err(Violation);
        }
        match message.body {
            Body::Credit | Body::Ping => Ok(()),
            Body::LastWill(reason) => self.take_will(reason),
            Body::Send(payload) => self.payload_came(&payload),
            Body::Split(length) => self.take_length(length),
            Body::Grant(part) => self.take_grant(message.grant, &part),
            Body::Revoke => self.take_revocation(message.grant),
            Body::Revoked => self.take_answer(message.grant),
        }
    }

    fn take_length(&self, length: u64) -> Result<(), Violation> {
        let length = u32::try_from(length).map_err(|_| Violation)?;
        let before = self.state.lock().announced.replace(length);
        if length == 0 || length > MAX_OP_BYTES || before.is_some() {
            return Err(Violation);
        }
        Ok(())
    }

    fn take_grant(&self, number: u32, part: &GrantPart) -> Result<(), Violation> {
        if part.rights & !(uapi::RIGHT_WRITE | uapi::RIGHT_READ) != 0 {
            return Err(Violation);
        }
        let Some(whole) = self.assembly.lock().add(number, part)? else {
            return Ok(());
        };
        FAULTS.alloc_peer_grant.fail(ENOMEM).map_err(|_| Violation)?;
        if let Some(key) = whole.keys.first() {
            faults::note_granted(*key);
        }
        let grant = PeerGrant::new(self.serial, number, &whole.head, whole.keys);
        let grant = Arc::new(grant, GFP_KERNEL).map_err(|_| Violation)?;
        // The last reference may not go under the lock.
        let result = self.state.lock().grants.arrived(&grant);
        drop(grant);
        result
    }

    /// The peer takes a grant back: answered as soon as nothing is under way on it.
    fn take_revocation(&self, number: u32) -> Result<(), Violation> {
        self.assembly.lock().forget(number);
        let mut state = self.state.lock();
        let revoked = state.grants.revoked(number);
        let quiet = revoked.as_ref().is_none_or(|grant| grant.is_quiet());
        let answered = !quiet || state.outbox.push_revoked(number);
        drop(state);
        // The last reference may not go under the lock.
        drop(revoked);
        if answered {
            Ok(())
        } else {
            Err(Violation)
        }
    }
}
