// SPDX-License-Identifier: GPL-2.0-only

//! Events of the connection manager and completions of the completion queue.

use super::{messages::Untaken, Phase, Shared, State, Step};
use crate::{
    base::{
        delay_points::DELAY_POINTS,
        faults::{self, FAULTS},
        wait::Deadline,
    },
    kx::{
        rdma::{
            cm::{self, Active, Event},
            connection::{InCallback, Queue},
            hooks::Hooks,
            transfer::Transfer,
            Status,
        },
        waitq::EndedBy,
    },
    logic::{
        outcome::Down,
        wire::{Hello, MESSAGE_BYTES},
    },
    rdma::{hooks::HOOKS, Registering},
    uapi,
};
use kernel::{
    prelude::*,
    sync::atomic::{Acquire, Release},
};

impl cm::Handler for Shared {
    fn event(&self, id: Active<'_>, event: Event<'_>) {
        let step = match event {
            Event::AddressResolved | Event::RouteResolved if FAULTS.cm_step.fires() => {
                Step::Failed(ETIMEDOUT)
            }
            Event::AddressResolved | Event::RouteResolved => Step::Done,
            Event::Established(_) if self.is_accepting() && FAULTS.cm_established.fires() => return,
            Event::Established(private) => {
                self.note_up();
                if !self.establish(private) {
                    id.disconnect();
                }
                return;
            }
            Event::Failed(error) => Step::Failed(error),
            Event::Rejected => Step::Failed(ECONNREFUSED),
            Event::Disconnected => {
                DELAY_POINTS.disconnect_event.pass();
                self.peer_left();
                // Flushes the receives. Their completions come after those of data that arrived.
                id.disconnect();
                return;
            }
            Event::DeviceRemoval => {
                DELAY_POINTS.disconnect_event.pass();
                self.go_down(Down::Device);
                return;
            }
        };
        let over = {
            let mut state = self.state.lock();
            let failed = matches!(step, Step::Failed(_));
            state.step = Some(step);
            !matches!(state.phase, Phase::Connecting) || (failed && state.unclaimed)
        };
        if over {
            // A failure after the connection was up, or one that nobody waits for.
            self.go_down(Down::Peer);
            id.disconnect();
        }
        self.changed.wake_all();
        self.ring();
    }
}

impl State {
    /// The cause of flushed receives if no other is known.
    fn flushed_for(&self) -> Down {
        if self.broken {
            Down::Transfer
        } else {
            Down::Peer
        }
    }
}

impl Shared {
    /// Handles the event that the connection is up. False if it must be disconnected: the peer's greeting is invalid,
    /// or its receives were flushed already.
    fn establish(&self, private: &[u8]) -> bool {
        let greeted = self.state.lock().greeted;
        if greeted {
            DELAY_POINTS.established.pass();
        } else {
            match Hello::decode(private) {
                Ok(_) if FAULTS.cm_greeting.fires() => return self.refuse_greeting(),
                Ok(hello) => self.greet_active(hello),
                Err(_) => return self.refuse_greeting(),
            }
        }
        let (flushed, cause) = {
            let mut state = self.state.lock();
            if let Phase::Connecting = state.phase {
                state.phase = Phase::Up;
                state.step = Some(Step::Done);
            }
            (state.flushed, state.flushed_for())
        };
        self.changed.wake_all();
        self.ring();
        // The timer of an endpoint that nobody has taken yet is running already.
        self.hurry();
        if flushed {
            // Its receives were flushed already, so none is left to report its end.
            self.go_down(cause);
            self.end_receives();
        }
        !flushed
    }

    /// Whether it is on the passive side, where the peer's greeting comes with the request.
    fn is_accepting(&self) -> bool {
        self.bell.is_some()
    }

    /// Records that the peer may send, or has sent: the queue pair works, and its teardown drains it.
    pub(super) fn note_up(&self) {
        self.was_up.store(true, Release);
    }

    /// Ends the endpoint because the peer's greeting is invalid. Returns false, for [`Self::establish`].
    fn refuse_greeting(&self) -> bool {
        self.state.lock().step = Some(Step::Failed(EPROTO));
        self.go_down(Down::Protocol);
        false
    }

