// SPDX-License-Identifier: GPL-2.0-only

//! Bringing a connection up, from either side.

use super::{Endpoint, Phase, Shared, Step};
use crate::{
    context::quota::Charge,
    kx::{net::Address, rdma::cm::CmId},
    logic::{flow::Flow, outcome::Down, window::Window, wire::Hello},
    rdma::Domains,
    uapi,
    wait::Deadline,
};
use kernel::{
    prelude::*,
    sync::{atomic::Relaxed, Arc},
};

/// Longest that one step of resolving may take, in milliseconds: an address that nobody has is then told.
const RESOLVE_MS: u32 = 3000;

impl Shared {
    /// Waits until the connection manager has finished the step that was started.
    ///
    /// The outer failure is the wait's own: `ETIMEDOUT` or `EINTR`. The inner one is the step's.
    fn wait_step(&self, deadline: Deadline) -> Result<Result> {
        let mut state = self.state.lock();
        let step = deadline.wait(&mut state, &self.changed, |state| {
            // What the step says is more exact than the endpoint's end, which it may have brought about.
            state.step.take().or(match state.phase {
                Phase::Down(cause) => Some(Step::Failed(Error::from_errno(-cause.errno()))),
                Phase::Connecting | Phase::Up => None,
            })
        })?;
        Ok(match step {
            Step::Done => Ok(()),
            Step::Failed(error) => Err(error),
        })
    }

    /// The peer's greeting is known: credits can be counted.
    pub(super) fn greet(&self, own_depth: u32, hello: Hello) {
        let mut state = self.state.lock();
        state.flow = Flow::new(own_depth, hello.depth);
        state.pulse.life.peer_interval(hello.heartbeat_ms);
        state.greeted = true;
    }

    /// What comes with the greeting on the active side, where this side's depth is that of `receives`.
    pub(super) fn greet_active(&self, hello: Hello) {
        let depth = self.state.lock().receives.waiting.capacity() as u32;
        self.greet(depth, hello);
    }

    /// This side's greeting.
    fn hello(&self, depth: u32) -> Hello {
        Hello {
            depth,
            heartbeat_ms: self.state.lock().pulse.life.interval_ms(),
        }
    }
}

/// Shortest time that a peer gets to finish the handshake, in milliseconds.
const HANDSHAKE_MS: u32 = 5000;

/// What a failure to start or finish resolving an address says to the user.
fn unresolved(error: Error) -> Error {
    if error == ENODEV || error == ENETUNREACH {
        // There is no route, or it leads through a device that is no RDMA device's.
        EADDRNOTAVAIL
    } else if error == ETIMEDOUT {
        // Nobody answered for the address.
        EHOSTUNREACH
    } else {
        without_memory(error)
    }
}

/// The words of the layers below for no memory: ENOBUFS is that of the routing code, ENFILE that of a provider that opens
/// a socket for each queue pair.
fn without_memory(error: Error) -> Error {
    if error == ENOBUFS || error == ENFILE {
        ENOMEM
    } else {
        error
    }
}

/// Connects to a listener, with a depth of receives that the caller checked; see the user-space interface for the errors.
pub(crate) fn connect(
    domains: &Domains,
    request: &uapi::Connect,
    charge: Charge,
    deadline: Deadline,
) -> Result<Arc<Endpoint>> {
    let remote = Address::from_uapi(&request.remote)?;
    let local = match request.local.family {
        uapi::FAMILY_NONE => None,
        _ => Some(Address::from_uapi(&request.local)?),
    };
    let window = super::window_of(request.window_high, request.window_low)?;
    let shared = Shared::new(false)?;
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
    up_or_down(endpoint, result)
}

/// Accepts a request that waited in a listener's backlog. `terms` are the depth of receives and the window.
pub(crate) fn accept(
    domains: &Domains,
    id: CmId<Shared>,
    shared: Arc<Shared>,
    hello: Hello,
    terms: (u32, Window),
    charge: Charge,
    deadline: Deadline,
) -> Result<Arc<Endpoint>> {
    let (depth, _) = terms;
    shared.greet(depth, hello);
    // The user's limit is for the wait; a peer that is here already gets the time that a handshake takes.
    let deadline = deadline.at_least_ms(HANDSHAKE_MS);
    // Whatever goes wrong with this one connection says nothing about the listener.
    let endpoint = open(domains, id, shared, terms, charge).map_err(|error| {
        if error == ENOMEM {
            error
        } else {
            ECONNABORTED
        }
    })?;
    let hello = endpoint.shared.hello(depth);
    let result = (|| {
        endpoint
            .connection
            .with_id(|id| {
                id.accept(&hello.encode())?;
                // The peer was answered: it may send before the connection manager says that it is up.
                endpoint.shared.note_up();
                Ok(())
            })
            .map_err(|_| ECONNABORTED)?;
        let step = endpoint.shared.wait_step(deadline)?;
        step.map_err(|_| ECONNABORTED)
    })();
    up_or_down(endpoint, result)
}

/// Makes the endpoint of an identifier that has a device.
fn open(
    domains: &Domains,
    id: CmId<Shared>,
    shared: Arc<Shared>,
    (depth, window): (u32, Window),
    charge: Charge,
) -> Result<Arc<Endpoint>> {
    let device = id.device().ok_or(ENODEV)?;
    shared.prepare(depth, window)?;
    // From here on the domain keeps the device: the name is read afterwards.
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

fn up_or_down(endpoint: Arc<Endpoint>, result: Result) -> Result<Arc<Endpoint>> {
    match result {
        Ok(()) => {
            // Before anything is sent: what finds the endpoint broken has the clock run.
            endpoint.start_clock();
            // What came while it was being connected may have to be answered.
            endpoint.shared.pump(&endpoint.connection);
            endpoint.record().up(&endpoint.local, &endpoint.peer);
            Ok(endpoint)
        }
        Err(error) => {
            endpoint.shutdown(Down::Local);
            Err(error)
        }
    }
}
