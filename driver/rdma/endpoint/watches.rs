// SPDX-License-Identifier: GPL-2.0-only

//! Watches: one completion for many arrivals, or for the end of a grant.

use super::{operations::DONE, Endpoint, Phase, Shared, State};
use crate::{
    channel::Ticket,
    kx::chain::{Chain, Link, Next},
    rdma::Grant,
};
use kernel::prelude::*;

/// Most watches of one endpoint.
const MAX_WATCHES: u32 = 1024;

/// What is watched for.
pub(crate) enum Watched {
    /// So many arrivals whose masked immediate is this.
    Arrivals {
        /// The immediate.
        imm: u32,
        /// Its bits that count.
        mask: u32,
        /// Arrivals that are still to come.
        left: u32,
    },
    /// The end of the peer's access by a grant of this side's, by its number.
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
    /// Takes a watch over. Its completion comes whatever happens.
    pub(crate) fn watch(&self, mut ticket: Ticket, watched: Watched) {
        ticket.on(self.record());
        let deadline = ticket.deadline();
        let mut place = match KBox::new_uninit(GFP_KERNEL_ACCOUNT) {
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

    /// Takes a watch of an own grant over. One that has ended already is told at once.
    pub(crate) fn watch_grant(&self, ticket: Ticket, grant: &Grant) {
        self.watch(ticket, Watched::Grant(grant.generation()));
        // The end may have come before the watch: then nobody else completes it.
        if let Some(why) = grant.ended() {
            self.shared.grant_ended(grant.generation(), why);
        }
    }
}

impl State {
    /// Takes the first watch that `wanted` chooses.
    pub(super) fn take_watch(
        &mut self,
        wanted: impl FnMut(&mut Watch) -> bool,
    ) -> Option<KBox<Watch>> {
        let watch = self.watches.remove_first(wanted)?;
        self.watch_count = self.watch_count.saturating_sub(1);
        Some(watch)
    }
}

impl Shared {
    /// Something arrived: watches count it, and those that have all they want complete.
    pub(super) fn count_arrival(&self, came: u32) {
        self.state.lock().watches.for_each(|watch| {
            if let Watched::Arrivals { imm, mask, left } = &mut watch.watched {
                if came & *mask == *imm {
                    *left = left.saturating_sub(1);
                }
            }
        });
        self.end_watches(
            |watch| matches!(watch.watched, Watched::Arrivals { left: 0, .. }),
            0,
        );
    }

    /// Nothing lands in a grant's range any more.
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

    /// Completes the watches of arrivals, of which none will come any more.
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
pub(super) const fn none() -> Chain<Watch> {
    Chain::new()
}
