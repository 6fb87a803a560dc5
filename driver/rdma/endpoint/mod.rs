// SPDX-License-Identifier: GPL-2.0-only

//! Endpoints: one connection to one peer, its operations, credits and grants.
//!
//! Events and completions reach [`Shared`]. It holds no provider object, except by the timer while that runs, so that
//! it may be dropped anywhere. [`Endpoint`] adds the connection, which [`Endpoint::shutdown`] tears down explicitly,
//! for whichever reason comes first: destroy, close, or removal of the device.

mod alive;
mod connect;
mod ending;
mod events;
mod grant_table;
mod grants;
mod in_flight;
mod messages;
mod op;
mod operations;
mod receives;
mod revoking;
mod show;
mod stall;
mod watches;

pub(crate) use connect::connect;
pub(super) use connect::{begin_accept, begun};
pub(crate) use ending::Selector;
pub(crate) use grants::{Terms, MAX_TTL_NS};
pub(crate) use op::{Direction, Op, TransferOp};
pub(crate) use receives::Target;
pub(crate) use watches::Watched;

use super::{bell::Bell, Domain};
use crate::kx::charged::{Payer, GFP_CHARGED};
use crate::{
    base::{
        delay_points::DELAY_POINTS,
        faults::{FAULTS, SLOW_MS},
        gauges::{Held, GAUGES},
        quota::EndpointCharge,
    },
    kx::{
        box_queue::BoxQueue,
        completion::Completion,
        delayed_work::DelayedWork,
        fifo::Fifo,
        rdma::{
            connection::{Connection, MESSAGE_SLOTS, SEND_DEPTH},
            transfer::Transfer,
        },
        waitq::WaitQueue,
    },
    logic::{
        flow::{receive_queue_entries, Flow},
        outcome::Down,
        pace::{Flight, Pace},
        window::Window,
    },
    observe::{EndpointRecord, Teardown},
    uapi,
};
use alive::Keepalive;
use ending::EndpointTimer;
use grant_table::Grants;
use in_flight::InFlight;
use kernel::{
    new_mutex, new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex, SpinLock,
    },
    time::{Instant, Monotonic},
};
use messages::{Assembly, Outbox};
use receives::Receives;
use stall::Stall;
use watches::Watch;

/// Makes the window of a user's watermarks; `EINVAL` when they are invalid.
pub(crate) fn window_of(high: u32, low: u32) -> Result<Window> {
    const _: () = assert!(uapi::WINDOW_MAX == SEND_DEPTH);
    Window::new(high, low, SEND_DEPTH).ok_or(EINVAL)
}

/// The phase of an endpoint's life. It only moves downwards in this list.
#[derive(Clone, Copy)]
enum Phase {
    /// The connection manager sets the connection up.
    Connecting,
    /// Operations may be posted.
    Up,
    /// Down, for this reason.
    Down(Down),
}

/// Result of a connection manager's step, for the thread that waits for it.
enum Step {
    /// Succeeded.
    Done,
    /// Failed.
    Failed(Error),
}

