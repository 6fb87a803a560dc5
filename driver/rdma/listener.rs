// SPDX-License-Identifier: GPL-2.0-only

//! Listeners and the connections that wait to be accepted.

use super::{
    endpoint::{self, Shared},
    Domains, Endpoint,
};
use crate::{
    context::quota::Charge,
    faults::FAULTS,
    gauges::{Held, GAUGES},
    kx::{
        fifo::Fifo,
        global::REGISTRY,
        net::Address,
        rdma::{
            client::Device,
            cm::{self, CmId},
        },
    },
    logic::{window::Window, wire::Hello},
    uapi,
    wait::Deadline,
};
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, CondVar, Mutex},
};

/// Most connections that may wait.
pub(crate) const MAX_BACKLOG: u32 = 128;

/// A request that waits to be accepted.
struct Pending {
    id: CmId<Shared>,
    shared: Arc<Shared>,
    hello: Hello,
}

struct State {
    /// Why nothing comes any more, if so.
    ended: Option<Error>,
    backlog: Fifo<Pending>,
}

/// What the connection manager's events reach. Lock: `state`, inside the identifier's event lock and around
/// `REGISTRY`.
#[pin_data]
struct Inbox {
    #[pin]
    state: Mutex<State>,
    #[pin]
    changed: CondVar,
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
        let made = FAULTS.alloc_request.fail(ENOMEM);
        let Ok(shared) = made.and_then(|()| Shared::new(true)) else {
            return;
        };
        let mut state = self.state.lock();
        // Under the lock: a device whose removal begins after this check will look through the backlog.
        let there = request
            .device()
            .is_some_and(|device| REGISTRY.lock().has(device));
        if state.ended.is_some() || state.backlog.is_full() || !there {
            return;
        }
        let id = request.take(shared.clone());
        // There is room, see above.
        let _ = state.backlog.push(Pending { id, shared, hello });
        drop(state);
        self.changed.notify_one();
    }
}

impl Inbox {
    fn end(&self, why: Error) {
        self.state.lock().ended.get_or_insert(why);
        self.changed.notify_all();
    }
}

/// A listener. `id` is taken when it ends.
#[pin_data]
pub(crate) struct Listener {
    inbox: Arc<Inbox>,
    #[pin]
    id: Mutex<Option<CmId<Inbox>>>,
    local: uapi::SockAddr,
    _count: Held,
}

impl Listener {
    /// Listens. `ENODEV` when there is no RDMA device at all, `EADDRNOTAVAIL` when none has the address.
    pub(crate) fn new(local: &uapi::SockAddr, backlog: u32) -> Result<Arc<Self>> {
        if !(1..=MAX_BACKLOG).contains(&backlog) {
            return Err(EINVAL);
        }
        let address = Address::from_uapi(local)?;
        if REGISTRY.lock().devices() == 0 {
            return Err(ENODEV);
        }
        let inbox = Arc::pin_init(
            pin_init!(Inbox {
                state <- new_mutex!(State {
                    ended: None,
                    backlog: Fifo::none(),
                }, "Inbox::state"),
                changed <- new_condvar!("Inbox::changed"),
            }),
            GFP_KERNEL,
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
        let listener = Arc::pin_init(
            pin_init!(Self {
                inbox,
                id <- new_mutex!(Some(id), "Listener::id"),
                local,
                _count: GAUGES.listeners.hold(1),
            }),
            GFP_KERNEL,
        )?;
        // In a statement of its own: closing takes the registry's lock again.
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

    /// Waits for a connection and brings it up with a depth of receives and a window.
    pub(crate) fn accept(
        &self,
        domains: &Domains,
        terms: (u32, Window),
        charge: Charge,
        deadline: Deadline,
    ) -> Result<Arc<Endpoint>> {
        loop {
            let pending = {
                let mut state = self.inbox.state.lock();
                deadline.wait(&mut state, &self.inbox.changed, |state| {
                    match state.backlog.pop() {
                        Some(pending) => Some(Ok(pending)),
                        None => state.ended.map(Err),
                    }
                })??
            };
            if !pending.shared.claim() {
                // The peer gave up while it waited; the next one, please.
                continue;
            }
            let Pending { id, shared, hello } = pending;
            return endpoint::accept(domains, id, shared, hello, terms, charge, deadline);
        }
    }

    /// A device goes away: drops what is bound to it.
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

    /// Stops listening and refuses whoever waits. Acceptors get `ECONNABORTED`.
    pub(crate) fn close(&self) {
        let id = self.id.lock().take();
        drop(id);
        self.inbox.end(ECONNABORTED);
        let backlog = core::mem::replace(&mut self.inbox.state.lock().backlog, Fifo::none());
        drop(backlog);
        REGISTRY.lock().forget_listener(self);
    }
}
