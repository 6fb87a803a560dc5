// SPDX-License-Identifier: GPL-2.0-only

//! Receives: what the peer's WRITE_IMMs and SENDs consume.
//!
//! A receive that is canceled leaves its credit behind, because the peer may be spending it already. The next receive
//! takes the credit over, and with it what came meanwhile: so nothing that arrives is lost.
//!
//! Receives end in order, unless they are canceled: one that says that the peer is dead is the last that can say anything.

use super::{ending::earlier, operations::DONE, Endpoint, Shared, State};
use crate::{
    channel::Ticket,
    faults::FAULTS,
    kx::{fifo::Fifo, rdma::connection::Connection},
    logic::{
        flow::{Flow, Violation},
        operation::End,
        wire::Payload,
    },
    memory::Guard,
    windows::WINDOWS,
};
use kernel::{
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// Longest time for which the peer is not told of a receive, in milliseconds.
const HELD_BACK_MS: u32 = 10;

/// Where a SEND's bytes go.
pub(crate) struct Target {
    /// The memory; the caller has checked the range.
    pub(crate) guard: Guard,
    /// Start, bytes.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u32,
}

/// A receive that waits.
pub(super) struct Receive {
    pub(super) ticket: Ticket,
    target: Option<Target>,
}

/// What came.
pub(super) struct Arrival {
    pub(super) imm: u32,
    length: u32,
    /// The bytes of a SEND.
    payload: Option<KBox<Payload>>,
}

/// The receives of one endpoint, with all their memory allocated at the start.
pub(super) struct Receives {
    /// Those that wait, in order.
    pub(super) waiting: Fifo<Receive>,
    /// Credits of receives that were canceled.
    orphans: u32,
    /// What came on such credits, in order.
    arrived: Fifo<Arrival>,
}

/// What becomes of a receive that the user posts.
enum Posting {
    /// It waits.
    Waits,
    /// Something is here for it already.
    Meets(Receive, Arrival),
    /// It cannot be.
    Refused(Receive, Option<Error>),
    /// Its memory is being taken away.
    Revoked(Receive),
}

impl Receives {
    /// No room.
    pub(super) const fn none() -> Self {
        Self {
            waiting: Fifo::none(),
            orphans: 0,
            arrived: Fifo::none(),
        }
    }

    /// Room for a depth.
    pub(super) fn new(depth: usize) -> Result<Self> {
        Ok(Self {
            waiting: Fifo::new(depth)?,
            orphans: 0,
            arrived: Fifo::new(depth)?,
        })
    }

    fn post(&mut self, flow: &mut Flow, receive: Receive) -> Posting {
        if let Some(arrival) = self.arrived.pop() {
            return Posting::Meets(receive, arrival);
        }
        if self.orphans > 0 {
            self.orphans -= 1;
        } else if !flow.post_receive() {
            return Posting::Refused(receive, Some(ENOBUFS));
        }
        // The depth bounds both, so that there is room.
        match self.waiting.push(receive) {
            Ok(()) => Posting::Waits,
            Err(receive) => Posting::Refused(receive, Some(ENOBUFS)),
        }
    }

    /// Something came: the receive for it, unless it has to wait for one. A violation when nobody told the peer of
    /// room for it.
    fn arrive(&mut self, arrival: Arrival) -> Result<Option<(Receive, Arrival)>, Violation> {
        if let Some(receive) = self.waiting.pop() {
            return Ok(Some((receive, arrival)));
        }
        self.orphans = self.orphans.checked_sub(1).ok_or(Violation)?;
        // There is room: arrivals that wait are as many as credits were left behind.
        self.arrived.push(arrival).map_err(|_| Violation)?;
        Ok(None)
    }

    /// The earliest time limit of those that wait.
    pub(super) fn next_deadline(&mut self) -> Option<Instant<Monotonic>> {
        let mut next = None;
        self.waiting
            .for_each(|receive| next = earlier(next, receive.ticket.deadline()));
        next
    }

    /// Takes a receive that is to end before its time.
    pub(super) fn take(&mut self, wanted: impl Fn(&Receive) -> bool) -> Option<Receive> {
        let receive = self.waiting.remove_first(wanted)?;
        self.orphans += 1;
        Some(receive)
    }
}

impl State {
    /// When the clock tells the peer of receives that are held back, if nothing else comes before. The clock asks too: one
    /// that was held back while it ran took that run for the one to come.
    pub(super) fn telling(&self) -> Option<Instant<Monotonic>> {
        let later = || Instant::now() + Delta::from_millis(HELD_BACK_MS.into());
        self.flow.holds_back().then(later)
    }

    /// Something came, which has been counted.
    fn note_arrival(&self, imm: u32, length: u32) {
        let receive = self.receives.waiting.front();
        let trace_id = receive.map_or(0, |receive| receive.ticket.trace_id());
        let seq = self.flow.data_received();
        self.record.arrived(trace_id, seq, imm, length);
    }
}

impl Receive {
    /// The key of the memory that it uses.
    pub(super) fn memory(&self) -> Option<usize> {
        let target = self.target.as_ref();
        target.map(|target| target.guard.memory().key())
    }

    /// Whether its memory is being taken away.
    fn is_revoked(&self) -> bool {
        let target = self.target.as_ref();
        target.is_some_and(|target| target.guard.memory().is_revoked())
    }

    /// Completes it with what came. Copies the bytes of a SEND, so never under a lock.
    fn complete(mut self, arrival: &Arrival) {
        let payload = arrival.payload.as_deref();
        let bytes = payload.map_or(&[][..], Payload::bytes);
        let room = self.target.as_ref().map_or(0, |target| target.length);
        self.ticket.set_arrival(arrival.imm, arrival.length);
        if bytes.len() > room as usize {
            return self.ticket.fail(EMSGSIZE);
        }
        if let Some(target) = &self.target {
            target.guard.write(target.offset, bytes);
        }
        self.ticket.complete(DONE);
    }
}

impl Endpoint {
    /// Takes a receive over. Its completion comes whatever happens.
    pub(crate) fn post_receive(&self, mut ticket: Ticket, target: Option<Target>) {
        ticket.on(self.record());
        let deadline = ticket.deadline();
        let receive = Receive { ticket, target };
        let (posting, telling) = {
            let mut state = self.shared.state.lock();
            let state = &mut *state;
            // Not refused as soon as the endpoint is down: what arrived before may still be delivered, to those ahead of it
            // or, where they were canceled, to this one.
            let posting = if !state.receiving && state.receives.arrived.len() == 0 {
                Posting::Refused(receive, None)
            } else if receive.is_revoked() {
                Posting::Revoked(receive)
            } else {
                state.receives.post(&mut state.flow, receive)
            };
            (posting, state.telling())
        };
        match posting {
            Posting::Waits => {
                self.arm(earlier(deadline, telling));
                self.shared.pump(&self.connection);
            }
            Posting::Meets(receive, arrival) => receive.complete(&arrival),
            Posting::Revoked(Receive { ticket, target }) => {
                ticket.complete(End::Revoked.outcome());
                drop(target);
            }
            Posting::Refused(Receive { ticket, target }, why) => {
                match why {
                    Some(error) => ticket.fail(error),
                    None => ticket.complete(self.shared.down_cause().outcome()),
                }
                drop(target);
            }
        }
    }
}

impl Shared {
    /// Tells the peer of receives that were held back for long enough.
    pub(super) fn tell_held_back(&self, connection: &Connection<Self>) {
        {
            let mut state = self.state.lock();
            if !state.flow.holds_back() {
                return;
            }
            state.flow.hasten();
        }
        self.pump(connection);
    }

    /// A WRITE_IMM came.
    pub(super) fn data_came(&self, imm: u32, length: u32) -> Result<(), Violation> {
        WINDOWS.arrived.pass();
        let met = {
            let mut state = self.state.lock();
            let state = &mut *state;
            if !state.receiving {
                return Ok(());
            }
            let length = state.announced.take().unwrap_or(length);
            state.flow.receive_data()?;
            state.note_arrival(imm, length);
            state.receives.arrive(Arrival {
                imm,
                length,
                payload: None,
            })?
        };
        self.deliver(met, imm);
        Ok(())
    }

    /// A SEND came; its credit was counted with its message.
    pub(super) fn payload_came(&self, payload: &Payload) -> Result<(), Violation> {
        let (imm, length) = (payload.imm, payload.length);
        WINDOWS.arrived.pass();
        // Without memory the arrival would be lost: better the endpoint, visibly.
        FAULTS.alloc_arrival.fail(ENOMEM).map_err(|_| Violation)?;
        let boxed = KBox::new(*payload, GFP_KERNEL).map_err(|_| Violation)?;
        let met = {
            let mut state = self.state.lock();
            if !state.receiving {
                return Ok(());
            }
            state.note_arrival(imm, length);
            state.receives.arrive(Arrival {
                imm,
                length,
                payload: Some(boxed),
            })?
        };
        self.deliver(met, imm);
        Ok(())
    }

    fn deliver(&self, met: Option<(Receive, Arrival)>, imm: u32) {
        if let Some((receive, arrival)) = met {
            receive.complete(&arrival);
        }
        self.count_arrival(imm);
        self.fence_if(&FAULTS.revoke_at_arrival);
    }

    /// Completes the receives that nothing will consume any more.
    pub(super) fn end_receives(&self) {
        loop {
            let receive = {
                let mut state = self.state.lock();
                state.receiving = false;
                state.receives.waiting.pop()
            };
            let Some(Receive { ticket, target }) = receive else {
                return;
            };
            ticket.complete(self.down_cause().outcome());
            drop(target);
        }
    }
}
