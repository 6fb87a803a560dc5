// SPDX-License-Identifier: GPL-2.0-only

//! Watches of memory: one completion for its revocation.

use crate::{
    channel::{Ticket, TicketKey},
    kx::{
        box_queue::{BoxQueue, Link, Next},
        charged::GFP_CHARGED,
    },
    logic::outcome::{Down, Outcome, State as Terminal},
    observe::{show_rest, MAX_SHOWN},
};
use kernel::{fmt, new_spinlock, prelude::*, sync::SpinLock};

/// Most watches of one piece of memory.
const MAX_WATCHES: u32 = 1024;

/// A watch, with the buffer through which it was made.
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

/// The watches that wait, and the cause of the revocation once it is over.
struct State {
    waiting: BoxQueue<Watch>,
    count: u32,
    cause: Option<u32>,
}

/// The watches of one piece of memory. Lock: a spinlock, taken alone.
#[pin_data]
pub(crate) struct Watches {
    #[pin]
    state: SpinLock<State>,
}

/// The outcome of a watch that is canceled, or whose buffer is destroyed.
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
                waiting: BoxQueue::new(),
                count: 0,
                cause: None,
            }, "Memory::watches"),
        })
    }

    /// Writes a line for each watch of a buffer, whose serial is `serial`: at most [`MAX_SHOWN`], and then how many
    /// more.
    pub(crate) fn show(
        &self,
        f: &mut fmt::Formatter<'_>,
        buffer: usize,
        serial: u64,
    ) -> fmt::Result {
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

    /// Completes all watches: the revocation is over.
    pub(super) fn notify(&self, cause: u32) {
        self.state.lock().cause = Some(cause);
        self.end(u32::MAX, |_| true, |ticket| complete(ticket, cause));
    }

    /// Ends at most `most` of the watches that `wanted` chooses, and returns how many.
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

    /// Adds a watch through a buffer. It completes with the memory's revocation, at once if that is over, or when it is
    /// canceled or the buffer is destroyed, which `is_ended` says under the lock.
    pub(crate) fn add(&self, ticket: Ticket, buffer: usize, is_ended: impl FnOnce() -> bool) {
        let place = match KBox::new_uninit(GFP_CHARGED) {
            Ok(place) => place,
            Err(_) => return ticket.fail(ENOMEM),
        };
        let mut state = self.state.lock();
        let refused = match state.cause {
            Some(cause) => Some((ticket, Ok(cause))),
            None if state.count >= MAX_WATCHES => Some((ticket, Err(ENOBUFS))),
            None if is_ended() => Some((ticket, Err(ENOENT))),
            None => {
                let watch = Watch {
                    ticket,
                    buffer,
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

    /// Cancels a buffer's watches, or the first one with a key, and returns how many.
    pub(crate) fn cancel(&self, buffer: usize, key: Option<TicketKey>) -> u32 {
        let most = if key.is_some() { 1 } else { u32::MAX };
        let wanted = |watch: &Watch| {
            watch.buffer == buffer && key.is_none_or(|key| watch.ticket.key() == key)
        };
        self.end(most, wanted, |ticket| ticket.complete(canceled()))
    }

    /// Ends a buffer's watches when its handle is gone. `set_ended` runs under the lock: a watch that comes now either
    /// sees what it sets or is found.
    pub(crate) fn end_of(&self, buffer: usize, set_ended: impl FnOnce()) {
        {
            let _state = self.state.lock();
            set_ended();
        }
        self.cancel(buffer, None);
    }
}
