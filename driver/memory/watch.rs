// SPDX-License-Identifier: GPL-2.0-only

//! Watches of memory: one completion for its revocation.

use super::Buffer;
use crate::{
    channel::{Ticket, TicketKey},
    kx::{
        chain::{Chain, Link, Next},
        pages::at_will,
    },
    logic::outcome::{Down, Outcome, State as Terminal},
    observe::{show_rest, MAX_SHOWN},
};
use kernel::{fmt, new_spinlock, prelude::*, sync::SpinLock};

/// Most watches of one piece of memory.
const MAX_WATCHES: u32 = 1024;

/// A watch, by the buffer that named the memory.
struct Watch {
    ticket: Ticket,
    buffer: usize,
    next: Next<Self>,
}

impl Link for Watch {
    fn next(&mut self) -> &mut Next<Self> {
        &mut self.next
    }
}

/// What waits, and what it waits for once that has come.
struct State {
    waiting: Chain<Watch>,
    count: u32,
    cause: Option<u32>,
}

/// The watches of one piece of memory. Lock: a spinlock, taken alone.
#[pin_data]
pub(super) struct Watches {
    #[pin]
    state: SpinLock<State>,
}

/// The outcome of a watch whose buffer's name goes, or that is canceled.
fn canceled() -> Outcome {
    Down::Local.outcome()
}

/// Completes a watch with the cause of the revocation.
fn complete(mut ticket: Ticket, cause: u32) {
    ticket.set_arrival(cause, 0);
    ticket.complete(Outcome {
        state: Terminal::Ok,
        errno: 0,
    });
}

impl Watches {
    /// None yet.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(State {
                waiting: Chain::new(),
                count: 0,
                cause: None,
            }, "Memory::watches"),
        })
    }

    /// Writes a line for each that came by a buffer, of which `serial` tells; so many at most, and then how many more.
    pub(super) fn show(&self, f: &mut fmt::Formatter<'_>, buffer: usize, serial: u64) -> fmt::Result {
        let (mut result, mut count) = (Ok(()), 0);
        self.state.lock().waiting.for_each(|watch| {
            if watch.buffer != buffer {
                return;
            }
            count += 1;
            if result.is_ok() && count <= MAX_SHOWN {
                let mark = watch.ticket.mark();
                result = write!(f, "buffer={serial} ")
                    .and_then(|()| mark.show(f, "queued", "revocation"));
            }
        });
        result?;
        show_rest(f, format_args!("buffer={serial}"), "revocation", count)
    }

    /// The revocation is over.
    pub(super) fn tell(&self, cause: u32) {
        self.state.lock().cause = Some(cause);
        self.end(u32::MAX, |_| true, |ticket| complete(ticket, cause));
    }

    /// Ends at most so many of those that `wanted` chooses; how many there were.
    fn end(&self, most: u32, wanted: impl Fn(&Watch) -> bool, with: impl Fn(Ticket)) -> u32 {
        let mut ended = 0;
        while ended < most {
            let watch = {
                let mut state = self.state.lock();
                let watch = state.waiting.remove_first(|watch| wanted(watch));
                state.count -= u32::from(watch.is_some());
                watch
            };
            let Some(watch) = watch else { break };
            with(KBox::into_inner(watch).ticket);
            ended += 1;
        }
        ended
    }
}

impl Buffer {
    pub(super) fn key(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Takes a watch over. Its completion comes with the memory's revocation, at once when that is over, or by a cancel,
    /// or when the buffer's name goes.
    pub(crate) fn watch(&self, ticket: Ticket) {
        let place = match KBox::new_uninit(at_will()) {
            Ok(place) => place,
            Err(_) => return ticket.fail(ENOMEM),
        };
        let mut state = self.memory().tenure.watches.state.lock();
        let refused = match state.cause {
            Some(cause) => Some((ticket, Ok(cause))),
            None if state.count >= MAX_WATCHES => Some((ticket, Err(ENOBUFS))),
            None if self.is_ended() => Some((ticket, Err(ENOENT))),
            None => {
                let watch = Watch {
                    ticket,
                    buffer: self.key(),
                    next: Next::none(),
                };
                state.waiting.push_back(KBox::write(place, watch));
                state.count += 1;
                None
            }
        };
        drop(state);
        match refused {
            Some((ticket, Ok(cause))) => complete(ticket, cause),
            Some((ticket, Err(error))) => ticket.fail(error),
            None => {}
        }
    }

    /// Cancels the buffer's watches, or the first one of a name: how many.
    pub(crate) fn cancel(&self, key: Option<TicketKey>) -> u32 {
        let most = if key.is_some() { 1 } else { u32::MAX };
        let wanted = |watch: &Watch| {
            watch.buffer == self.key() && key.is_none_or(|key| watch.ticket.key() == key)
        };
        let with = |ticket: Ticket| ticket.complete(canceled());
        self.memory().tenure.watches.end(most, wanted, with)
    }

    /// The buffer's name is gone: nobody watches by it any more.
    pub(crate) fn end(&self) {
        {
            // Under the lock, so that a watch that comes now either sees it or is found.
            let _state = self.memory().tenure.watches.state.lock();
            self.set_ended();
        }
        self.cancel(None);
    }
}
