// SPDX-License-Identifier: GPL-2.0-only

//! Operations that end early: their owner cancels them, their time limit passes, or their memory is revoked. Also the
//! endpoint's timer.

use super::{
    in_flight::InFlight, op::OpState, operations::cut_off, receives::Receive, watches::Watch,
    Endpoint, Phase, Shared, State,
};
use crate::{
    base::{
        delay_points::DELAY_POINTS,
        faults::{FAULTS, LATE_MS},
    },
    channel::{Ticket, TicketKey},
    kx::{
        delayed_work::{DelayedTask, DelayedWork},
        rdma::{client::Device, connection::Connection, transfer::Transfer},
    },
    logic::{
        operation::{Ask, End},
        outcome::Down,
    },
    rdma::end_invalidated,
    uapi,
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};

/// Selects operations.
#[derive(Clone, Copy)]
pub(crate) enum Selector {
    /// The first one with this channel and name.
    One(TicketKey),
    /// All.
    All,
    /// Those whose time limit has passed at this time: an operation's time limit (not a grant's time to live).
    Due(Instant<Monotonic>),
    /// Those that use the memory with this key.
    Memory(usize),
}

/// Result of an attempt to end operations.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Operations that have ended, or end as soon as the provider returns them.
    pub(crate) ended: u32,
    /// Operations that the provider has and that were spared.
    pub(crate) spared: u32,
}

/// Milliseconds from now until a time, rounded up, at least 1.
fn ahead_ms(moment: Instant<Monotonic>) -> u32 {
    let left = moment - Instant::now();
    if left.is_negative() {
        return 1;
    }
    u32::try_from(left.as_millis_ceil())
        .unwrap_or(u32::MAX / 2)
        .clamp(1, MAX_SLEEP_MS)
}

/// Longest time between two runs of the timer, in milliseconds.
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
    Operation(KBox<Transfer<OpState>>),
    Receive(Receive),
    Watch(KBox<Watch>),
}

impl Taken {
    /// Completes it. Must not be called under a lock: dropping what it holds may sleep.
    fn end(self, end: End) {
        match self {
            Taken::Operation(transfer) => {
                // It has left the queue, so nobody else ends it.
                cut_off(transfer, end.outcome());
            }
            Taken::Receive(receive) => receive.ticket.complete(end.outcome()),
            Taken::Watch(watch) => KBox::into_inner(watch).ticket.complete(end.outcome()),
        }
    }
}

impl State {
    /// Ends the endpoint, unless it is down: the first cause stays. Nothing else makes an endpoint go down, but for
    /// [`Self::end_for_reason`]. The caller wakes and completes what waits; [`Shared::go_down`] does all of it.
    pub(super) fn end(&mut self, cause: Down) {
        if !matches!(self.phase, Phase::Down(_)) {
            self.phase = Phase::Down(cause);
            self.record.down(cause);
        }
    }

    /// Like [`Self::end`], but takes the place of a disconnect event's cause, because such an event carries no reason.
    pub(super) fn end_for_reason(&mut self, cause: Down) {
        match self.phase {
            Phase::Down(Down::Peer) => self.phase = Phase::Down(cause),
            _ => self.end(cause),
        }
    }
}

