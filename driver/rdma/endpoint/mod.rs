// SPDX-License-Identifier: GPL-2.0-only

//! Endpoints: one connection to one peer, its operations, credits and grants.
//!
//! [`Shared`] is what events and completions reach: it holds no provider object, but for the clock while that runs, so
//! that it may be dropped anywhere. [`Endpoint`] adds the connection, which is torn down explicitly by
//! [`Endpoint::shutdown`], for whichever reason comes first: destroy, close, the device's removal.

mod alive;
mod connect;
mod ending;
mod events;
mod flying;
mod given;
mod grants;
mod messages;
mod op;
mod operations;
mod receives;
mod revoking;
mod show;
mod stall;
mod watches;

pub(crate) use connect::{accept, connect};
pub(crate) use ending::Selector;
pub(crate) use grants::{Terms, MAX_TTL_NS};
pub(crate) use op::{Between, Direction, Op};
pub(crate) use receives::Target;
pub(crate) use watches::Watched;

use super::Domain;
use crate::{
    context::quota::Charge,
    faults::{FAULTS, SLOW_MS},
    gauges::{Held, GAUGES},
    kx::{
        chain::Chain,
        fifo::Fifo,
        rdma::{
            connection::{Connection, MESSAGE_SLOTS, SEND_DEPTH},
            transfer::Transfer,
        },
        signal::Signal,
        tick::Tick,
    },
    logic::{flow::Flow, outcome::Down, window::Window},
    observe::{EndpointRecord, Teardown},
    uapi,
    windows::WINDOWS,
};
use alive::Pulse;
use ending::Clockwork;
use flying::Flying;
use given::Grants;
use kernel::{
    new_condvar, new_mutex, new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, CondVar, Mutex, SpinLock,
    },
    time::{Instant, Monotonic},
};
use messages::{Assembly, Outbox};
use receives::Receives;
use revoking::Registering;
use stall::Stall;
use watches::Watch;

/// The window of a user's watermarks; `EINVAL` when they make no sense.
pub(crate) fn window_of(high: u32, low: u32) -> Result<Window> {
    const _: () = assert!(uapi::WINDOW_MAX == SEND_DEPTH);
    Window::new(high, low, SEND_DEPTH).ok_or(EINVAL)
}

/// Where an endpoint is in its life. It only ever moves downwards.
#[derive(Clone, Copy)]
enum Phase {
    /// The connection manager is at work.
    Connecting,
    /// Operations may be posted.
    Up,
    /// Over, for this reason.
    Down(Down),
}

/// A step of the connection manager's, for the thread that waits for it.
enum Step {
    /// Done, go on.
    Done,
    /// Failed.
    Failed(Error),
}

/// Everything that changes. Nothing in it is dropped under the lock that might sleep.
struct State {
    phase: Phase,
    /// The step that was last finished, until its waiter takes it.
    step: Option<Step>,
    /// Whether the peer's greeting is known, so that `flow` is valid.
    greeted: bool,
    flow: Flow,
    /// Operations that wait for credits or for room in the send queue, in order.
    pending: Chain<Transfer<op::Posted>>,
    /// How many they are.
    queued: u32,
    /// What the provider has, in order.
    flying: Fifo<Flying>,
    /// SENDs that the provider has, by the slots of their messages.
    senders: KVec<Option<KBox<Transfer<op::Posted>>>>,
    /// Number of the next operation that is posted.
    next_id: u64,
    /// Memory that is being registered.
    registering: Registering,
    /// Bounds what the provider has.
    window: Window,
    /// Waiting for the peer's receives.
    stall: Stall,
    /// Operations that failed because the peer had no receive.
    not_ready: u64,
    /// Messages of the peer's that broke the protocol.
    violations: u64,
    /// Operations that were accepted and not completed yet, receives and watches not counted.
    in_flight: u32,
    /// Length of the peer's next WRITE_IMM, where the provider will not know it.
    announced: Option<u32>,
    /// Receives that the user posted.
    receives: Receives,
    watches: Chain<Watch>,
    watch_count: u32,
    /// When the clock runs next.
    next_tick: Option<Instant<Monotonic>>,
    /// The clock, for those that have no endpoint: from the moment that the endpoint is up until its teardown, which undoes
    /// the circle.
    clock: Option<Arc<Tick<Clockwork>>>,
    /// Whether the teardown has ended the clock, for good: it may come before whoever connects starts it.
    clock_ended: bool,
    pulse: Pulse,
    /// One of `PEER_END_*`.
    peer_end: u32,
    /// The slot of this side's last will, and when it was sent.
    will: Option<(u16, Instant<Monotonic>)>,
    /// Whether receives can still be consumed.
    receiving: bool,
    /// Whether the queue pair went into error while it was being connected.
    flushed: bool,
    /// Whether it waits in a backlog, where nobody would hear of its end.
    unclaimed: bool,
    /// Whether the flush may not tell of the end, because something was not sent, a receive was not posted again or the peer
    /// broke the protocol: then the clock ends what waits.
    broken: bool,
    /// A key that the peer had the provider invalidate, until the clock has looked whose it was.
    invalidated: Option<u32>,
    /// Whether it sends nothing any more, as a fault point wants it.
    frozen: bool,
    outbox: Outbox,
    grants: Grants,
    record: Arc<EndpointRecord>,
}

