// SPDX-License-Identifier: GPL-2.0-only

//! Operations that end before their time: by a cancel of their owner, or because their time limit passed.

use super::{
    flying::Flying,
    op::Posted,
    operations::cut_off,
    receives::Receive,
    watches::Watch,
    Endpoint, Phase, Shared, State,
};
use crate::{
    channel::{Ticket, TicketKey},
    faults::{FAULTS, LATE_MS},
    kx::{
        rdma::{client::Device, connection::Connection, transfer::Transfer},
        tick::{Tick, Ticked},
    },
    logic::operation::{Ask, End},
    rdma::end_invalidated,
    uapi,
    windows::WINDOWS,
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};

/// Which operations.
#[derive(Clone, Copy)]
pub(crate) enum Selector {
    /// The first one of this channel and name.
    One(TicketKey),
    /// All.
    All,
    /// Those whose time limit has passed at this moment.
    Due(Instant<Monotonic>),
    /// Those that use the memory of this key.
    Memory(usize),
}

/// What an attempt to end operations did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Operations that ended, or will as soon as the provider gives them back.
    pub(crate) ended: u32,
    /// Operations that the provider has and that were spared.
    pub(crate) spared: u32,
}

/// Milliseconds that a moment is ahead, rounded up, at least 1.
fn ahead_ms(moment: Instant<Monotonic>) -> u32 {
    let left = moment - Instant::now();
    if left.is_negative() {
        return 1;
    }
    u32::try_from(left.as_millis_ceil())
        .unwrap_or(u32::MAX / 2)
        .clamp(1, MAX_SLEEP_MS)
}

/// Longest time between two looks, in milliseconds.
const MAX_SLEEP_MS: u32 = 1_000_000;

impl Selector {
    fn wants(
        &self,
        key: TicketKey,
        deadline: Option<Instant<Monotonic>>,
        memory: Option<usize>,
    ) -> bool {
        match self {
            Selector::One(one) => *one == key,
            Selector::All => true,
            Selector::Due(now) => deadline.is_some_and(|deadline| !(*now - deadline).is_negative()),
            Selector::Memory(of) => memory == Some(*of),
        }
    }

    fn wants_ticket(&self, ticket: &Ticket, memory: Option<usize>) -> bool {
        self.wants(ticket.key(), ticket.deadline(), memory)
    }
}

/// An operation that was taken out of its queue to end.
enum Taken {
    Operation(KBox<Transfer<Posted>>),
    Receive(Receive),
    Watch(KBox<Watch>),
}

impl Taken {
    /// Completes it. Not under a lock: what it keeps may sleep when it goes.
    fn end(self, end: End) {
        match self {
            Taken::Operation(transfer) => {
                // It has left the queue, so that nobody else ends it.
                cut_off(transfer, end.outcome());
            }
            Taken::Receive(receive) => receive.ticket.complete(end.outcome()),
            Taken::Watch(watch) => KBox::into_inner(watch).ticket.complete(end.outcome()),
        }
    }
}

