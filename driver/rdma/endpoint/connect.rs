// SPDX-License-Identifier: GPL-2.0-only

//! Connection setup, on either side.

use super::{Endpoint, Phase, Shared, Step};
use crate::{
    base::{quota::EndpointCharge, wait::Deadline},
    kx::{charged::Payer, net::Address, rdma::cm::CmId, waitq::EndedBy},
    logic::{flow::Flow, outcome::Down, window::Window, wire::Hello},
    rdma::Domains,
    uapi,
};
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, Arc},
};

/// Longest time for one resolution step, in milliseconds. An address that nobody has is reported after that.
const RESOLVE_MS: u32 = 3000;

impl Shared {
    /// Waits until the connection manager has finished the current step.
    ///
    /// The outer error is the wait's own: `ETIMEDOUT`, or `EINTR` when the thread is killed. Other signals do not end
    /// the wait: a profiler may send them faster than a step completes, and each would undo what was made. The inner
    /// error is the step's.
    fn wait_step(&self, deadline: Deadline) -> Result<Result> {
        deadline.wait_on(&self.changed, EndedBy::Kill, || self.take_step())
    }

    /// Takes the result of the current step, if it has ended.
    pub(super) fn take_step(&self) -> Option<Result> {
        let mut state = self.state.lock();
        // The step's error is more precise than the endpoint's cause, which may be a consequence of it.
        let step = state.step.take().or(match state.phase {
            Phase::Down(cause) => Some(Step::Failed(Error::from_errno(-cause.errno()))),
            Phase::Connecting | Phase::Up => None,
        })?;
        Some(match step {
            Step::Done => Ok(()),
            Step::Failed(error) => Err(error),
        })
    }

    /// Records the peer's greeting, so that credits can be counted.
    pub(super) fn greet(&self, own_depth: u32, hello: Hello) {
        let mut state = self.state.lock();
        state.flow = Flow::new(own_depth, hello.depth);
        state.keepalive.life.peer_interval(hello.heartbeat_ms);
        state.greeted = true;
    }

    /// Records the peer's greeting on the active side, where the capacity of `receives` is this side's depth.
    pub(super) fn greet_active(&self, hello: Hello) {
        let depth = self.state.lock().receives.waiting.capacity() as u32;
        self.greet(depth, hello);
    }

    /// This side's greeting.
    fn hello(&self, depth: u32) -> Hello {
        Hello {
            depth,
            heartbeat_ms: self.state.lock().keepalive.life.interval_ms(),
        }
    }
}

/// Translates a failure to resolve an address for the user.
fn unresolved(error: Error) -> Error {
    if error == ENODEV || error == ENETUNREACH {
        // There is no route, or its network device belongs to no RDMA device.
        EADDRNOTAVAIL
    } else if error == ETIMEDOUT {
        // Nobody answered for the address.
        EHOSTUNREACH
    } else {
        without_memory(error)
    }
}

/// Translates the errors with which lower layers report a lack of memory: `ENOBUFS` from the routing code, `ENFILE`
/// from a provider that opens a socket for each queue pair.
fn without_memory(error: Error) -> Error {
    if error == ENOBUFS || error == ENFILE {
        ENOMEM
    } else {
        error
    }
}

