// SPDX-License-Identifier: GPL-2.0-only

//! An endpoint's lines in debugfs. They contain no kernel address and no key.
//!
//! The lines are written under the endpoint's lock, to the buffer of the file that is being read, so their number is
//! bounded.

use super::{in_flight::InFlight, op::OpState, watches::Watched, Endpoint, Phase, State};
use crate::{
    channel::Ticket,
    kx::{
        box_queue::BoxQueue,
        rdma::{connection::Connection, transfer::Transfer},
    },
    logic::name::Name,
    observe::{show_rest, MAX_SHOWN},
    uapi::{self, SockAddr},
};
use core::net::{Ipv4Addr, Ipv6Addr};
use kernel::fmt;

/// An address in its usual notation.
struct Shown<'a>(&'a SockAddr);

impl core::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0.port;
        match (self.0.family, self.0.addr) {
            (uapi::FAMILY_IPV4, [a, b, c, d, ..]) => {
                write!(f, "{:?}:{port}", Ipv4Addr::new(a, b, c, d))
            }
            (_, addr) => {
                write!(f, "[{:?}", Ipv6Addr::from(addr))?;
                if self.0.scope_id != 0 {
                    // The interface's index: its name would need a network namespace to be looked up in.
                    write!(f, "%{}", self.0.scope_id)?;
                }
                write!(f, "]:{port}")
            }
        }
    }
}

/// Writes the fields that all operations have, and what this one waits for.
fn line(
    f: &mut fmt::Formatter<'_>,
    endpoint: u64,
    ticket: &Ticket,
    stage: &str,
    waits_on: &str,
) -> fmt::Result {
    let mark = ticket.mark();
    write!(f, "endpoint={endpoint} ")?;
    mark.show(f, stage, waits_on)
}

impl State {
    /// What the first operation of the queue waits for.
    fn front_waits_on(&self, connection: &Connection<super::Shared>) -> &'static str {
        let Some((requests, posted)) = self
            .pending
            .front()
            .and_then(|front| Some((front.count(), front.body()?)))
        else {
            return "nothing";
        };
        if !matches!(self.phase, Phase::Up) {
            return "connection";
        }
        if posted.op.needs_credit() && self.flow.send_credits() == 0 {
            // A silent kernel does not advertise receives that were posted since.
            return match self.keepalive.life.silent() {
                0 => "peer-receives",
                _ => "silent-peer",
            };
        }
        if self.fenced {
            return "other-devices";
        }
        if posted.op.is_write() && self.pace.would_wait(posted.op.length()) {
            return "pace";
        }
        if self.in_flight.is_full() || self.window.would_pause(requests.max(1) as u32) {
            return "window";
        }
        if posted.waits_for_announcement() && !self.flow.has_control() {
            return "control-credits";
        }
        if !connection.room_for(requests) {
            return "send-queue";
        }
        "turn"
    }

    fn show_queue(
        &mut self,
        f: &mut fmt::Formatter<'_>,
        endpoint: u64,
        connection: &Connection<super::Shared>,
    ) -> fmt::Result {
        let mut waits_on = self.front_waits_on(connection);
        let (mut result, mut shown) = (Ok(()), 0);
        let pending: &mut BoxQueue<Transfer<OpState>> = &mut self.pending;
        pending.for_each(|transfer| {
            shown += 1;
            if let (Some(posted), Ok(()), true) = (transfer.body(), result, shown <= MAX_SHOWN) {
                result = line(f, endpoint, &posted.ticket, "queued", waits_on);
            }
            // The others wait for the first.
            waits_on = "order";
        });
        result?;
        show_rest(f, format_args!("endpoint={endpoint}"), "order", shown)
    }

    fn show_in_flight(&mut self, f: &mut fmt::Formatter<'_>, endpoint: u64) -> fmt::Result {
        let silent = self.keepalive.life.silent() > 0;
        let (mut result, mut shown) = (Ok(()), 0);
        self.in_flight.for_each(|in_flight| {
            shown += 1;
            if result.is_err() || shown > MAX_SHOWN {
                return;
            }
            result = match in_flight {
                InFlight::Provider(named) => {
                    let waits_on = if silent { "silent-peer" } else { "provider" };
                    write!(f, "endpoint={endpoint} ")
                        .and_then(|()| named.mark.show(f, "posted", waits_on))
                }
                InFlight::Fence(fence) => fence.body().map_or(Ok(()), |posted| {
                    line(f, endpoint, &posted.ticket, "queued", "earlier-operations")
                }),
            };
        });
        result?;
        show_rest(f, format_args!("endpoint={endpoint}"), "provider", shown)
    }

    fn show_waiting(&mut self, f: &mut fmt::Formatter<'_>, endpoint: u64) -> fmt::Result {
        let (mut result, mut shown) = (Ok(()), 0);
        self.receives.waiting.for_each(|receive| {
            shown += 1;
            if result.is_ok() && shown <= MAX_SHOWN {
                result = line(f, endpoint, &receive.ticket, "queued", "arrival");
            }
        });
        result?;
        show_rest(f, format_args!("endpoint={endpoint}"), "arrival", shown)?;
        shown = 0;
        self.watches.for_each(|watch| {
            shown += 1;
            if result.is_ok() && shown <= MAX_SHOWN {
                let waits_on = match watch.watched() {
                    Watched::Arrivals { .. } => "arrivals",
                    Watched::Grant(_) => "end-of-grant",
                };
                result = line(f, endpoint, &watch.ticket, "queued", waits_on);
            }
        });
        result?;
        show_rest(f, format_args!("endpoint={endpoint}"), "arrivals", shown)
    }
}