impl State {
    /// Takes the first operation that the driver itself still has.
    fn take(&mut self, selector: &Selector) -> Option<Taken> {
        let found = self.pending.remove_first(|transfer| {
            let posted = transfer.body();
            posted.is_some_and(|posted| selector.wants_ticket(&posted.ticket, posted.op.memory()))
        });
        if let Some(transfer) = found {
            self.queued = self.queued.saturating_sub(1);
            self.in_flight = self.in_flight.saturating_sub(1);
            return Some(Taken::Operation(transfer));
        }
        let of_receive =
            |receive: &Receive| selector.wants_ticket(&receive.ticket, receive.memory());
        if let Some(receive) = self.receives.take(of_receive) {
            return Some(Taken::Receive(receive));
        }
        let wanted = |ticket: &Ticket| selector.wants_ticket(ticket, None);
        if let Some(watch) = self.take_watch(|watch| wanted(&watch.ticket)) {
            return Some(Taken::Watch(watch));
        }
        let fence = self
            .flying
            .remove_first(|flying| flying.fence().is_some_and(wanted))?;
        match fence {
            Flying::Fence(fence) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                Some(Taken::Operation(fence))
            }
            Flying::Provider(_) => None,
        }
    }

    /// Asks for the end of what the provider has.
    fn ask(&mut self, selector: &Selector, end: End, spare: bool, limit: u32) -> Tally {
        let mut tally = Tally::default();
        self.flying.for_each(|flying| {
            let Flying::Provider(named) = flying else {
                return;
            };
            let wanted = tally.ended + tally.spared < limit;
            if !wanted || !selector.wants(named.key, named.deadline, Some(named.memory)) {
                return;
            }
            if spare {
                tally.spared += 1;
            } else if named.life.ask(end) == Ask::Flush {
                tally.ended += 1;
            }
        });
        tally
    }

    /// The earliest time limit.
    fn next_deadline(&mut self) -> Option<Instant<Monotonic>> {
        let mut next = None;
        let mut look = |deadline: Option<Instant<Monotonic>>| {
            next = earlier(next, deadline);
        };
        self.pending.for_each(|transfer| {
            look(transfer.body().and_then(|posted| posted.ticket.deadline()));
        });
        look(self.receives.next_deadline());
        self.watches.for_each(|watch| look(watch.ticket.deadline()));
        self.flying.for_each(|flying| match flying {
            Flying::Provider(named) => look(named.deadline),
            Flying::Fence(_) => look(flying.fence().and_then(Ticket::deadline)),
        });
        next
    }
}

/// The earlier of two moments.
pub(super) fn earlier(
    one: Option<Instant<Monotonic>>,
    other: Option<Instant<Monotonic>>,
) -> Option<Instant<Monotonic>> {
    match (one, other) {
        (Some(a), Some(b)) if (b - a).is_negative() => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    }
}

impl Shared {
    /// Ends operations: what the driver has at once, what the provider has by ending the endpoint, unless it is to
    /// be spared.
    fn end_early(
        &self,
        connection: &Connection<Self>,
        selector: &Selector,
        end: End,
        spare: bool,
    ) -> Tally {
        // Only what is there now: others may go on submitting.
        let (limit, one) = {
            let state = self.state.lock();
            let waiting = state.receives.waiting.len() as u32;
            let all = state.in_flight + waiting + state.watch_count;
            let one = matches!(selector, Selector::One(_));
            (if one { all.min(1) } else { all }, one)
        };
        let mut tally = Tally::default();
        while tally.ended < limit {
            let taken = self.state.lock().take(selector);
            let Some(taken) = taken else { break };
            WINDOWS.taken.pass();
            taken.end(end);
            tally.ended += 1;
        }
        if one && tally.ended > 0 {
            return tally;
        }
        let asked = self.state.lock().ask(selector, end, spare, limit);
        if asked.ended > 0 {
            self.go_down(end.cause());
            connection.disconnect();
        }
        // Operations that left the queue may let others through.
        self.pump(connection);
        Tally {
            ended: tally.ended + asked.ended,
            spared: asked.spared,
        }
    }
}

impl Endpoint {
    /// Cancels operations of the endpoint. What the provider has ends with the endpoint, unless it is to be spared.
    pub(crate) fn cancel(&self, selector: &Selector, spare: bool) -> Tally {
        self.end_early(selector, End::Canceled, spare)
    }

    /// As above, for any reason.
    pub(super) fn end_early(&self, selector: &Selector, end: End, spare: bool) -> Tally {
        let connection = &self.connection;
        self.shared.end_early(connection, selector, end, spare)
    }

    /// Starts the clock of a connection that came up, with the first beat.
    pub(super) fn start_clock(&self) {
        let (interval_ms, over) = {
            let mut state = self.shared.state.lock();
            if state.clock_ended {
                return;
            }
            state.clock = Some(self.clock.clone());
            let down = matches!(state.phase, Phase::Down(_));
            (state.pulse.life.interval_ms(), down || state.broken)
        };
        let first = Instant::now() + Delta::from_millis(interval_ms.into());
        self.arm(Some(first));
        if over {
            self.shared.hurry();
        }
    }

    /// Ends the clock: it does not run when this returns. Not under a lock, and not by the clock itself.
    pub(super) fn stop_clock(&self) {
        let shown = {
            let mut state = self.shared.state.lock();
            state.clock_ended = true;
            state.clock.take()
        };
        self.clock.stop();
        // Outside the lock, although it is not the last reference: that is the endpoint's own.
        drop(shown);
    }