/// Connects to a listener. The caller has checked the depth of receives. See the user-space interface for the errors.
pub(crate) fn connect(
    domains: &Domains,
    request: &uapi::Connect,
    charge: EndpointCharge,
    deadline: Deadline,
) -> Result<Arc<Endpoint>> {
    let remote = Address::from_uapi(&request.remote)?;
    let local = match request.local.family {
        uapi::FAMILY_NONE => None,
        _ => Some(Address::from_uapi(&request.local)?),
    };
    let window = super::window_of(request.window_high, request.window_low)?;
    let shared = Shared::new(None, Payer::of_caller())?;
    let id = CmId::new(shared.clone())?;
    let limit = || {
        deadline
            .left_ms()
            .ok_or(ETIMEDOUT)
            .map(|left| left.min(RESOLVE_MS))
    };
    id.resolve_address(local.as_ref(), &remote, limit()?)
        .map_err(unresolved)?;
    shared.wait_step(deadline)?.map_err(unresolved)?;
    id.resolve_route(limit()?)?;
    shared.wait_step(deadline)??;
    let endpoint = open(domains, id, shared, (request.recv_depth, window), charge)?;
    let result = (|| {
        let hello = endpoint.shared.hello(request.recv_depth);
        endpoint
            .connection
            .with_id(|id| id.connect(&hello.encode()))?;
        endpoint.shared.wait_step(deadline)?
    })();
    match result {
        Ok(()) => {
            endpoint.come_up();
            Ok(endpoint)
        }
        Err(error) => {
            endpoint.shutdown(Down::Local);
            Err(error)
        }
    }
}

/// Accepts a request from a listener's backlog, without waiting for the peer: [`begun`] returns the outcome. `terms`
/// are the depth of receives and the window.
pub(crate) fn begin_accept(
    domains: &Domains,
    id: CmId<Shared>,
    shared: Arc<Shared>,
    hello: Hello,
    terms: (u32, Window),
    charge: EndpointCharge,
) -> Result<Arc<Endpoint>> {
    let (depth, _) = terms;
    shared.greet(depth, hello);
    // A failure of this one connection is not one of the listener.
    let endpoint = open(domains, id, shared, terms, charge).map_err(|error| {
        if error == ENOMEM || error == EOPNOTSUPP {
            error
        } else {
            ECONNABORTED
        }
    })?;
    let hello = endpoint.shared.hello(depth);
    let answered = endpoint.connection.with_id(|id| {
        id.accept(&hello.encode())?;
        // The peer has its answer: it may send before the connection manager reports that the connection is up.
        endpoint.shared.note_up();
        Ok(())
    });
    if answered.is_err() {
        endpoint.shutdown(Down::Local);
        return Err(ECONNABORTED);
    }
    // Before the endpoint is taken: by then its peer may be gone again.
    endpoint.start_timer();
    Ok(endpoint)
}

/// Returns the outcome of an accepted request: `Ok` if the endpoint is up, the error if it failed, `None` as long as
/// the peer has not answered.
pub(crate) fn begun(endpoint: &Endpoint) -> Option<Result> {
    let step = endpoint.shared.take_step()?;
    Some(step.map_err(|_| ECONNABORTED))
}

impl Endpoint {
    /// Puts an endpoint into service: its connection is up, and its new owner takes it.
    pub(crate) fn come_up(&self) {
        // Before anything is sent: code that finds the endpoint broken needs the timer.
        self.start_timer();
        // Messages that arrived during the setup may need an answer.
        self.shared.pump(&self.connection);
        self.record().up(&self.local, &self.peer);
    }
}

/// Makes an endpoint from an identifier that is bound to a device.
fn open(
    domains: &Domains,
    id: CmId<Shared>,
    shared: Arc<Shared>,
    (depth, window): (u32, Window),
    charge: EndpointCharge,
) -> Result<Arc<Endpoint>> {
    let device = id.device().ok_or(ENODEV)?;
    shared.prepare(depth, window)?;
    // From here on the domain keeps the device alive, so its name is read afterwards.
    let domain = domains.on(device)?;
    let (local, peer) = (id.local().to_uapi(), id.peer().to_uapi());
    let addresses = (local, peer);
    let endpoint = Endpoint::new(shared, domain.clone(), addresses, device.name(), charge)?;
    let opened = domain.add_endpoint(&endpoint, |pd, place| {
        endpoint.place.store(place, Relaxed);
        endpoint.connection.open(id, pd, depth)
    });
    opened.map_err(without_memory)?;
    Ok(endpoint)
}