impl Endpoint {
    /// Writes its own line.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = uapi::EndpointQuery::default();
        self.describe(&mut query);
        let state = if query.state == uapi::ENDPOINT_UP {
            "up"
        } else {
            "down"
        };
        let link = self.record().link();
        write!(
            f,
            "endpoint={} link={link} state={state} error={}",
            self.serial(),
            query.error
        )?;
        write!(
            f,
            " local={} peer={}",
            Shown(&query.local),
            Shown(&query.peer)
        )?;
        let name = query.device.split(|byte| *byte == 0).next().unwrap_or(&[]);
        let device = Name(name);
        write!(f, " device={device} in_flight={}", query.in_flight)?;
        write!(f, " posted={} peer_end={}", query.posted, query.peer_end)?;
        let silent = self.shared.state.lock().keepalive.life.silent();
        let ending = u32::from(self.record().is_torn_down());
        writeln!(f, " silent_heartbeats={silent} ending={ending}")
    }

    /// Writes its credits, in both directions.
    pub(crate) fn show_credits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        let flow = &state.flow;
        write!(
            f,
            "endpoint={} send_credits={}",
            self.serial(),
            flow.send_credits()
        )?;
        write!(
            f,
            " recv_posted={} queued={}",
            flow.posted_receives(),
            state.queued
        )?;
        write!(
            f,
            " sent={} received={}",
            flow.data_sent(),
            flow.data_received()
        )?;
        let (stalls, stalled_ns) = state.stall.totals();
        let stalled = u32::from(state.stall.lasts());
        write!(
            f,
            " stalled={stalled} stalls={stalls} stalled_ns={stalled_ns}"
        )?;
        writeln!(f, " not_ready={}", state.not_ready)
    }

    /// Writes its operations: first those that the provider has, then those that wait, each in order and with what it
    /// waits for.
    pub(crate) fn show_operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.serial();
        let mut state = self.shared.state.lock();
        state.show_in_flight(f, endpoint)?;
        state.show_queue(f, endpoint, &self.connection)?;
        state.show_waiting(f, endpoint)
    }

    /// Writes its own grants and the peer's.
    pub(crate) fn show_grants(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.state.lock().grants.show(f, self.serial())
    }

    /// Writes the regions of its own grants.
    pub(crate) fn show_grant_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.state.lock().grants.show_regions(f)
    }
}
