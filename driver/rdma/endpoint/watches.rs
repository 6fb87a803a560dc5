// SPDX-License-Identifier: GPL-2.0-only

//! Watches: one completion for many arrivals, or for the end of a grant.

use super::{operations::DONE, Endpoint, Phase, Shared, State};
use crate::{
    base::delay_points::DELAY_POINTS,
    channel::Ticket,
    kx::{
        box_queue::{BoxQueue, Link, Next},
        charged::GFP_CHARGED,
    },
    rdma::Grant,
};
use kernel::prelude::*;

/// Most watches of one endpoint.
const MAX_WATCHES: u32 = 1024;

/// What is watched for.
pub(crate) enum Watched {
    /// A number of arrivals whose masked immediate is `imm`.
    Arrivals {
        /// The immediate.
        imm: u32,
        /// The bits of the immediate that count.
        mask: u32,
        /// Arrivals that are still to come.
        left: u32,
    },
    /// The end of the peer's access by an own grant, by its number.
    Grant(u32),
}

/// A watch.
pub(super) struct Watch {
    pub(super) ticket: Ticket,
    watched: Watched,
    next: Next<Self>,
}

impl Link for Watch {
    fn next(&mut self) -> &mut Next<Self> {
        &mut self.next
    }
}

impl Watch {
    /// What it watches for.
    pub(super) fn watched(&self) -> &Watched {
        &self.watched
    }
}

impl Endpoint {
    /// Accepts a watch. It completes whatever happens.
    pub(crate) fn watch(&self, mut ticket: Ticket, watched: Watched) {
        ticket.on(self.record());
        let deadline = ticket.deadline();
        let mut place = match KBox::new_uninit(GFP_CHARGED) {
            Ok(place) => Some(place),
            Err(_) => return ticket.fail(ENOMEM),
        };
        let refused = {
            let mut state = self.shared.state.lock();
            match (state.phase, &watched) {
                (Phase::Down(cause), Watched::Arrivals { .. }) => Some((ticket, Ok(cause))),
                _ if state.watch_count >= MAX_WATCHES => Some((ticket, Err(ENOBUFS))),
                _ => {
                    if let Some(place) = place.take() {
                        let next = Next::none();
                        let watch = Watch {
                            ticket,
                            watched,
                            next,
                        };
                        state.watches.push_back(KBox::write(place, watch));
                        state.watch_count += 1;
                    }
                    None
                }
            }
        };
        match refused {
            Some((ticket, Ok(cause))) => ticket.complete(cause.outcome()),
            Some((ticket, Err(error))) => ticket.fail(error),
            None => self.arm(deadline),
        }
    }

    /// Accepts a watch of an own grant. It completes at once if the grant has ended already.
    pub(crate) fn watch_grant(&self, ticket: Ticket, grant: &Grant) {
        DELAY_POINTS.grant_watched.pass();
        self.watch(ticket, Watched::Grant(grant.generation()));
        // The end may have come before the watch: then nobody else completes it.
        if let Some(why) = grant.ended() {
            self.shared.grant_ended(grant.generation(), why);
        }
    }
}

impl State {
    /// Takes the first watch that `wanted` selects.
    pub(super) fn take_watch(
        &mut self,
        wanted: impl FnMut(&mut Watch) -> bool,
    ) -> Option<KBox<Watch>> {
        let watch = self.watches.remove_first(wanted)?;
        self.watch_count = self.watch_count.saturating_sub(1);
        Some(watch)
    }
}

impl State {
    /// Counts an arrival in all watches. Called under the lock under which the arrival is taken: a watch that is added
    /// when its receive has completed does not count it.
    pub(super) fn count_arrival(&mut self, came: u32) {
        self.watches.for_each(|watch| {
            if let Watched::Arrivals { imm, mask, left } = &mut watch.watched {
                if came & *mask == *imm {
                    *left = left.saturating_sub(1);
                }
            }
        });
    }
}

impl Shared {
    /// Completes the watches that have reached their number of arrivals.
    pub(super) fn end_full_watches(&self) {
        self.end_watches(
            |watch| matches!(watch.watched, Watched::Arrivals { left: 0, .. }),
            0,
        );
    }

    /// Completes the watches of a grant: nothing reaches its range any more.
    pub(super) fn grant_ended(&self, number: u32, why: u32) {
        let of_it = |watch: &Watch| matches!(watch.watched, Watched::Grant(of) if of == number);
        self.end_watches(of_it, why);
    }

    fn end_watches(&self, wanted: impl Fn(&Watch) -> bool, imm: u32) {
        loop {
            let watch = self.state.lock().take_watch(|watch| wanted(watch));
            let Some(watch) = watch else { return };
            let Watch { mut ticket, .. } = KBox::into_inner(watch);
            ticket.set_arrival(imm, 0);
            ticket.complete(DONE);
        }
    }

    /// Completes the watches of arrivals: none will come any more.
    pub(super) fn fail_watches(&self) {
        loop {
            let watch = self
                .state
                .lock()
                .take_watch(|watch| matches!(watch.watched, Watched::Arrivals { .. }));
            let Some(watch) = watch else { return };
            KBox::into_inner(watch)
                .ticket
                .complete(self.down_cause().outcome());
        }
    }
}

/// An empty list.
pub(super) const fn none() -> BoxQueue<Watch> {
    BoxQueue::new()
}
