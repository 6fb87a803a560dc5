// SPDX-License-Identifier: GPL-2.0-only

//! Liveness of the peer: heartbeats while the connection is up, a last will when one side ends.

use super::{Endpoint, Phase, Shared};
use crate::{
    base::{delay_points::DELAY_POINTS, faults::FAULTS, tuning::TUNING, wait::elapsed_ms},
    kx::{
        rdma::connection::Connection,
        task::{is_exiting, is_killed},
    },
    logic::{
        flow::Violation,
        heartbeat::Heartbeat,
        outcome::{Down, State as Terminal},
        wire::Body,
    },
    module_parameters, uapi,
};
use kernel::{
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// Factor by which a fault point makes heartbeats rarer than the module's parameter says.
const RARER: u32 = 40;

/// Heartbeat state of an endpoint.
pub(super) struct Keepalive {
    /// Both sides' intervals, and how long the peer has been silent.
    pub(super) life: Heartbeat,
    next: Option<Instant<Monotonic>>,
    /// A PING waits to be sent.
    pub(super) ping: bool,
}

impl Keepalive {
    /// The state of a new endpoint, with the interval of the module's parameter.
    pub(super) fn new() -> Self {
        let wanted: u32 = module_parameters::heartbeat_ms.value();
        let rarer = if FAULTS.heartbeat_rare.fires() {
            RARER
        } else {
            1
        };
        Self {
            life: Heartbeat::new(wanted.saturating_mul(rarer)),
            next: None,
            ping: false,
        }
    }
}

impl Shared {
    /// Sends a heartbeat when one is due: requests a PING, and ends the endpoint if the peer is silent. Returns when
    /// the next heartbeat is due.
    pub(super) fn heartbeat(
        &self,
        connection: &Connection<Self>,
        now: Instant<Monotonic>,
    ) -> Option<Instant<Monotonic>> {
        let silent = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Up) {
                return None;
            }
            let keepalive = &mut state.keepalive;
            let next = now + Delta::from_millis(keepalive.life.interval_ms().into());
            let silent = match keepalive.next {
                Some(moment) if (now - moment).is_negative() => return Some(moment),
                // The first heartbeat only sets the time of the next.
                None => false,
                Some(_) => {
                    keepalive.ping = !FAULTS.heartbeat_lost.fires();
                    !keepalive.life.heartbeat()
                }
            };
            keepalive.next = Some(next);
            if silent {
                state.peer_end = uapi::PEER_END_SILENT;
            }
            silent
        };
        if silent {
            self.go_down(Down::Unreachable);
            connection.disconnect();
            return None;
        }
        self.pump(connection);
        self.state.lock().keepalive.next
    }

    /// Handles the peer's last will.
    pub(super) fn take_will(&self, reason: u32) -> Result<(), Violation> {
        let cause = match reason {
            uapi::PEER_END_CLOSED => Down::Peer,
            uapi::PEER_END_DIED => Down::Died,
            uapi::PEER_END_DEVICE => Down::Peer,
            _ => return Err(Violation),
        };
        {
            let mut state = self.state.lock();
            state.peer_end = reason;
            // Under the same lock: the disconnect event must not come between the reason and the end.
            state.end_for_reason(cause);
        }
        self.record.last_will(reason);
        DELAY_POINTS.last_will_received.pass();
        self.go_down(cause);
        Ok(())
    }

    /// Records that the peer went silent, unless its end has a recorded reason.
    pub(super) fn note_end(&self, cause: Down) {
        let silent = cause.outcome().state == Terminal::PeerDead && cause == Down::Unreachable;
        let mut state = self.state.lock();
        if silent && state.peer_end == uapi::PEER_END_NONE {
            state.peer_end = uapi::PEER_END_SILENT;
        }
    }
}

impl Endpoint {
    /// See [`Shared::send_last_will_for`].
    pub(crate) fn send_last_will_for(&self, cause: Down) {
        self.shared.send_last_will_for(&self.connection, cause);
    }
}

impl Shared {
    /// Calls [`Self::send_last_will`] with the reason that matches the cause.
    pub(super) fn send_last_will_for(&self, connection: &Connection<Self>, cause: Down) {
        let reason = match cause {
            Down::Device => uapi::PEER_END_DEVICE,
            // The process that revokes memory need not be the endpoint's owner.
            Down::Revoked => uapi::PEER_END_CLOSED,
            _ if is_exiting() || is_killed() => uapi::PEER_END_DIED,
            _ => uapi::PEER_END_CLOSED,
        };
        self.send_last_will(connection, reason, cause);
    }

    /// Notifies the peer that this side ends, and why. Marks the endpoint down under the same lock: the peer's answer
    /// must not become the cause. Does not wait; [`Self::await_will`] does.
    fn send_last_will(&self, connection: &Connection<Self>, reason: u32, cause: Down) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if !matches!(state.phase, Phase::Up) || state.will.is_some() {
            return;
        }
        // Without a slot the peer learns of the end from the disconnect.
        if let Ok(slot) = state.send(connection, 0, Body::LastWill(reason)) {
            state.will = Some((slot, Instant::now()));
        }
        state.end(cause);
    }

    /// Waits briefly for the peer to acknowledge the last will, if one was sent.
    pub(super) fn await_will(&self) {
        let sent = self.state.lock().will;
        if let Some((_, sent)) = sent {
            // The time runs from the sending, so that the waits for the peers of several endpoints overlap.
            let left = TUNING.will_ms().saturating_sub(elapsed_ms(sent));
            self.will_sent.wait_for(left);
        }
    }
}
