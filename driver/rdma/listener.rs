// SPDX-License-Identifier: GPL-2.0-only

//! Listeners and the connections that wait to be accepted.

use super::{
    bell::Bell,
    endpoint::{begin_accept, Shared},
    handshakes::{give_up, Handshakes, Terms},
    Domains, Endpoint, REGISTRY,
};
use crate::kx::charged::{Payer, GFP_CHARGED};
use crate::{
    base::{
        faults::FAULTS,
        gauges::{Held, GAUGES},
        quota::{Charge, EndpointCharge},
        wait::Deadline,
    },
    kx::{
        fifo::Fifo,
        net::Address,
        rdma::{
            client::Device,
            cm::{self, CmId},
        },
    },
    logic::{outcome::Down, wire::Hello},
    uapi,
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};

/// Most connections that may wait to be accepted.
pub(crate) const MAX_BACKLOG: u32 = 128;

/// Longest wait of a call for a peer that it has answered, in milliseconds, if the call's own limit is shorter.
const ANSWER_MS: u32 = 1000;

/// A request that waits to be accepted.
struct Pending {
    id: CmId<Shared>,
    shared: Arc<Shared>,
    hello: Hello,
}

struct State {
    /// Why the listener has ended, if it has.
    ended: Option<Error>,
    backlog: Fifo<Pending>,
}

/// The part of a listener that connection manager events reach. Lock: `state`, inside the identifier's event lock and
/// around `REGISTRY`.
#[pin_data]
struct Inbox {
    #[pin]
    state: Mutex<State>,
    /// Rung on each change of `state`, and of the requests that were taken from it.
    bell: Arc<Bell>,
    payer: Payer,
}

impl cm::Handler for Inbox {
    fn event(&self, _id: cm::Active<'_>, event: cm::Event<'_>) {
        if let cm::Event::DeviceRemoval = event {
            self.end(ENODEV);
        }
    }

    fn request(&self, request: cm::Request<'_>) {
        let Ok(hello) = Hello::decode(request.private()) else {
            return;
        };
        if FAULTS.cm_request.fires() {
            return;
        }
        // The listener's owner pays, even for requests that nobody accepts.
        let make = || {
            FAULTS.alloc_request.fail(ENOMEM)?;
            Shared::new(Some(self.bell.clone()), self.payer.clone())
        };
        let Ok(shared) = self.payer.pays(make) else {
            return;
        };
        let mut state = self.state.lock();
        // Under the lock: the removal of a device that begins after this check will search the backlog.
        let usable = request
            .device()
            .is_some_and(|device| REGISTRY.lock().usable(device).is_ok());
        if state.ended.is_some() || state.backlog.is_full() || !usable {
            return;
        }
        let id = request.take(shared.clone());
        // There is room: that was checked above.
        let _ = state.backlog.push(Pending { id, shared, hello });
        drop(state);
        self.bell.ring();
    }
}

impl Inbox {
    fn end(&self, why: Error) {
        self.state.lock().ended.get_or_insert(why);
        self.bell.ring();
    }
}

/// A listener. `id` is taken when it ends. Lock: `handshakes`, with the endpoints' own locks inside it.
#[pin_data]
pub(crate) struct Listener {
    inbox: Arc<Inbox>,
    #[pin]
    handshakes: Mutex<Handshakes>,
    #[pin]
    id: Mutex<Option<CmId<Inbox>>>,
    local: uapi::SockAddr,
    _charge: Charge,
    _count: Held,
}

impl Listener {
    /// Starts to listen. `ENODEV` when there is no RDMA device at all, `EOPNOTSUPP` when none is usable, or not
    /// the one of the address, `EADDRNOTAVAIL` when none has the address.
    pub(crate) fn new(local: &uapi::SockAddr, backlog: u32, charge: Charge) -> Result<Arc<Self>> {
        if !(1..=MAX_BACKLOG).contains(&backlog) {
            return Err(EINVAL);
        }
        let address = Address::from_uapi(local)?;
        REGISTRY.lock().check_usable()?;
        let bell = Bell::new()?;
        let inbox = Arc::pin_init(
            pin_init!(Inbox {
                state <- new_mutex!(State {
                    ended: None,
                    backlog: Fifo::none(),
                }, "Inbox::state"),
                bell: bell,
                payer: Payer::of_caller(),
            }),
            GFP_CHARGED,
        )?;
        let room = Fifo::new(backlog as usize)?;
        inbox.state.lock().backlog = room;
        let id = CmId::new(inbox.clone())?;
        id.listen(&address, backlog).map_err(|error| {
            if error == ENODEV {
                EADDRNOTAVAIL
            } else {
                error
            }
        })?;
        let local = id.local().to_uapi();
        let device = id.device();
        let handshakes = Handshakes::new()?;
        let listener = Arc::pin_init(
            pin_init!(Self {
                inbox,
                handshakes <- new_mutex!(handshakes, "Listener::handshakes"),
                id <- new_mutex!(Some(id), "Listener::id"),
                local,
                _charge: charge,
                _count: GAUGES.listeners.hold(1),
            }),
            GFP_CHARGED,
        )?;
        // A statement of its own: closing takes the registry's lock again.
        let added = REGISTRY.lock().add_listener(&listener, device);
        if let Err(error) = added {
            listener.close();
            return Err(error);
        }
        Ok(listener)
    }

