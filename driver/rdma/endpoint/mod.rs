// SPDX-License-Identifier: GPL-2.0-only

//! Endpoints: one connection to one peer, its operations, credits and grants.
//!
//! [`Shared`] is what events and completions reach: it holds no provider object, so that it may be
//! dropped anywhere. [`Endpoint`] adds the connection, which is torn down explicitly by
//! [`Endpoint::shutdown`], for whichever reason comes first: destroy, close, the device's removal.

mod connect;
mod events;
mod grants;
mod messages;
mod operations;

pub(crate) use connect::{accept, connect};
pub(crate) use grants::Terms;
pub(crate) use operations::Op;

use super::Domain;
use crate::{
    channel::Ticket,
    gauges::{Held, GAUGES},
    kx::{
        chain::Chain,
        fifo::Fifo,
        rdma::{connection::Connection, transfer::Transfer},
    },
    logic::{flow::Flow, outcome::Down},
    uapi,
};
use grants::Grants;
use kernel::{
    new_condvar, new_mutex, new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, CondVar, Mutex, SpinLock,
    },
};
use messages::{Assembly, Outbox};

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
    pending: Chain<Transfer<operations::Posted>>,
    /// Operations that were accepted and not completed yet, receives not counted.
    in_flight: u32,
    /// Length of the peer's next WRITE_IMM, where the provider will not know it.
    announced: Option<u32>,
    /// Receives that the user posted, in order.
    receives: Fifo<Ticket>,
    /// Whether receives can still be consumed.
    receiving: bool,
    /// Whether the queue pair went into error while it was being connected.
    flushed: bool,
    /// Whether it waits in a backlog, where nobody would hear of its end.
    unclaimed: bool,
    /// Whether something that should have been sent was not: the endpoint must end.
    broken: bool,
    outbox: Outbox,
    grants: Grants,
}

/// What the connection manager and completions reach. Locks: `assembly` (mutex, completion callbacks only) outside
/// `state` (spinlock); inside `state` the connection's gate and channels' slots.
#[pin_data]
pub(crate) struct Shared {
    /// Tells one endpoint's grants from another's.
    serial: u64,
    #[pin]
    state: SpinLock<State>,
    /// Signalled on each change of `phase`, `step` or `grants`, and when the outbox drains.
    #[pin]
    changed: CondVar,
    #[pin]
    assembly: Mutex<Assembly>,
}

/// Serial of the next endpoint.
static SERIALS: Atomic<u64> = Atomic::new(1);

impl Shared {
    /// The part of an endpoint that exists before its queue pair. One that waits in a backlog is unclaimed.
    pub(super) fn new(unclaimed: bool) -> Result<Arc<Self>> {
        let state = State {
            phase: Phase::Connecting,
            step: None,
            greeted: false,
            flow: Flow::new(0, 0),
            pending: Chain::new(),
            in_flight: 0,
            announced: None,
            receives: Fifo::none(),
            receiving: true,
            flushed: false,
            unclaimed,
            broken: false,
            outbox: Outbox::none(),
            grants: Grants::none(),
        };
        Arc::pin_init(
            pin_init!(Self {
                serial: SERIALS.fetch_add(1, Relaxed),
                state <- new_spinlock!(state, "Endpoint::state"),
                changed <- new_condvar!("Endpoint::changed"),
                assembly <- new_mutex!(Assembly::none(), "Endpoint::assembly"),
            }),
            GFP_KERNEL,
        )
    }

    /// Allocates what an endpoint needs to carry operations. Before its queue pair is made.
    fn prepare(&self, depth: u32) -> Result {
        let receives = Fifo::new(depth as usize)?;
        let outbox = Outbox::new()?;
        let grants = Grants::new()?;
        let mut state = self.state.lock();
        state.receives = receives;
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

    /// Ends it, unless it is over already, and completes what was not posted yet.
    fn go_down(&self, cause: Down) {
        {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Down(_)) {
                state.phase = Phase::Down(cause);
            }
            state.grants.wake();
        }
        self.changed.notify_all();
        self.fail_pending();
    }
}

/// An endpoint. Field order is drop order; the connection is shut down before any of it is dropped.
#[pin_data]
pub(crate) struct Endpoint {
    /// Held during the whole of [`Self::shutdown`].
    #[pin]
    ending: Mutex<()>,
    shared: Arc<Shared>,
    connection: Arc<Connection<Shared>>,
    domain: Arc<Domain>,
    /// Its place in the domain's list; 0 before it has one.
    place: Atomic<u64>,
    local: uapi::SockAddr,
    peer: uapi::SockAddr,
    device: [u8; 64],
    _count: Held,
}

impl Endpoint {
    fn new(
        shared: Arc<Shared>,
        domain: Arc<Domain>,
        local: uapi::SockAddr,
        peer: uapi::SockAddr,
        device: [u8; 64],
    ) -> Result<Arc<Self>> {
        let connection = Connection::new(shared.clone())?;
        Arc::pin_init(
            pin_init!(Self {
                ending <- new_mutex!((), "Endpoint::ending"),
                shared,
                connection,
                domain,
                place: Atomic::new(0),
                local,
                peer,
                device,
                _count: GAUGES.endpoints.hold(1),
            }),
            GFP_KERNEL,
        )
    }

    /// Its protection domain.
    pub(crate) fn domain(&self) -> &Arc<Domain> {
        &self.domain
    }

    /// Its connection.
    pub(crate) fn connection(&self) -> &Connection<Shared> {
        &self.connection
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
        self.shared.go_down(cause);
        self.connection.shutdown();
        self.shared.fail_pending();
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
        (query.state, query.error) = match state.phase {
            Phase::Connecting | Phase::Up => (uapi::ENDPOINT_UP, 0),
            Phase::Down(cause) => (uapi::ENDPOINT_DOWN, cause.errno()),
        };
    }
}