/// The part of an endpoint that changes. Nothing in it whose drop might sleep is dropped under the lock.
struct State {
    phase: Phase,
    /// Result of the step that finished last, until its waiter takes it.
    step: Option<Step>,
    /// Whether the peer's greeting is known, so that `flow` is valid.
    greeted: bool,
    flow: Flow,
    /// Operations that wait for credits or for room in the send queue, in order.
    pending: BoxQueue<Transfer<op::OpState>>,
    /// Number of these operations.
    queued: u32,
    /// Records of what the provider has, in order.
    in_flight: Fifo<InFlight>,
    /// SENDs that the provider has, by the slots of their messages.
    senders: KVec<Option<KBox<Transfer<op::OpState>>>>,
    /// Number of the next operation that is posted.
    next_id: u64,
    /// Bounds the work requests that the provider has.
    window: Window,
    /// Bounds the bytes that the provider has, by time.
    pace: Pace,
    /// The step in flight of an operation in steps: the operation's number, the bytes, and since when.
    paced: Option<(u64, Flight, Instant<Monotonic>)>,
    /// How long operations waited for the peer's receives.
    stall: Stall,
    /// Operations that failed because the peer had no receive.
    not_ready: u64,
    /// Messages of the peer's that broke the protocol.
    violations: u64,
    /// Operations that were accepted and have not completed, without receives and watches.
    outstanding: u32,
    /// Operations that have left their queue and whose completions are not posted yet: a fence must not overtake them.
    /// [`Shared::ended`] follows each.
    ending: u32,
    /// Length of the peer's next WRITE_IMM, if the provider will not know it.
    announced: Option<u32>,
    /// Whether the withdrawal of an announced length waits to be sent. Other operations wait for it.
    withdrawing: bool,
    /// Receives that the user posted.
    receives: Receives,
    watches: BoxQueue<Watch>,
    watch_count: u32,
    /// When the timer runs next.
    next_expiry: Option<Instant<Monotonic>>,
    /// The timer, for code that has no [`Endpoint`]. Set from the time that the endpoint is up until its teardown,
    /// which breaks the reference cycle.
    timer: Option<Arc<DelayedWork<EndpointTimer>>>,
    /// Whether the teardown has stopped the timer for good. That may happen before the connecting thread starts it.
    timer_stopped: bool,
    keepalive: Keepalive,
    /// One of `PEER_END_*`.
    peer_end: u32,
    /// The slot of this side's last will, and when it was sent.
    will: Option<(u16, Instant<Monotonic>)>,
    /// Whether receives can still be consumed.
    receiving: bool,
    /// Whether the queue pair went to the error state during the connection setup.
    flushed: bool,
    /// Whether it waits in a backlog, where nobody would notice its end.
    unclaimed: bool,
    /// Whether the flush may fail to report the end, because something was not sent, a receive was not posted again or
    /// the peer broke the protocol. Then the timer ends waiting operations.
    broken: bool,
    /// Keys that the peer had the provider invalidate, until the timer or the teardown has found out whose they were.
    /// Each took a receive, so there is room for all.
    invalidated: Fifo<u32>,
    /// Whether other devices use the memory of the first operation of the queue, so that the timer has to check again.
    fenced: bool,
    /// Whether a fault point has stopped everything that it sends.
    frozen: bool,
    outbox: Outbox,
    grants: Grants,
    record: Arc<EndpointRecord>,
}

/// The part of an endpoint that connection manager events and completions reach. Locks: `assembly` (mutex, completion
/// callbacks only) outside `state` (spinlock); inside `state` the connection's gate and channels' slots.
#[pin_data]
pub(crate) struct Shared {
    /// Distinguishes one endpoint's grants from another's.
    serial: u64,
    record: Arc<EndpointRecord>,
    /// Set for good once the peer may send. It decides how the connection is torn down.
    was_up: Atomic<bool>,
    #[pin]
    state: SpinLock<State>,
    /// Signalled on each change of `phase`, `step` or `grants`, and when the outbox drains.
    #[pin]
    changed: WaitQueue,
    #[pin]
    assembly: Mutex<Assembly>,
    /// Set when the peer has acknowledged the last will.
    will_sent: Arc<Completion>,
    /// The memory cgroup that pays for allocations that the peer causes.
    payer: Payer,
    /// Rung for the acceptor when a step or the endpoint has ended.
    bell: Option<Arc<Bell>>,
}

/// Serial of the next endpoint.
static SERIALS: Atomic<u64> = Atomic::new(1);