/// What the connection manager and completions reach. Locks: `assembly` (mutex, completion callbacks only) outside
/// `state` (spinlock); inside `state` the connection's gate and channels' slots.
#[pin_data]
pub(crate) struct Shared {
    /// Tells one endpoint's grants from another's.
    serial: u64,
    record: Arc<EndpointRecord>,
    /// Set once the peer may send, for good: it says how the connection is torn down.
    was_up: Atomic<bool>,
    #[pin]
    state: SpinLock<State>,
    /// Signalled on each change of `phase`, `step` or `grants`, and when the outbox drains.
    #[pin]
    changed: CondVar,
    #[pin]
    assembly: Mutex<Assembly>,
    /// Set when the peer has acknowledged the last will.
    will_told: Arc<Signal>,
}

/// Serial of the next endpoint.
static SERIALS: Atomic<u64> = Atomic::new(1);

impl Shared {
    /// The part of an endpoint that exists before its queue pair. One that waits in a backlog is unclaimed.
    pub(super) fn new(unclaimed: bool) -> Result<Arc<Self>> {
        let serial = SERIALS.fetch_add(1, Relaxed);
        let record = EndpointRecord::new(serial)?;
        let state = State {
            phase: Phase::Connecting,
            step: None,
            greeted: false,
            flow: Flow::new(0, 0),
            pending: Chain::new(),
            queued: 0,
            flying: Fifo::none(),
            senders: KVec::new(),
            next_id: 1,
            registering: Registering::default(),
            window: window_of(0, 0)?,
            stall: Stall::default(),
            not_ready: 0,
            violations: 0,
            in_flight: 0,
            announced: None,
            receives: Receives::none(),
            watches: watches::none(),
            watch_count: 0,
            next_tick: None,
            clock: None,
            clock_ended: false,
            pulse: Pulse::new(),
            peer_end: uapi::PEER_END_NONE,
            will: None,
            receiving: true,
            flushed: false,
            unclaimed,
            broken: false,
            invalidated: None,
            frozen: false,
            outbox: Outbox::none(),
            grants: Grants::none(),
            record: record.clone(),
        };
        let will_told = Signal::new()?;
        Arc::pin_init(
            pin_init!(Self {
                serial,
                record,
                was_up: Atomic::new(false),
                state <- new_spinlock!(state, "Endpoint::state"),
                changed <- new_condvar!("Endpoint::changed"),
                assembly <- new_mutex!(Assembly::none(), "Endpoint::assembly"),
                will_told: will_told,
            }),
            GFP_KERNEL,
        )
    }

    /// Allocates what an endpoint needs to carry operations. Before its queue pair is made.
    fn prepare(&self, depth: u32, window: Window) -> Result {
        let receives = Receives::new(depth as usize)?;
        // Each record has a work request, or is a fence behind one.
        let flying = Fifo::new(2 * SEND_DEPTH as usize)?;
        let mut senders = KVec::with_capacity(MESSAGE_SLOTS as usize, GFP_KERNEL)?;
        for _ in 0..MESSAGE_SLOTS {
            senders.push(None, GFP_KERNEL)?;
        }
        let outbox = Outbox::new()?;
        let grants = Grants::new()?;
        let mut state = self.state.lock();
        state.receives = receives;
        state.flying = flying;
        state.senders = senders;
        state.window = window;
        state.outbox = outbox;
        state.grants = grants;
        Ok(())
    }

    /// Why it is over, if it is.
    fn down(&self) -> Option<Down> {
        match self.state.lock().phase {
            Phase::Down(cause) => Some(cause),
            Phase::Connecting | Phase::Up => None,
        }
    }

    /// Takes it out of the backlog; false when it is over.
    pub(super) fn claim(&self) -> bool {
        let mut state = self.state.lock();
        state.unclaimed = false;
        !matches!(state.phase, Phase::Down(_))
    }

