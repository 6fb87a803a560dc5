// SPDX-License-Identifier: GPL-2.0-only

//! Control messages, in both directions.

use super::{Shared, State};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::faults::{self, FAULTS},
    channel::MAX_OP_BYTES,
    kx::{fifo::Fifo, rdma::connection::Connection},
    logic::{
        flow::{Violation, MAX_DEPTH},
        wire::{Body, GrantPart, Message, Payload, MESSAGE_BYTES},
    },
    rdma::{grant::PeerGrant, Grant},
    uapi,
};
use kernel::{prelude::*, sync::Arc};

/// Why a message of the peer's could not be taken. The endpoint ends, since nobody else has it.
pub(super) enum Untaken {
    /// The peer broke the protocol.
    Violation,
    /// This side has no memory for it.
    NoMemory,
}

impl From<Violation> for Untaken {
    fn from(_: Violation) -> Self {
        Self::Violation
    }
}

/// Most parts of grants that may wait to be sent.
const MAX_PARTS: usize = 64;

/// A message that waits for a control credit.
struct Entry {
    number: u32,
    what: What,
}

enum What {
    /// A part of a grant.
    Part(KBox<GrantPart>),
    /// An own grant is revoked.
    Revoke,
    /// A grant of the peer's is no longer in use here.
    Revoked,
}

/// Queued messages, in order: a revocation never overtakes its grant. With an honest peer there is always room for
/// revocations and their answers, because each grant has a slot for either.
pub(super) struct Outbox {
    queue: Fifo<Entry>,
    parts: usize,
}

impl Outbox {
    /// An outbox of capacity 0.
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

