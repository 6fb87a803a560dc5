// SPDX-License-Identifier: GPL-2.0-only

//! What the connection manager and the completion queue tell.

use super::{op::Op, Phase, Shared, State, Step};
use crate::{
    faults::{self, FAULTS},
    kx::rdma::{
        cm::{self, Active, Event},
        connection::{InCallback, Queue},
        transfer::Transfer,
        Status,
    },
    logic::{
        outcome::Down,
        wire::{Hello, MESSAGE_BYTES},
    },
    uapi,
    windows::WINDOWS,
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
                WINDOWS.told.pass();
                self.peer_left();
                // Flushes the receives, whose completions come behind those of what arrived.
                id.disconnect();
                return;
            }
            Event::DeviceRemoval => {
                WINDOWS.told.pass();
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
        self.changed.notify_all();
    }
}

impl State {
    /// Why the receives are flushed, where nobody has said so.
    fn flushed_for(&self) -> Down {
        if self.broken {
            Down::Transfer
        } else {
            Down::Peer
        }
    }
}

impl Shared {
    /// The connection is up; false when the peer's greeting makes no sense.
    fn establish(&self, private: &[u8]) -> bool {
        let greeted = self.state.lock().greeted;
        if greeted {
            WINDOWS.established.pass();
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
        self.changed.notify_all();
        if flushed {
            // Its receives are gone already, and with them what would have told of its end.
            self.go_down(cause);
            self.end_receives();
        }
        !flushed
    }

    /// The peer may send, or has: the queue pair works, and its teardown drains it.
    pub(super) fn note_up(&self) {
        self.was_up.store(true, Release);
    }

    /// The peer's greeting makes no sense; false, for [`Self::establish`].
    fn refuse_greeting(&self) -> bool {
        self.state.lock().step = Some(Step::Failed(EPROTO));
        self.go_down(Down::Protocol);
        false
    }

    /// Waits until the peer's greeting is known: data may overtake the connection manager's event. False when the
    /// endpoint is over. The thread that connects bounds the wait, and so does every teardown.
    pub(super) fn wait_greeted(&self) -> bool {
        self.note_up();
        let mut state = self.state.lock();
        loop {
            // What arrived before the end is delivered after it too.
            if state.greeted {
                return true;
            }
            if let Phase::Down(_) = state.phase {
                return false;
            }
            self.changed.wait(&mut state);
        }
    }

    /// The connection manager says that the peer has gone, without a reason. A last will that came before may still have to
    /// be read: so what waits ends with the first flushed receive, which comes behind it.
    fn peer_left(&self) {
        let flushed = {
            let mut state = self.state.lock();
            if !matches!(state.phase, Phase::Down(_)) {
                state.phase = Phase::Down(Down::Peer);
                self.record.down(Down::Peer);
            }
            state.grants.wake();
            state.end_stall();
            state.flushed
        };
        self.changed.notify_all();
        if flushed {
            self.fail_pending();
            self.fail_watches();
            self.hurry();
        }
    }

    /// The peer is alive.
    fn heard(&self) {
        self.state.lock().pulse.life.heard();
    }

    /// The peer broke the protocol.
    pub(super) fn violation(&self, view: &InCallback<'_, Self>) {
        self.state.lock().violations += 1;
        self.record.violation();
        self.break_down(view, Down::Protocol);
    }

    /// Ends the endpoint where what the peer sent last is not known. What comes behind that is not delivered, because it may
    /// not be what it seems. No receive may be left that the flush could tell of the end: so the clock drains the queues, and
    /// ends what waits.
    fn break_down(&self, view: &InCallback<'_, Self>, cause: Down) {
        // What the peer sent is why: it must be drained.
        self.note_up();
        {
            let mut state = self.state.lock();
            state.broken = true;
            match state.phase {
                // The connection manager was faster, and knows no reason: nothing has ended with it yet.
                Phase::Down(Down::Peer) if cause == Down::Protocol => {
                    state.phase = Phase::Down(cause);
                }
                Phase::Down(_) => {}
                // In the same breath: who finds it broken and not down has a cause of its own.
                Phase::Connecting | Phase::Up => {
                    state.phase = Phase::Down(cause);
                    self.record.down(cause);
                }
            }
        }
        self.go_down(cause);
        self.end_receives();
        view.disconnect();
        self.hurry();
    }

    /// A READ was flushed. Where nobody has said why, the queue pair fell by itself, as rxe's does when what a READ brings is
    /// out of order: then the peer does not know yet.
    fn fell(&self, view: &InCallback<'_, Self>, read: &Op) {
        let up = matches!(self.state.lock().phase, Phase::Up);
        if up && !read.is_taken_back() {
            self.go_down(Down::Transfer);
            view.disconnect();
        }
    }

    /// A work request failed: the queue pair is in error.
    pub(super) fn failed(&self, view: &InCallback<'_, Self>, status: Status) {
        if let Some(cause) = status.completion().cause() {
            self.note_end(cause);
            self.go_down(cause);
            view.disconnect();
        }
    }
}

impl Queue for Shared {
    type Op = super::op::Posted;