    /// Waits until the peer's greeting is known: data may overtake the connection manager's event. False when the
    /// endpoint is down. The thread that connects bounds the wait, and so does every teardown.
    pub(super) fn wait_greeted(&self) -> bool {
        self.note_up();
        let known = || {
            let state = self.state.lock();
            match state.phase {
                // Data that arrived before the end is delivered even after it.
                _ if state.greeted => Some(true),
                Phase::Down(_) => Some(false),
                Phase::Connecting | Phase::Up => None,
            }
        };
        loop {
            // A worker of the completion queue, to which nobody sends signals.
            if let Ok(known) = Deadline::NONE.wait_on(&self.changed, EndedBy::Kill, known) {
                return known;
            }
        }
    }

    /// Handles a disconnect event, which carries no reason. A last will that arrived before may be unread: so waiting
    /// operations end with the first flushed receive, which completes after it.
    fn peer_left(&self) {
        let flushed = {
            let mut state = self.state.lock();
            state.end(Down::Peer);
            state.grants.wake();
            state.end_stall();
            state.flushed
        };
        self.changed.wake_all();
        self.ring();
        if flushed {
            self.fail_pending();
            self.fail_watches();
            self.hurry();
        }
    }

    /// Records that the peer is alive.
    fn heard(&self) {
        self.state.lock().keepalive.life.heard();
    }

    /// Ends the endpoint because the peer broke the protocol.
    pub(super) fn violation(&self, view: &InCallback<'_, Self>) {
        self.state.lock().violations += 1;
        self.record.violation();
        self.break_down(view, Down::Protocol);
    }

    /// Ends an endpoint that does not know what the peer sent last. Nothing that arrives later is delivered, because it
    /// may be misread. Perhaps no receive is left whose flush would report the end, so the timer drains the queues and
    /// ends waiting operations.
    fn break_down(&self, view: &InCallback<'_, Self>, cause: Down) {
        // Something that the peer sent is the cause, so the queue pair must be drained.
        self.note_up();
        {
            let mut state = self.state.lock();
            state.broken = true;
            // Under the same lock: code that finds the endpoint broken and not down sets a cause of its own.
            match cause {
                // Nothing has ended with a disconnect event that arrived first.
                Down::Protocol | Down::NoMemory => state.end_for_reason(cause),
                _ => state.end(cause),
            }
        }
        self.go_down(cause);
        self.end_receives();
        view.disconnect();
        self.hurry();
    }

    /// Handles a READ that the provider flushed. If no cause is known, the queue pair went to the error state by itself,
    /// as rxe's does when the responses of a READ are out of order. The peer does not know yet.
    fn fell(&self, view: &InCallback<'_, Self>) {
        let up = matches!(self.state.lock().phase, Phase::Up);
        if up {
            self.go_down(Down::Transfer);
            view.disconnect();
        }
    }

    /// Handles a failed work request: the queue pair is in the error state.
    pub(super) fn failed(&self, view: &InCallback<'_, Self>, status: Status) {
        if let Some(cause) = status.completion().cause() {
            self.note_end(cause);
            self.go_down(cause);
            view.disconnect();
        }
    }
}

/// The number of an operation that was posted.
fn posted_id(transfer: &Transfer<super::op::OpState>) -> u64 {
    transfer.body().map_or(0, |posted| posted.id)
}

impl Queue for Shared {
    type Op = super::op::OpState;
    type Registration = Registering;