impl State {
    /// Takes the first selected operation that the provider does not have.
    fn take(&mut self, selector: &Selector) -> Option<Taken> {
        let found = self.pending.remove_first(|transfer| {
            let posted = transfer.body();
            posted.is_some_and(|posted| selector.wants_ticket(&posted.ticket, posted.op.memory()))
        });
        if let Some(transfer) = found {
            self.queued = self.queued.saturating_sub(1);
            self.outstanding = self.outstanding.saturating_sub(1);
            self.ending += 1;
            if self.pending.front().is_none() {
                // Nothing waits for receives any more.
                self.end_stall();
            }
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
            .in_flight
            .remove_first(|in_flight| in_flight.fence().is_some_and(wanted))?;
        match fence {
            InFlight::Fence(fence) => {
                self.outstanding = self.outstanding.saturating_sub(1);
                self.ending += 1;
                Some(Taken::Operation(fence))
            }
            InFlight::Provider(_) => None,
        }
    }

    /// Requests the end of selected operations that the provider has.
    fn ask(&mut self, selector: &Selector, end: End, spare: bool, limit: u32) -> Tally {
        let mut tally = Tally::default();
        self.in_flight.for_each(|in_flight| {
            let InFlight::Provider(named) = in_flight else {
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
        self.in_flight.for_each(|in_flight| match in_flight {
            InFlight::Provider(named) => look(named.deadline),
            InFlight::Fence(_) => look(in_flight.fence().and_then(Ticket::deadline)),
        });
        next
    }
}

/// The earlier of two times.
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
    /// Ends selected operations: those that the driver has at once, those that the provider has by ending the endpoint,
    /// unless `spare` is set.
    fn end_early(
        &self,
        connection: &Connection<Self>,
        selector: &Selector,
        end: End,
        spare: bool,
    ) -> Tally {
        // Only operations that are there now: other threads may go on submitting.
        let (limit, one) = {
            let state = self.state.lock();
            let waiting = state.receives.waiting.len() as u32;
            let all = state.outstanding + waiting + state.watch_count;
            let one = matches!(selector, Selector::One(_));
            (if one { all.min(1) } else { all }, one)
        };
        let mut tally = Tally::default();
        while tally.ended < limit {
            let taken = self.state.lock().take(selector);
            let Some(taken) = taken else { break };
            DELAY_POINTS.dequeued.pass();
            let is_counted = matches!(taken, Taken::Operation(_));
            taken.end(end);
            if is_counted {
                self.ended();
            }
            tally.ended += 1;
        }
        if one && tally.ended > 0 {
            // It may have blocked others.
            self.pump(connection);
            return tally;
        }
        let asked = self.state.lock().ask(selector, end, spare, limit);
        if asked.ended > 0 {
            self.go_down(end.cause());
            connection.disconnect();
        }
        // Operations that left the queue may have blocked others.
        self.pump(connection);
        Tally {
            ended: tally.ended + asked.ended,
            spared: asked.spared,
        }
    }
}

impl Endpoint {
    /// Cancels selected operations. Those that the provider has end with the endpoint, unless `spare` is set.
    pub(crate) fn cancel(&self, selector: &Selector, spare: bool) -> Tally {
        self.end_early(selector, End::Canceled, spare)
    }

    /// Ends selected operations like [`Self::cancel`], for any reason.
    pub(super) fn end_early(&self, selector: &Selector, end: End, spare: bool) -> Tally {
        let connection = &self.connection;
        self.shared.end_early(connection, selector, end, spare)
    }

    /// Starts the timer of a connection that came up. It runs first for the first heartbeat.
    pub(super) fn start_timer(&self) {
        let (interval_ms, over) = {
            let mut state = self.shared.state.lock();
            if state.timer_stopped {
                return;
            }
            state.timer = Some(self.timer.clone());
            let down = matches!(state.phase, Phase::Down(_));
            (state.keepalive.life.interval_ms(), down || state.broken)
        };
        let first = Instant::now() + Delta::from_millis(interval_ms.into());
        self.arm(Some(first));
        if over {
            self.shared.hurry();
        }
    }

    /// Stops the timer: it does not run when this returns. Must not be called under a lock, or by the timer itself.
    pub(super) fn stop_timer(&self) {
        let timer = {
            let mut state = self.shared.state.lock();
            state.timer_stopped = true;
            state.timer.take()
        };
        self.timer.stop();
        // Dropped outside the lock, although this is not the last reference: the endpoint has one.
        drop(timer);
    }

    /// Makes the timer run when a time limit passes.
    pub(super) fn arm(&self, deadline: Option<Instant<Monotonic>>) {
        let Some(deadline) = deadline else { return };
        let mut state = self.shared.state.lock();
        run_by(&self.timer, &mut state.next_expiry, deadline);
    }
}

/// Makes a timer run at a given time, unless it runs earlier. The caller holds the endpoint's lock, so that a later
/// time does not replace an earlier one.
pub(super) fn run_by(
    timer: &DelayedWork<EndpointTimer>,
    next_expiry: &mut Option<Instant<Monotonic>>,
    moment: Instant<Monotonic>,
) {
    if next_expiry.is_none_or(|next| (moment - next).is_negative()) {
        *next_expiry = Some(moment);
        timer.run_within(ahead_ms(moment));
    }
}

/// The task of an endpoint's timer: time limits, heartbeats and the ends of grants.
pub(super) struct EndpointTimer {
    shared: Arc<Shared>,
    connection: Arc<Connection<Shared>>,
    /// For comparison only: the device may go before the endpoint does.
    device: Device,
}

impl EndpointTimer {
    /// The task for one endpoint on a device.
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

impl DelayedTask for EndpointTimer {
    fn run(&self, timer: &DelayedWork<Self>) {
        if FAULTS.timer_late.fires() {
            return timer.run_within(LATE_MS);
        }
        let now = Instant::now();
        let shared = &self.shared;
        shared.end_early(&self.connection, &Selector::Due(now), End::Expired, false);
        if shared.is_down() {
            let broken = shared.state.lock().broken;
            if broken {
                // The code that found the endpoint broken could not wait for this. The shutdown notifies the peer and
                // flushes what is under way; its drain ends operations that the provider took in part and
                // never returns. A drain that finds no receive posted flushes none.
                self.connection.shutdown();
                shared.end_in_flight();
                shared.end_receives();
                shared.end_invalidated(self.device);
            }
            // The peer's access ends here, even if the owner leaves the endpoint as it is. The queue pair is in error
            // first: otherwise what the peer still sends would be refused as an error of the peer's.
            shared.await_will();
            self.connection.disconnect();
            shared.fence_grants(&self.connection, uapi::GRANT_END_ENDPOINT, |_| true);
            // Receives may wait for data that arrived before.
            let mut state = shared.state.lock();
            if state.broken && !broken {
                // Found broken meanwhile: a later time must not replace this one.
                state.next_expiry = Some(now);
                return timer.run_within(0);
            }
            state.next_expiry = state.receives.next_deadline();
            if let Some(next) = state.next_expiry {
                timer.run_within(ahead_ms(next));
            }
            return;
        }
        shared.end_expired(&self.connection, now);
        shared.advertise_held_back(&self.connection);
        DELAY_POINTS.timer_running.pass();
        let fenced = core::mem::take(&mut shared.state.lock().fenced);
        let heartbeat = shared.heartbeat(&self.connection, now);
        if fenced {
            shared.pump(&self.connection);
        }
        let mut state = shared.state.lock();
        if let Phase::Down(_) = state.phase {
            // It went down meanwhile: a later time must not replace this one.
            state.next_expiry = Some(now);
            return timer.run_within(0);
        }
        let next = earlier(state.next_deadline(), state.grants.next_look());
        let look = state.fenced.then(super::operations::next_fence_look);
        state.next_expiry = earlier(
            earlier(next, heartbeat),
            earlier(state.next_advertisement(), look),
        );
        if let Some(next) = state.next_expiry {
            timer.run_within(ahead_ms(next));
        }
    }
}

impl Shared {
    /// Ends what the keys belong to that the peer had the provider of `device` invalidate. Called when the queue pair was
    /// drained, so that no further one comes. May sleep.
    pub(super) fn end_invalidated(&self, device: Device) {
        loop {
            let key = self.state.lock().invalidated.pop();
            let Some(key) = key else { return };
            end_invalidated(device, key);
        }
    }

    /// Makes the timer run at once. May be called anywhere but under the endpoint's lock: code that finds an endpoint
    /// broken may be in a callback that the teardown waits for. Does nothing before the timer is started, which makes
    /// up for it, and nothing after the timer is stopped, when the teardown does all that the timer would.
    pub(super) fn hurry(&self) {
        let mut state = self.state.lock();
        if let Some(timer) = &state.timer {
            timer.run_within(0);
            state.next_expiry = Some(Instant::now());
        }
    }
}