    fn was_up(&self) -> bool {
        self.was_up.load(Acquire)
    }

    fn read_on(
        &self,
        view: &InCallback<'_, Self>,
        transfer: KBox<Transfer<Self::Op>>,
    ) -> Option<KBox<Transfer<Self::Op>>> {
        let mut state = self.state.lock();
        let taken_back = transfer
            .body()
            .is_some_and(|posted| posted.op.is_taken_back());
        if !matches!(state.phase, Phase::Up) || state.broken || taken_back {
            transfer.give_up();
            return Some(transfer);
        }
        if !state.frozen && state.send_messages(view.connection()) {
            self.changed.notify_all();
        }
        view.connection().post_step(transfer).err()
    }

    fn op_done(&self, view: &InCallback<'_, Self>, op: Self::Op, status: Status) {
        if status.is_flushed() && op.op.is_read() && view.connection().reads_alone() {
            self.fell(view, &op.op);
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
        WINDOWS.mailed.pass();
        if !self.state.lock().receiving {
            // Behind something that is not known: it may make no sense, and that would not be the peer's fault.
            return;
        }
        match self.take_message(&faults::corrupted(message)) {
            Ok(()) => {
                self.changed.notify_all();
                // Not when this side ends: whatever comes then must not cut its own last will off.
                if self.state.lock().peer_end != uapi::PEER_END_NONE {
                    // It was the peer's last will: what is under way is flushed.
                    view.disconnect();
                }
                self.pump(view.connection());
                self.fence_if(&FAULTS.revoke_at_message);
            }
            Err(_) => self.violation(view),
        }
    }

    fn data(&self, view: &InCallback<'_, Self>, imm: u32, length: u32) {
        if !self.wait_greeted() {
            return;
        }
        self.heard();
        match self.data_came(imm, length) {
            Ok(()) => self.pump(view.connection()),
            // Nobody told the peer of a receive for this.
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
            // The connection manager says how that ends. If it ends well, the first pump finds it broken.
            self.note_up();
            self.end_receives();
            view.disconnect();
        } else {
            self.break_down(view, Down::Transfer);
        }
    }

    fn unexpected(&self, view: &InCallback<'_, Self>, key: Option<u32>) {
        // The clock, which drains the queue pair, looks whose it was.
        self.state.lock().invalidated = key;
        self.violation(view);
    }

    fn message_done(&self, view: &InCallback<'_, Self>, slot: u16, status: Status) {
        self.failed(view, status);
        let sender = {
            let mut state = self.state.lock();
            if state.will.is_some_and(|(will, _)| will == slot) {
                self.will_told.set();
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
        // While connecting, the connection manager moves the queue pair to the error state before it tells why:
        // then that event says it, and the thread that connects cleans up.
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
            // Nobody has said why, so that the peer may not know yet.
            view.disconnect();
        }
        if !connecting {
            // The queue pair went into error by itself, or somebody moved it there and has said why.
            self.go_down(cause);
            self.end_receives();
        }
    }
}
