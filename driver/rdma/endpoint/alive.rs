// SPDX-License-Identifier: GPL-2.0-only

//! Whether the peer is alive: heartbeats while both are, a last will when one ends.

use super::{Endpoint, Phase, Shared};
use crate::{
    faults::FAULTS,
    kx::{rdma::connection::Connection, task::{is_exiting, is_killed}},
    logic::{
        flow::Violation,
        heartbeat::Heartbeat,
        outcome::{Down, State as Terminal},
        wire::Body,
    },
    module_parameters,
    tuning::TUNING,
    uapi,
    wait::elapsed_ms,
    windows::WINDOWS,
};
use kernel::{
    prelude::*,
    time::{Delta, Instant, Monotonic},
};

/// How much rarer heartbeats are than the module's parameter says, where a fault point wants it.
const RARER: u32 = 40;

/// What is known of the peer's life.
pub(super) struct Pulse {
    /// This side's interval, the peer's, and how long the latter is silent.
    pub(super) life: Heartbeat,
    next: Option<Instant<Monotonic>>,
    /// A PING waits to be sent.
    pub(super) ping: bool,
}

impl Pulse {
    /// Of a new endpoint, with the interval of the module's parameter.
    pub(super) fn new() -> Self {
        let wanted: u32 = module_parameters::heartbeat_ms.value();
        let rarer = if FAULTS.beat_rare.fires() { RARER } else { 1 };
        Self {
            life: Heartbeat::new(wanted.saturating_mul(rarer)),
            next: None,
            ping: false,
        }
    }
}

impl Shared {
    /// Beats, when it is time: asks for a PING, and ends the endpoint of a peer that is silent. The next beat's time.
    pub(super) fn beat(
        &self,
        connection: &Connection<Self>,
        now: Instant<Monotonic>,
    ) -> Option<Instant<Monotonic>> {
        let silent = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Up) {
                return None;
            }
            let pulse = &mut state.pulse;
            let next = now + Delta::from_millis(pulse.life.interval_ms().into());
            let silent = match pulse.next {
                Some(moment) if (now - moment).is_negative() => return Some(moment),
                // The first beat only sets the time.
                None => false,
                Some(_) => {
                    pulse.ping = !FAULTS.beat_lost.fires();
                    !pulse.life.beat()
                }
            };
            pulse.next = Some(next);
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
        self.state.lock().pulse.next
    }

    /// The peer says that it ends.
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
            match state.phase {
                // The connection manager was faster, and knows no reason.
                Phase::Down(Down::Peer) => state.phase = Phase::Down(cause),
                Phase::Down(_) => {}
                // In the same breath: it would come between the reason and the end.
                Phase::Connecting | Phase::Up => {
                    state.phase = Phase::Down(cause);
                    self.record.down(cause);
                }
            }
        }
        self.record.last_will(reason);
        WINDOWS.willed.pass();
        self.go_down(cause);
        Ok(())
    }

    /// Notes how the peer ended, where it has not said so itself.
    pub(super) fn note_end(&self, cause: Down) {
        let silent = cause.outcome().state == Terminal::PeerDead && cause == Down::Unreachable;
        let mut state = self.state.lock();
        if silent && state.peer_end == uapi::PEER_END_NONE {
            state.peer_end = uapi::PEER_END_SILENT;
        }
    }
}

impl Endpoint {
    /// See [`Shared::bequeath_for`].
    pub(crate) fn bequeath_for(&self, cause: Down) {
        self.shared.bequeath_for(&self.connection, cause);
    }
}

impl Shared {
    /// As [`Self::bequeath`], with the reason that goes with the cause.
    pub(super) fn bequeath_for(&self, connection: &Connection<Self>, cause: Down) {
        let reason = match cause {
            Down::Device => uapi::PEER_END_DEVICE,
            // Whoever takes memory away need not be the endpoint's owner.
            Down::Revoked => uapi::PEER_END_CLOSED,
            _ if is_exiting() || is_killed() => uapi::PEER_END_DIED,
            _ => uapi::PEER_END_CLOSED,
        };
        self.bequeath(connection, reason, cause);
    }

    /// Tells the peer that this side ends, and why. The endpoint is down from then on, in the same breath: the peer's
    /// answer must not become the cause of it. Does not wait: [`Self::await_will`] does.
    fn bequeath(&self, connection: &Connection<Self>, reason: u32, cause: Down) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if !matches!(state.phase, Phase::Up) || state.will.is_some() {
            return;
        }
        // Without a slot the peer learns of the end by the connection's.
        if let Ok(slot) = state.send(connection, 0, Body::LastWill(reason)) {
            state.will = Some((slot, Instant::now()));
        }
        state.phase = Phase::Down(cause);
        state.record.down(cause);
    }

    /// Waits a moment for the peer to acknowledge the last will, if there is one.
    pub(super) fn await_will(&self) {
        let sent = self.state.lock().will;
        if let Some((_, sent)) = sent {
            // Counted from the sending: of many endpoints, the peers of all are waited for at once.
            let left = TUNING.will_ms().saturating_sub(elapsed_ms(sent));
            self.will_told.wait_for(left);
        }
    }
}