    fn hooks() -> &'static Hooks {
        &HOOKS
    }

    fn was_up(&self) -> bool {
        self.was_up.load(Acquire)
    }

    fn read_on(
        &self,
        view: &InCallback<'_, Self>,
        transfer: KBox<Transfer<Self::Op>>,
    ) -> Option<KBox<Transfer<Self::Op>>> {
        let mut transfer = transfer;
        let mut state = self.state.lock();
        state.step_over();
        if transfer.is_through() {
            // All of it has arrived, whatever happened meanwhile.
            return Some(transfer);
        }
        let Some(posted) = transfer.body() else {
            return Some(transfer);
        };
        let gone = posted.op.is_memory_gone();
        let up = matches!(state.phase, Phase::Up) && !state.broken;
        if !up || gone || posted.op.is_taken_back() {
            if gone {
                state.revoke_posted(posted.id);
            }
            if posted.announced {
                state.withdraw_announcement();
            }
            transfer.give_up();
            return Some(transfer);
        }
        if !state.frozen && state.send_messages(view.connection()) {
            self.changed.wake_all();
        }
        let size = state.pace.step();
        transfer.resize_steps(size);
        let (id, alone, bytes) = (
            posted_id(&transfer),
            transfer.is_alone(),
            transfer.step_bytes(),
        );
        let over = view.connection().post_step(transfer).err();
        if over.is_none() && !alone {
            state.step_posted(id, bytes);
        }
        over
    }

    fn is_wanted(&self, registration: &Registering) -> bool {
        registration.is_wanted()
    }

    fn registered(&self, view: &InCallback<'_, Self>, registration: Registering, result: Result) {
        registration.end(result);
        self.changed.wake_all();
        self.pump(view.connection());
    }

    fn unregistered(&self, registration: Registering) {
        registration.end(Err(ENOTCONN));
        self.changed.wake_all();
    }

    fn op_done(&self, view: &InCallback<'_, Self>, op: Self::Op, status: Status) {
        if status.is_flushed() && op.op.is_read() && view.connection().reads_alone() {
            self.fell(view);
        }
        self.failed(view, status);
        self.finish(op, status);
        self.pump(view.connection());
    }

    fn message(&self, view: &InCallback<'_, Self>, message: &[u8; MESSAGE_BYTES]) {
        if !self.wait_greeted() {
            return;
        }
        if FAULTS.message_lost.fires() {
            return;
        }
        self.heard();
        DELAY_POINTS.message_received.pass();
        if !self.state.lock().receiving {
            // It follows something that is not known: it may look invalid, and that would not be the peer's fault.
            return;
        }
        match self
            .payer
            .pays(|| self.take_message(&faults::corrupted(message)))
        {
            Ok(()) => {
                self.changed.wake_all();
                // Not when this side ends: a message that arrives then must not cut off this side's own last will.
                if self.state.lock().peer_end != uapi::PEER_END_NONE {
                    // It was the peer's last will: flush what is under way.
                    view.disconnect();
                }
                self.pump(view.connection());
                self.fence_if(&FAULTS.revoke_at_message);
            }
            Err(Untaken::Violation) => self.violation(view),
            Err(Untaken::NoMemory) => self.break_down(view, Down::NoMemory),
        }
    }

    fn data(&self, view: &InCallback<'_, Self>, imm: u32, length: u32) {
        if !self.wait_greeted() {
            return;
        }
        self.heard();
        match self.data_came(imm, length) {
            Ok(()) => self.pump(view.connection()),
            // The peer had no credit for this.
            Err(_) => self.violation(view),
        }
    }

    fn receive_lost(&self, view: &InCallback<'_, Self>) {
        let connecting = {
            let mut state = self.state.lock();
            state.broken = true;
            matches!(state.phase, Phase::Connecting)
        };
        if connecting {
            // The connection manager reports how the setup ends. If it ends well, the first pump finds the endpoint
            // broken.
            self.note_up();
            self.end_receives();
            view.disconnect();
        } else {
            self.break_down(view, Down::Transfer);
        }
    }

    fn unexpected(&self, view: &InCallback<'_, Self>, key: Option<u32>) {
        if let Some(key) = key {
            // There is room, see the member.
            let _ = self.state.lock().invalidated.push(key);
        }
        self.violation(view);
    }

    fn message_done(&self, view: &InCallback<'_, Self>, slot: u16, status: Status) {
        self.failed(view, status);
        let sender = {
            let mut state = self.state.lock();
            if state.will.is_some_and(|(will, _)| will == slot) {
                self.will_sent.set();
            }
            let place = state.senders.get_mut(usize::from(slot));
            place.and_then(Option::take)
        };
        if let Some(posted) = sender.and_then(Transfer::into_body) {
            self.finish(posted, status);
        }
    }

    fn slot_freed(&self, view: &InCallback<'_, Self>) {
        self.pump(view.connection());
    }

    fn receive_ended(&self, view: &InCallback<'_, Self>, status: Status) {
        self.failed(view, status);
        // While connecting, the connection manager moves the queue pair to the error state before it reports why. Its
        // event then sets the cause, and the thread that connects cleans up.
        let (connecting, up, cause) = {
            let mut state = self.state.lock();
            state.flushed = true;
            (
                matches!(state.phase, Phase::Connecting),
                matches!(state.phase, Phase::Up),
                state.flushed_for(),
            )
        };
        if up {
            // No cause is known, so the peer may not know yet.
            view.disconnect();
        }
        if !connecting {
            // The queue pair went to the error state by itself, or somebody moved it there and set the cause.
            self.go_down(cause);
            self.end_receives();
        }
    }
}
