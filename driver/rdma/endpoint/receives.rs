// SPDX-License-Identifier: GPL-2.0-only

//! Receives, which the peer's WRITE_IMMs and SENDs consume.
//!
//! A canceled receive leaves its credit behind, because the peer may be spending it already. The next receive takes
//! over the credit, and the data that arrived on it meanwhile, so that no data is lost.
//!
//! Receives complete in order, unless they are canceled: after one that reports that the peer is dead, none delivers
//! data.

use super::{ending::earlier, messages::Untaken, operations::DONE, Endpoint, Shared, State};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::{delay_points::DELAY_POINTS, faults::FAULTS},
    channel::Ticket,
    kx::{fifo::Fifo, rdma::connection::Connection},
    logic::{
        flow::{Flow, Violation},
        operation::End,
        wire::Payload,
    },
    memory::Guard,
};
use kernel::{
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// Longest time until the peer is notified of a receive, in milliseconds.
const HELD_BACK_MS: u32 = 10;

/// Where a SEND's bytes go.
pub(crate) struct Target {
    /// The memory; the caller has checked the range.
    pub(crate) guard: Guard,
    /// Start, in bytes.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u32,
}

/// A receive that waits.
pub(super) struct Receive {
    pub(super) ticket: Ticket,
    target: Option<Target>,
}

/// Data that arrived.
pub(super) struct Arrival {
    pub(super) imm: u32,
    length: u32,
    /// The bytes of a SEND.
    payload: Option<KBox<Payload>>,
}

/// The receives of one endpoint. All their memory is allocated at the start.
pub(super) struct Receives {
    /// Those that wait, in order.
    pub(super) waiting: Fifo<Receive>,
    /// Credits of receives that were canceled.
    orphans: u32,
    /// Data that arrived on such credits, in order.
    arrived: Fifo<Arrival>,
}

/// Result of posting a receive.
enum Posting {
    /// It waits.
    Waits,
    /// Data for it has arrived already.
    Meets(Receive, Arrival),
    /// It cannot be posted.
    Refused(Receive, Option<Error>),
    /// Its memory is being revoked.
    Revoked(Receive),
}

impl Receives {
    /// Capacity 0.
    pub(super) const fn none() -> Self {
        Self {
            waiting: Fifo::none(),
            orphans: 0,
            arrived: Fifo::none(),
        }
    }

    /// Capacity for `depth` receives.
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
        // The depth bounds both, so there is room.
        match self.waiting.push(receive) {
            Ok(()) => Posting::Waits,
            Err(receive) => Posting::Refused(receive, Some(ENOBUFS)),
        }
    }

    /// Finds the receive for data that arrived, unless the data has to wait for one. It is a violation if no receive
    /// for it was advertised to the peer.
    fn arrive(&mut self, arrival: Arrival) -> Result<Option<(Receive, Arrival)>, Violation> {
        if let Some(receive) = self.waiting.pop() {
            return Ok(Some((receive, arrival)));
        }
        self.orphans = self.orphans.checked_sub(1).ok_or(Violation)?;
        // There is room: at most as many arrivals wait as credits were left behind.
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

    /// Takes a receive that is to end early.
    pub(super) fn take(&mut self, wanted: impl Fn(&Receive) -> bool) -> Option<Receive> {
        let receive = self.waiting.remove_first(wanted)?;
        self.orphans += 1;
        Some(receive)
    }
}

impl State {
    /// When the timer has to advertise receives that are held back, if nothing advertises them before. The timer calls
    /// this, too: a receive that was held back while it ran counted on that very run.
    pub(super) fn next_advertisement(&self) -> Option<Instant<Monotonic>> {
        let later = || Instant::now() + Delta::from_millis(HELD_BACK_MS.into());
        self.flow.holds_back().then(later)
    }

    /// Records data that arrived and was counted.
    fn note_arrival(&mut self, imm: u32, length: u32) {
        let receive = self.receives.waiting.front();
        let trace_id = receive.map_or(0, |receive| receive.ticket.trace_id());
        let seq = self.flow.data_received();
        self.record.arrived(trace_id, seq, imm, length);
        self.count_arrival(imm);
    }
}

impl Receive {
    /// The key of the memory that it uses.
    pub(super) fn memory(&self) -> Option<usize> {
        let target = self.target.as_ref();
        target.map(|target| target.guard.memory().key())
    }

    /// Whether its memory is being revoked.
    fn is_revoked(&self) -> bool {
        let target = self.target.as_ref();
        target.is_some_and(|target| target.guard.memory().is_revoked())
    }

    /// Completes it with the data that arrived. Never called under a lock, because it copies the bytes of a SEND.
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
    /// Accepts a receive. It completes whatever happens.
    pub(crate) fn post_receive(&self, mut ticket: Ticket, target: Option<Target>) {
        ticket.on(self.record());
        let deadline = ticket.deadline();
        let receive = Receive { ticket, target };
        let (posting, advertise) = {
            let mut state = self.shared.state.lock();
            let state = &mut *state;
            // Not refused as soon as the endpoint is down: data that arrived before may still be delivered to the
            // receives ahead of it or, if those were canceled, to this one.
            let posting = if !state.receiving && state.receives.arrived.len() == 0 {
                Posting::Refused(receive, None)
            } else if receive.is_revoked() {
                Posting::Revoked(receive)
            } else {
                state.receives.post(&mut state.flow, receive)
            };
            (posting, state.next_advertisement())
        };
        match posting {
            Posting::Waits => {
                self.arm(earlier(deadline, advertise));
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
    /// Advertises receives that were held back for long enough.
    pub(super) fn advertise_held_back(&self, connection: &Connection<Self>) {
        {
            let mut state = self.state.lock();
            if !state.flow.holds_back() {
                return;
            }
            state.flow.hasten();
        }
        self.pump(connection);
    }

    /// Handles a WRITE_IMM that arrived.
    pub(super) fn data_came(&self, imm: u32, length: u32) -> Result<(), Violation> {
        DELAY_POINTS.receive_completed.pass();
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
        self.deliver(met);
        Ok(())
    }

    /// Handles a SEND that arrived. Its credit was counted with its message.
    pub(super) fn payload_came(&self, payload: &Payload) -> Result<(), Untaken> {
        let (imm, length) = (payload.imm, payload.length);
        DELAY_POINTS.receive_completed.pass();
        // Without memory the data would be lost. Ending the endpoint makes that visible.
        let boxed = FAULTS
            .alloc_arrival
            .fail(ENOMEM)
            .and_then(|()| Ok(KBox::new(*payload, GFP_CHARGED)?))
            .map_err(|_| Untaken::NoMemory)?;
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
        self.deliver(met);
        Ok(())
    }

    fn deliver(&self, met: Option<(Receive, Arrival)>) {
        if let Some((receive, arrival)) = met {
            receive.complete(&arrival);
        }
        DELAY_POINTS.arrival_delivered.pass();
        self.end_full_watches();
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