    /// Whether it is over.
    pub(super) fn is_down(&self) -> bool {
        self.down().is_some()
    }

    /// Ends it, unless it is over already, and completes what was not posted yet. Its clock, which may wait, ends its grants
    /// at once.
    fn go_down(&self, cause: Down) {
        self.mark_down(cause);
        self.hurry();
    }

    /// As [`Self::go_down`], for the teardown, which ends the grants itself.
    fn mark_down(&self, cause: Down) {
        {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Down(_)) {
                state.phase = Phase::Down(cause);
                self.record.down(cause);
            }
            state.grants.wake();
            state.end_stall();
        }
        self.changed.notify_all();
        self.fail_pending();
        self.fail_watches();
    }
}

/// An endpoint. Field order is drop order; the connection is shut down before any of it is dropped.
#[pin_data]
pub(crate) struct Endpoint {
    /// Held during the whole of [`Self::shutdown`].
    #[pin]
    ending: Mutex<()>,
    shared: Arc<Shared>,
    /// Time limits, heartbeats, ends of grants.
    clock: Arc<Tick<Clockwork>>,
    connection: Arc<Connection<Shared>>,
    domain: Arc<Domain>,
    /// Its place in the domain's list; 0 before it has one.
    place: Atomic<u64>,
    local: uapi::SockAddr,
    peer: uapi::SockAddr,
    device: [u8; 64],
    _charge: Charge,
    _count: Held,
}

impl Endpoint {
    fn new(
        shared: Arc<Shared>,
        domain: Arc<Domain>,
        (local, peer): (uapi::SockAddr, uapi::SockAddr),
        device: [u8; 64],
        charge: Charge,
    ) -> Result<Arc<Self>> {
        let connection = Connection::new(shared.clone())?;
        shared.record.between(&local, &peer);
        let clock = Arc::pin_init(
            Tick::new(Clockwork::new(
                shared.clone(),
                connection.clone(),
                domain.device(),
            )),
            GFP_KERNEL,
        )?;
        Arc::pin_init(
            pin_init!(Self {
                ending <- new_mutex!((), "Endpoint::ending"),
                shared,
                clock,
                connection,
                domain,
                place: Atomic::new(0),
                local,
                peer,
                device,
                _charge: charge,
                _count: GAUGES.endpoints.hold(1),
            }),
            GFP_KERNEL,
        )
    }

    /// Its protection domain.
    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// What is recorded of it.
    pub(crate) fn record(&self) -> &Arc<EndpointRecord> {
        &self.shared.record
    }

    /// The peer's address.
    pub(crate) fn peer(&self) -> uapi::SockAddr {
        self.peer
    }

    /// Whether it is over.
    pub(crate) fn is_down(&self) -> bool {
        self.shared.is_down()
    }

    /// Tears the endpoint down. When it returns, every operation has its completion, nothing of the peer's can
    /// arrive, and the domain has forgotten it. May be called any number of times, by anybody but a callback.
    /// Whoever calls it second returns when the first is done.
    pub(crate) fn shutdown(&self, cause: Down) {
        let _ending = self.ending.lock();
        let first = self.shared.record.tears_down();
        let _teardown = first.then(|| Teardown::of_endpoint(self.shared.serial));
        self.bequeath_for(cause);
        self.shared.mark_down(cause);
        self.stop_clock();
        self.shared.await_will();
        WINDOWS.down.pass();
        FAULTS.teardown_slow.stall(SLOW_MS);
        self.connection.shutdown();
        self.shared.fail_pending();
        self.shared.end_flying();
        self.shared.fail_watches();
        self.shared.end_receives();
        self.shared.end_grants();
        self.domain.forget_endpoint(self.place.load(Relaxed));
    }

    /// Fills in what a query tells.
    pub(crate) fn describe(&self, query: &mut uapi::EndpointQuery) {
        query.local = self.local;
        query.peer = self.peer;
        query.device = self.device;
        let state = self.shared.state.lock();
        query.send_credits = state.flow.send_credits();
        query.recv_posted = state.flow.posted_receives();
        query.in_flight = state.in_flight;
        query.posted = state.window.under_way();
        (query.stalls, query.stalled_ns) = state.stall.totals();
        query.not_ready = state.not_ready;
        query.violations = state.violations;
        query.peer_end = state.peer_end;
        (query.state, query.error) = match state.phase {
            Phase::Connecting | Phase::Up => (uapi::ENDPOINT_UP, 0),
            Phase::Down(cause) => (uapi::ENDPOINT_DOWN, cause.errno()),
        };
    }
}
