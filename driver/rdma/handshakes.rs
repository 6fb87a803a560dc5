// SPDX-License-Identifier: GPL-2.0-only

//! A listener's connections that were accepted and are not up yet. An acceptor begins as many as there are requests, so
//! that a silent peer keeps nobody from being accepted.

use super::{
    endpoint::{begun, Endpoint},
    listener::MAX_BACKLOG,
};
use crate::kx::charged::GFP_CHARGED;
use crate::logic::{outcome::Down, window::Window};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{Delta, Instant, Monotonic},
};

/// Time that a peer gets to finish the handshake, in milliseconds.
const HANDSHAKE_MS: i64 = 5000;

/// Depth of receives and window of an endpoint to be made.
pub(super) type Terms = (u32, Window);

/// A handshake that has begun.
pub(super) struct Handshake {
    endpoint: Arc<Endpoint>,
    terms: Terms,
    /// When its peer's time is over.
    end: Instant<Monotonic>,
}

impl Handshake {
    /// The endpoint that may come up.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

/// The handshakes of one listener, in the order in which they began. The lock `Listener::handshakes` protects them;
/// endpoints that the methods return are ended without it.
///
/// # Invariants
///
/// There is room for [`MAX_BACKLOG`] of them until it is closed.
pub(super) struct Handshakes {
    begun: KVec<Handshake>,
    closed: bool,
}

impl Handshakes {
    /// An empty list.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            begun: KVec::with_capacity(MAX_BACKLOG as usize, GFP_CHARGED)?,
            closed: false,
        })
    }

    /// Adds a handshake that has begun. Returns an endpoint that the caller ends without the lock: if there is no room,
    /// the oldest one that is not up, or just the oldest; after [`Self::close`] the new one itself.
    pub(super) fn begin(&mut self, endpoint: Arc<Endpoint>, terms: Terms) -> Option<Arc<Endpoint>> {
        if self.closed {
            return Some(endpoint);
        }
        let mut gone = None;
        if self.begun.len() >= MAX_BACKLOG as usize {
            let silent = |handshake: &Handshake| !handshake.endpoint.is_up();
            let oldest = self.begun.iter().position(silent).unwrap_or(0);
            gone = self.begun.remove(oldest).ok();
        }
        let end = Instant::now() + Delta::from_millis(HANDSHAKE_MS);
        let handshake = Handshake {
            endpoint,
            terms,
            end,
        };
        // There is room, by the type invariant.
        let refused = self.begun.push_within_capacity(handshake);
        let refused = refused.err().map(|error| error.0);
        refused.or(gone).map(|handshake| handshake.endpoint)
    }

    /// Takes the next handshake that has ended: an endpoint that is up and has these terms, or one that failed, with
    /// the error. Endpoints that are up and have other terms wait for an acceptor with those, as long as a handshake
    /// may take. A handshake whose peer stayed silent all its time is returned with `None`, because that is not
    /// reported.
    pub(super) fn next(&mut self, terms: Terms) -> Option<(Arc<Endpoint>, Option<Result>)> {
        let now = Instant::now();
        for at in 0..self.begun.len() {
            let handshake = self.begun.get(at)?;
            let matches = handshake.terms == terms;
            let overdue = !(now - handshake.end).is_negative();
            let ended = match matches {
                true => begun(&handshake.endpoint),
                false => None,
            };
            if ended.is_some() || overdue {
                let handshake = self.begun.remove(at).ok()?;
                return Some((handshake.endpoint, ended));
            }
        }
        None
    }

    /// When the next one is overdue.
    pub(super) fn next_end(&self) -> Option<Instant<Monotonic>> {
        // They are in the order of their beginnings, which is that of their deadlines.
        self.begun.first().map(|handshake| handshake.end)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// Refuses new handshakes, and returns those that have begun. The caller ends them without the lock.
    pub(super) fn close(&mut self) -> KVec<Handshake> {
        self.closed = true;
        core::mem::take(&mut self.begun)
    }
}

/// Ends an endpoint that never came up.
pub(super) fn give_up(endpoint: &Endpoint) {
    endpoint.shutdown(Down::Local);
}