impl Shared {
    /// The part of an endpoint that exists before its queue pair. An endpoint in a listener's backlog has the
    /// listener's bell and is unclaimed.
    pub(super) fn new(bell: Option<Arc<Bell>>, payer: Payer) -> Result<Arc<Self>> {
        let serial = SERIALS.fetch_add(1, Relaxed);
        let record = EndpointRecord::new(serial, payer.clone())?;
        let state = State {
            phase: Phase::Connecting,
            step: None,
            greeted: false,
            flow: Flow::new(0, 0),
            pending: BoxQueue::new(),
            queued: 0,
            in_flight: Fifo::none(),
            senders: KVec::new(),
            next_id: 1,
            window: window_of(0, 0)?,
            pace: Pace::new(),
            paced: None,
            stall: Stall::default(),
            not_ready: 0,
            violations: 0,
            outstanding: 0,
            ending: 0,
            announced: None,
            withdrawing: false,
            receives: Receives::none(),
            watches: watches::none(),
            watch_count: 0,
            next_expiry: None,
            timer: None,
            timer_stopped: false,
            keepalive: Keepalive::new(),
            peer_end: uapi::PEER_END_NONE,
            will: None,
            receiving: true,
            flushed: false,
            unclaimed: bell.is_some(),
            broken: false,
            invalidated: Fifo::none(),
            fenced: false,
            frozen: false,
            outbox: Outbox::none(),
            grants: Grants::none(),
            record: record.clone(),
        };
        let will_sent = Completion::new()?;
        Arc::pin_init(
            pin_init!(Self {
                serial,
                record,
                was_up: Atomic::new(false),
                state <- new_spinlock!(state, "Endpoint::state"),
                changed <- WaitQueue::new(),
                assembly <- new_mutex!(Assembly::none(), "Endpoint::assembly"),
                will_sent: will_sent,
                payer,
                bell,
            }),
            GFP_CHARGED,
        )
    }

    /// Allocates what an endpoint needs for operations. Called before its queue pair is made.
    fn prepare(&self, depth: u32, window: Window) -> Result {
        let receives = Receives::new(depth as usize)?;
        // Each record has a work request, or is a fence behind one.
        let in_flight = Fifo::new(2 * SEND_DEPTH as usize)?;
        let mut senders = KVec::with_capacity(MESSAGE_SLOTS as usize, GFP_CHARGED)?;
        for _ in 0..MESSAGE_SLOTS {
            senders.push(None, GFP_CHARGED)?;
        }
        let outbox = Outbox::new()?;
        let grants = Grants::new()?;
        let invalidated = Fifo::new(receive_queue_entries(depth) as usize + 1)?;
        let mut state = self.state.lock();
        state.invalidated = invalidated;
        state.receives = receives;
        state.in_flight = in_flight;
        state.senders = senders;
        state.window = window;
        state.outbox = outbox;
        state.grants = grants;
        Ok(())
    }

    /// Wakes the acceptor, if there is one.
    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring();
        }
    }

    /// Whether it is up.
    fn is_up(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Up)
    }

    /// Why it is down, if it is.
    fn down(&self) -> Option<Down> {
        match self.state.lock().phase {
            Phase::Down(cause) => Some(cause),
            Phase::Connecting | Phase::Up => None,
        }
    }

    /// Takes it out of the backlog; false when it is down.
    pub(super) fn claim(&self) -> bool {
        let mut state = self.state.lock();
        state.unclaimed = false;
        !matches!(state.phase, Phase::Down(_))
    }

    /// Whether it is down.
    pub(super) fn is_down(&self) -> bool {
        self.down().is_some()
    }

    /// Marks it down, unless it is down already, and completes operations that were not posted yet. Its timer, which
    /// may sleep, ends its grants at once.
    fn go_down(&self, cause: Down) {
        self.mark_down(cause);
        self.hurry();
    }

    /// Like [`Self::go_down`], for the teardown, which ends the grants itself.
    fn mark_down(&self, cause: Down) {
        {
            let mut state = self.state.lock();
            state.end(cause);
            state.grants.wake();
            state.end_stall();
        }
        self.changed.wake_all();
        self.ring();
        self.fail_pending();
        self.fail_watches();
    }
}