    /// The bound address.
    pub(crate) fn local(&self) -> uapi::SockAddr {
        self.local
    }

    /// Waits for a connection that comes up with a depth of receives and a window. Answers each request at once,
    /// without waiting for the peers of earlier ones; connections that are not up when this returns are left for the
    /// next call. `charge` charges for one endpoint. `ERESTARTSYS` on a signal: nothing is lost.
    pub(crate) fn accept(
        &self,
        domains: &Domains,
        terms: Terms,
        charge: impl Fn() -> Result<EndpointCharge>,
        deadline: Deadline,
    ) -> Result<Arc<Endpoint>> {
        let mut spare = match charge() {
            Ok(charge) => Some(charge),
            // Handshakes that have begun are charged already.
            Err(error) if self.handshakes.lock().is_empty() => return Err(error),
            Err(_) => None,
        };
        let mut limit = deadline;
        // A bound in any case: a stream of requests must not keep the caller in here.
        let most = deadline.plus_ms(ANSWER_MS);
        let mut begun = false;
        loop {
            let seen = self.inbox.bell.count();
            if let Some(ended) = self.next_ended(terms) {
                return ended;
            }
            if kernel::current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            // Even with a limit of 0, requests that are there are answered first.
            if begun && most.left_ms().is_none() {
                return Err(ETIMEDOUT);
            }
            if spare.is_none() {
                spare = charge().ok();
            }
            if let Some(charge) = spare.take_if(|_| self.has_pending()) {
                if self.begin_next(domains, terms, charge)? {
                    // The user's limit is for the wait for a request: a peer that is here gets the time that an honest
                    // one needs.
                    limit = limit.at_least_ms(ANSWER_MS).min(most);
                }
                begun = true;
                continue;
            }
            let ended = self.inbox.state.lock().ended;
            if let Some(error) = ended {
                return Err(error);
            }
            let overdue = self.handshakes.lock().next_end();
            if spare.is_none() && overdue.is_none() {
                // No handshake has begun that could be returned, and none may begin.
                return Err(EDQUOT);
            }
            match self.inbox.bell.wait(seen, limit.or_at(overdue)) {
                Err(error) if error == ETIMEDOUT && limit.left_ms().is_some() => {}
                result => result?,
            }
        }
    }

    fn has_pending(&self) -> bool {
        self.inbox.state.lock().backlog.front().is_some()
    }

    /// Answers the next request; false when its peer gave up while it waited, or somebody else took it.
    fn begin_next(&self, domains: &Domains, terms: Terms, charge: EndpointCharge) -> Result<bool> {
        let pending = self.inbox.state.lock().backlog.pop();
        let Some(Pending { id, shared, hello }) = pending else {
            return Ok(false);
        };
        if !shared.claim() {
            return Ok(false);
        }
        let endpoint = begin_accept(domains, id, shared, hello, terms, charge)?;
        let given_up = self.handshakes.lock().begin(endpoint, terms);
        if let Some(given_up) = given_up {
            give_up(&given_up);
        }
        // It may have come up before it was listed, when other acceptors looked for it in vain.
        self.inbox.bell.ring();
        Ok(true)
    }

    /// The next connection that came up with these terms, or the failure of one.
    fn next_ended(&self, terms: Terms) -> Option<Result<Arc<Endpoint>>> {
        loop {
            let (endpoint, ended) = self.handshakes.lock().next(terms)?;
            match ended {
                Some(Ok(())) => {
                    endpoint.come_up();
                    return Some(Ok(endpoint));
                }
                Some(Err(error)) => {
                    give_up(&endpoint);
                    return Some(Err(error));
                }
                None => give_up(&endpoint),
            }
        }
    }

    /// Handles the removal of a device: drops what is bound to it.
    pub(super) fn device_gone(&self, device: Device) {
        loop {
            let bound = |pending: &Pending| pending.id.device() == Some(device);
            let gone = self.inbox.state.lock().backlog.remove_first(bound);
            if gone.is_none() {
                break;
            }
        }
        let own = {
            let mut id = self.id.lock();
            if id.as_ref().is_some_and(|id| id.device() == Some(device)) {
                id.take()
            } else {
                None
            }
        };
        if own.is_some() {
            drop(own);
            self.inbox.end(ENODEV);
        }
    }

    /// Stops listening and refuses waiting requests. Acceptors get `ECONNABORTED`.
    pub(crate) fn close(&self) {
        let id = self.id.lock().take();
        drop(id);
        self.inbox.end(ECONNABORTED);
        let backlog = core::mem::replace(&mut self.inbox.state.lock().backlog, Fifo::none());
        drop(backlog);
        let begun = self.handshakes.lock().close();
        // Every peer gets a last will before the first is waited for.
        for handshake in &begun {
            handshake.endpoint().send_last_will_for(Down::Local);
        }
        for handshake in begun {
            give_up(handshake.endpoint());
        }
        REGISTRY.lock().forget_listener(self);
    }
}