    /// Queues a part of a grant, or returns it when too many wait.
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
            // Only reached with capacity 0, on an endpoint that is down.
            Err(entry) => match entry.what {
                What::Part(part) => Err(part),
                What::Revoke | What::Revoked => Ok(()),
            },
        }
    }

    /// Queues a revocation. False if there is no room: the endpoint is down.
    pub(super) fn push_revoke(&mut self, number: u32) -> bool {
        let what = What::Revoke;
        self.queue.push(Entry { number, what }).is_ok()
    }

    /// Queues the answer to a revocation. False if there is no room: the peer revokes more than it granted.
    pub(super) fn push_revoked(&mut self, number: u32) -> bool {
        let what = What::Revoked;
        self.queue.push(Entry { number, what }).is_ok()
    }

    /// Takes the next message's number and body.
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
    /// Sends queued messages as far as credits and slots allow. True when the outbox has more room than before.
    pub(super) fn send_messages(&mut self, connection: &Connection<Shared>) -> bool {
        let mut drained = false;
        // Nothing is sent after a last will. Each message needs a slot: one that cannot be sent once it is dequeued is
        // lost, and the endpoint with it.
        while self.will.is_none() && !self.broken && connection.can_send_message() {
            if self.flow.credit_due() {
                if FAULTS.credit_lost.fires() {
                    let _unreported = self.flow.totals();
                } else {
                    self.broken |= self.send(connection, 0, Body::Credit).is_err();
                }
                self.flow.sent_credit();
            } else if self.withdrawing && self.flow.has_control() {
                self.withdrawing = false;
                let _spent = self.flow.take_control();
                self.broken |= self.send(connection, 0, Body::Split(0)).is_err();
            } else if core::mem::take(&mut self.keepalive.ping) {
                // If none is allowed, the peer has not answered the last ones, and hears enough.
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

    /// Announces the length of an operation in several pieces, which is posted next. False if the operation must not be
    /// posted: the announcement has to wait for a control credit or a slot, or the endpoint is broken.
    pub(super) fn announce(&mut self, connection: &Connection<Shared>, length: u32) -> bool {
        if !self.flow.has_control() || !connection.can_send_message() {
            return false;
        }
        let _spent = self.flow.take_control();
        let split = Body::Split(length.into());
        // A failure breaks the endpoint: without the announcement the peer would take the last piece for the whole.
        self.broken |= self.send(connection, 0, split).is_err();
        !self.broken
    }

    /// Withdraws an announcement: the operation ends before its last piece, so its immediate will not arrive. The
    /// credit is available again, and the withdrawal is sent before anything else is posted.
    pub(super) fn withdraw_announcement(&mut self) {
        self.flow.give_back_data();
        self.withdrawing = true;
    }

    /// Sends the bytes of a SEND and returns the message's slot. The caller has a credit.
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
        let number = match FAULTS.number_repeated.fires() {
            true => number.wrapping_sub(1),
            false => number,
        };
        self.record.message_sent(body.kind(), number);
        let reported = self.flow.reported();
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
        sent.inspect_err(|_| self.flow.take_back(reported))
    }
}

/// A grant of the peer's that is being assembled from several messages.
pub(super) struct Assembly(Option<Partial>);

struct Partial {
    number: u32,
    head: GrantPart,
    keys: KVVec<u32>,
}

impl Assembly {
    /// No grant is being assembled.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Adds a part. Returns the whole grant once its last key is there.
    fn add(&mut self, number: u32, part: &GrantPart) -> Result<Option<Partial>, Untaken> {
        if part.first == 0 {
            // Bounded by the wire format's limit on segments.
            let segments = usize::try_from(part.segments()).map_err(|_| Violation)?;
            let keys = FAULTS
                .alloc_assembly
                .fail(ENOMEM)
                .and_then(|()| Ok(KVVec::with_capacity(segments, GFP_CHARGED)?))
                .map_err(|_| Untaken::NoMemory)?;
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
            return Err(Untaken::Violation);
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
    /// Handles a message of the peer's.
    pub(super) fn take_message(&self, bytes: &[u8; MESSAGE_BYTES]) -> Result<(), Untaken> {
        let message = Message::decode(bytes).map_err(|_| Violation)?;
        let budget = message.body.budget();
        self.record.message_came(message.body.kind(), message.grant);
        {
            let mut state = self.state.lock();
            state.flow.receive_message(budget, message.totals)?;
        }
        if message.grant != message.generation {
            return Err(Untaken::Violation);
        }
        match message.body {
            Body::Credit | Body::Ping => Ok(()),
            Body::LastWill(reason) => Ok(self.take_will(reason)?),
            Body::Send(payload) => self.payload_came(&payload),
            Body::Split(length) => Ok(self.take_length(length)?),
            Body::Grant(part) => self.take_grant(message.grant, &part),
            Body::Revoke => Ok(self.take_revocation(message.grant)?),
            Body::Revoked => Ok(self.take_answer(message.grant)?),
        }
    }

    fn take_length(&self, length: u64) -> Result<(), Violation> {
        let length = u32::try_from(length).map_err(|_| Violation)?;
        let announced = &mut self.state.lock().announced;
        let makes_sense = match length {
            // The announced operation will not arrive.
            0 => announced.take().is_some(),
            _ => length <= MAX_OP_BYTES && announced.replace(length).is_none(),
        };
        makes_sense.then_some(()).ok_or(Violation)
    }

    fn take_grant(&self, number: u32, part: &GrantPart) -> Result<(), Untaken> {
        if part.rights & !(uapi::RIGHT_WRITE | uapi::RIGHT_READ) != 0 {
            return Err(Untaken::Violation);
        }
        let Some(whole) = self.assembly.lock().add(number, part)? else {
            return Ok(());
        };
        if let Some(key) = whole.keys.first() {
            faults::note_granted(*key);
        }
        let grant = PeerGrant::new(self.serial, number, &whole.head, whole.keys);
        let grant = FAULTS
            .alloc_peer_grant
            .fail(ENOMEM)
            .and_then(|()| Ok(Arc::new(grant, GFP_CHARGED)?))
            .map_err(|_| Untaken::NoMemory)?;
        // The last reference must not be dropped under the lock.
        let result = self.state.lock().grants.arrived(&grant);
        drop(grant);
        Ok(result?)
    }

    /// Handles a revocation by the peer. It is answered as soon as nothing is under way on the grant.
    fn take_revocation(&self, number: u32) -> Result<(), Violation> {
        self.assembly.lock().forget(number);
        let mut state = self.state.lock();
        let revoked = state.grants.revoked(number);
        let quiet = revoked.as_ref().is_none_or(|grant| grant.is_quiet());
        let answered = !quiet || state.outbox.push_revoked(number);
        drop(state);
        // The last reference must not be dropped under the lock.
        drop(revoked);
        if answered {
            Ok(())
        } else {
            Err(Violation)
        }
    }
}