/// An endpoint. Field order is drop order; the connection is shut down before any field is dropped.
#[pin_data]
pub(crate) struct Endpoint {
    /// Held throughout [`Self::shutdown`].
    #[pin]
    ending: Mutex<()>,
    shared: Arc<Shared>,
    /// For time limits, heartbeats and ends of grants.
    timer: Arc<DelayedWork<EndpointTimer>>,
    connection: Arc<Connection<Shared>>,
    domain: Arc<Domain>,
    /// Its place in the domain's list; 0 before it has one.
    place: Atomic<u64>,
    /// Its handle in its context; 0 before it has one.
    handle: Atomic<u32>,
    local: uapi::SockAddr,
    peer: uapi::SockAddr,
    device: [u8; 64],
    charge: EndpointCharge,
    _count: Held,
}

impl Endpoint {
    fn new(
        shared: Arc<Shared>,
        domain: Arc<Domain>,
        (local, peer): (uapi::SockAddr, uapi::SockAddr),
        device: [u8; 64],
        charge: EndpointCharge,
    ) -> Result<Arc<Self>> {
        let connection = Connection::new(shared.clone())?;
        shared.record.between(&local, &peer);
        let timer = Arc::pin_init(
            DelayedWork::new(EndpointTimer::new(
                shared.clone(),
                connection.clone(),
                domain.device(),
            )),
            GFP_CHARGED,
        )?;
        Arc::pin_init(
            pin_init!(Self {
                ending <- new_mutex!((), "Endpoint::ending"),
                shared,
                timer,
                connection,
                domain,
                place: Atomic::new(0),
                handle: Atomic::new(0),
                local,
                peer,
                device,
                charge,
                _count: GAUGES.endpoints.hold(1),
            }),
            GFP_CHARGED,
        )
    }

    /// Its serial, which is unique as long as the module is loaded.
    pub(crate) fn serial(&self) -> u64 {
        self.shared.serial
    }

    /// Its handle in its context, even after the handle was closed; 0 before it has one.
    pub(crate) fn handle(&self) -> u32 {
        self.handle.load(Relaxed)
    }

    /// Sets its handle. Called once.
    pub(crate) fn named(&self, handle: u32) {
        self.handle.store(handle, Relaxed);
    }

    /// Its charge, by which its registrations are charged as well.
    pub(crate) fn charge(&self) -> &EndpointCharge {
        &self.charge
    }

    /// Its protection domain.
    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// Its record.
    pub(crate) fn record(&self) -> &Arc<EndpointRecord> {
        &self.shared.record
    }

    /// The peer's address.
    pub(crate) fn peer(&self) -> uapi::SockAddr {
        self.peer
    }

    /// Whether it is down.
    pub(crate) fn is_down(&self) -> bool {
        self.shared.is_down()
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> bool {
        self.shared.is_up()
    }

    /// Tears the endpoint down. When this returns, every operation has its completion, nothing can arrive from the
    /// peer, and the domain has forgotten the endpoint. May be called any number of times, from anywhere but a
    /// callback. A second caller returns when the first is done.
    pub(crate) fn shutdown(&self, cause: Down) {
        let _ending = self.ending.lock();
        let first = self.shared.record.tears_down();
        let _teardown = first.then(|| Teardown::of_endpoint(self.shared.serial));
        self.send_last_will_for(cause);
        self.shared.mark_down(cause);
        self.stop_timer();
        self.shared.await_will();
        DELAY_POINTS.ending.pass();
        FAULTS.teardown_slow.stall(SLOW_MS);
        self.connection.shutdown();
        self.shared.end_invalidated(self.domain.device());
        self.shared.fail_pending();
        self.shared.end_in_flight();
        self.shared.fail_watches();
        self.shared.end_receives();
        self.shared.end_grants();
        self.domain.forget_endpoint(self.place.load(Relaxed));
    }

    /// Fills in the results of a query.
    pub(crate) fn describe(&self, query: &mut uapi::EndpointQuery) {
        query.local = self.local;
        query.peer = self.peer;
        query.device = self.device;
        let state = self.shared.state.lock();
        query.send_credits = state.flow.send_credits();
        query.recv_posted = state.flow.posted_receives();
        query.in_flight = state.outstanding;
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