    /// Has the clock look at a time limit when it passes.
    pub(super) fn arm(&self, deadline: Option<Instant<Monotonic>>) {
        let Some(deadline) = deadline else { return };
        let mut state = self.shared.state.lock();
        run_by(&self.clock, &mut state.next_tick, deadline);
    }
}

/// Has a clock run at a moment, unless it runs before. The caller holds its endpoint's lock, so that a later moment does not
/// win over an earlier one.
pub(super) fn run_by(
    clock: &Tick<Clockwork>,
    next_tick: &mut Option<Instant<Monotonic>>,
    moment: Instant<Monotonic>,
) {
    if next_tick.is_none_or(|next| (moment - next).is_negative()) {
        *next_tick = Some(moment);
        clock.run_within(ahead_ms(moment));
    }
}

/// What an endpoint does as time passes.
pub(super) struct Clockwork {
    shared: Arc<Shared>,
    connection: Arc<Connection<Shared>>,
    /// For comparisons: it may go before the endpoint does.
    device: Device,
}

impl Clockwork {
    /// Of one endpoint on a device.
    pub(super) fn new(
        shared: Arc<Shared>,
        connection: Arc<Connection<Shared>>,
        device: Device,
    ) -> Self {
        Self {
            shared,
            connection,
            device,
        }
    }
}

impl Ticked for Clockwork {
    fn tick(&self, clock: &Tick<Self>) {
        if FAULTS.clock_late.fires() {
            return clock.run_within(LATE_MS);
        }
        let now = Instant::now();
        let shared = &self.shared;
        shared.end_early(&self.connection, &Selector::Due(now), End::Expired, false);
        if shared.is_down() {
            let broken = shared.state.lock().broken;
            if broken {
                // Whoever found it out could not wait for this: the peer is told, what is under way is flushed, and what
                // the provider took in part, of which it gives nothing back, ends with the drain. A drain that finds no
                // receive posted flushes none.
                self.connection.shutdown();
                shared.end_flying();
                shared.end_receives();
                let invalidated = shared.state.lock().invalidated.take();
                if let Some(key) = invalidated {
                    end_invalidated(self.device, key);
                }
            }
            // The peer's access ends here, also when its owner leaves the endpoint as it is. Not before the queue pair is in
            // error: what the peer still sends would be refused as a fault of the peer's.
            shared.await_will();
            self.connection.disconnect();
            shared.fence_grants(&self.connection, uapi::GRANT_END_ENDPOINT, |_| true);
            // Receives may wait for what arrived before.
            let mut state = shared.state.lock();
            if state.broken && !broken {
                // Found out meanwhile: a later moment must not win over that.
                state.next_tick = Some(now);
                return clock.run_within(0);
            }
            state.next_tick = state.receives.next_deadline();
            if let Some(next) = state.next_tick {
                clock.run_within(ahead_ms(next));
            }
            return;
        }
        shared.end_expired(&self.connection, now);
        shared.tell_held_back(&self.connection);
        WINDOWS.ticking.pass();
        let beat = shared.beat(&self.connection, now);
        let mut state = shared.state.lock();
        if let Phase::Down(_) = state.phase {
            // It ended meanwhile: a later moment must not win over that.
            state.next_tick = Some(now);
            return clock.run_within(0);
        }
        let next = earlier(state.next_deadline(), state.grants.next_look());
        state.next_tick = earlier(earlier(next, beat), state.telling());
        if let Some(next) = state.next_tick {
            clock.run_within(ahead_ms(next));
        }
    }
}

impl Shared {
    /// Has the clock run at once. From anywhere but under the endpoint's lock: whoever finds an endpoint broken may be in a
    /// callback that its teardown waits for. Before the clock is started this does nothing, and starting it makes up for
    /// that; after its end neither, and the teardown does all that it would.
    pub(super) fn hurry(&self) {
        let mut state = self.state.lock();
        if let Some(clock) = &state.clock {
            clock.run_within(0);
            state.next_tick = Some(Instant::now());
        }
    }
}
