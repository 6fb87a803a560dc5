// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Credits of one endpoint: nothing is sent that the peer has no receive for.
//!
//! A queue pair has one receive queue, consumed in order by whatever arrives. It is filled with
//! `depth + CONTROL + CREDIT + WILL` receives and each consumed one is posted again at once, so receivers
//! are ready as long as the sender's budgets hold:
//!
//! - **data**: a WRITE_IMM or SEND may be sent only against a receive that the peer's user posted. The peer announces
//!   the running total of posted receives (`data_limit`).
//! - **control**: any other message. The peer announces the running total that it will have room for (`control_limit`).
//! - **will**: LAST_WILL, at most once, has one receive of its own.
//! - **credit**: the messages CREDIT and PING, which carry the totals when nothing else does. At most
//!   [`CREDIT`] may be unconfirmed; every message confirms all CREDITs received so far.
//!
//! Every message carries all three totals, so a lost opportunity is made up for by the next message.
//!
//! # Why it cannot deadlock
//! Suppose both sides have used up their CREDIT budget. Let `a` be A's first unconfirmed CREDIT and `b` B's. B received
//! `a` after sending its last CREDIT (else that one would confirm it), and A received `b` after sending its last. So
//! all of A's were sent on account of what B sent before `b`: at most `CREDIT` CREDITs and `CONTROL` control messages
//! of B's, which give at most two confirmations each, because a confirmation takes half a budget. Advertisements stop
//! [`RESERVE`] before the budget's end, and `RESERVE` exceeds four: the budget cannot have been used up. A side whose
//! advertisement waits has more than half of its CREDITs unconfirmed, which makes the peer send a confirmation, and so
//! both go on. `tests/flow.rs` tests it with random interleavings.

/// Control messages that may be under way in one direction.
pub const CONTROL: u32 = 32;
/// CREDIT messages that may be unconfirmed in one direction.
pub const CREDIT: u32 = 16;
/// LAST_WILL messages in one direction.
pub const WILL: u32 = 1;
/// Part of the CREDIT budget that is kept for confirmations.
pub const RESERVE: u32 = 5;
/// Largest number of receives that an endpoint's user may post.
pub const MAX_DEPTH: u32 = 4096;

/// Receives that the queue pair must hold for a user's depth.
pub const fn receive_queue_entries(depth: u32) -> u32 {
    depth + CONTROL + CREDIT + WILL
}

/// From which budget a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// A receive of the user's: SEND.
    Data,
    /// Control messages.
    Control,
    /// CREDIT and PING.
    Credit,
    /// LAST_WILL, after which the endpoint ends.
    Will,
}

/// The totals that every message carries. All of them run freely and wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Receives that the sender's user posted since the start.
    pub data_limit: u32,
    /// Control messages that the sender has had room for since the start.
    pub control_limit: u32,
    /// CREDIT messages that the sender received since the start.
    pub credit_seen: u32,
}

/// The peer claims something impossible: the endpoint must go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation;

/// Credits of one endpoint, both directions.
#[derive(Clone, Debug)]
pub struct Flow {
    depth: u32,
    peer_depth: u32,
    // Sending.
    data_limit: u32,
    data_sent: u32,
    control_limit: u32,
    control_sent: u32,
    credit_sent: u32,
    credit_confirmed: u32,
    // Receiving: totals so far, and those that the peer knows.
    posted: u32,
    consumed: u32,
    control_received: u32,
    credit_received: u32,
    reported: Totals,
    /// Unreported receives have waited long enough.
    hasten: bool,
}

impl Flow {
    /// `depth` is the largest number of receives that this side's user posts, `peer_depth` the peer's,
    /// exchanged when connecting.
    pub fn new(depth: u32, peer_depth: u32) -> Self {
        let reported = Totals {
            data_limit: 0,
            control_limit: CONTROL,
            credit_seen: 0,
        };
        Self {
            depth,
            peer_depth,
            data_limit: 0,
            data_sent: 0,
            control_limit: CONTROL,
            control_sent: 0,
            credit_sent: 0,
            credit_confirmed: 0,
            posted: 0,
            consumed: 0,
            control_received: 0,
            credit_received: 0,
            reported,
            hasten: false,
        }
    }

    /// WRITE_IMM and SEND operations that the peer's receives allow now.
    pub fn send_credits(&self) -> u32 {
        self.data_limit.wrapping_sub(self.data_sent)
    }

    /// Number of the WRITE_IMM or SEND that was sent last, the first one's being 1.
    pub fn data_sent(&self) -> u32 {
        self.data_sent
    }

    /// Number of the WRITE_IMM or SEND that arrived last.
    pub fn data_received(&self) -> u32 {
        self.consumed
    }

    /// Receives posted by the user and not yet consumed.
    pub fn posted_receives(&self) -> u32 {
        self.posted.wrapping_sub(self.consumed)
    }

    /// Books a credit that [`Self::send_credits`] has allowed; false when there is none.
    #[must_use]
    pub fn take_data(&mut self) -> bool {
        if self.send_credits() == 0 {
            return false;
        }
        self.data_sent = self.data_sent.wrapping_add(1);
        true
    }

    /// Takes back the data credit that was spent last, for an operation that is not sent after all.
    pub fn give_back_data(&mut self) {
        self.data_sent = self.data_sent.wrapping_sub(1);
    }

    /// Spends a control credit; false when there is none.
    #[must_use]
    pub fn take_control(&mut self) -> bool {
        if self.control_limit == self.control_sent {
            return false;
        }
        self.control_sent = self.control_sent.wrapping_add(1);
        true
    }

    /// Whether a control message could be sent now.
    pub fn has_control(&self) -> bool {
        self.control_limit != self.control_sent
    }

    /// Counts a receive that the user posted; false when the depth is used up.
    #[must_use]
    pub fn post_receive(&mut self) -> bool {
        if self.posted_receives() >= self.depth {
            return false;
        }
        self.posted = self.posted.wrapping_add(1);
        true
    }

    /// Counts a WRITE_IMM or SEND that arrived.
    pub fn receive_data(&mut self) -> Result<(), Violation> {
        // Only what was advertised may be consumed: the peer cannot know of the rest.
        if self.reported.data_limit == self.consumed {
            return Err(Violation);
        }
        self.consumed = self.consumed.wrapping_add(1);
        Ok(())
    }

    /// Counts a message that arrived and takes over its totals.
    pub fn receive_message(&mut self, budget: Budget, totals: Totals) -> Result<(), Violation> {
        let control_budget = self
            .reported
            .control_limit
            .wrapping_sub(self.control_received);
        if budget == Budget::Control && control_budget == 0 {
            return Err(Violation);
        }
        let new_data = totals.data_limit.wrapping_sub(self.data_limit);
        let new_control = totals.control_limit.wrapping_sub(self.control_limit);
        let new_seen = totals.credit_seen.wrapping_sub(self.credit_confirmed);
        let unconfirmed = self.credit_sent.wrapping_sub(self.credit_confirmed);
        let credits = totals.data_limit.wrapping_sub(self.data_sent);
        let controls = totals.control_limit.wrapping_sub(self.control_sent);
        if new_data > self.peer_depth
            || credits > self.peer_depth
            || new_control > CONTROL
            || controls > CONTROL
            || new_seen > unconfirmed
        {
            return Err(Violation);
        }
        match budget {
            Budget::Data => self.receive_data()?,
            Budget::Control => self.control_received = self.control_received.wrapping_add(1),
            Budget::Credit => {
                let pending = self.credit_received.wrapping_sub(self.reported.credit_seen);
                if pending >= CREDIT {
                    return Err(Violation);
                }
                self.credit_received = self.credit_received.wrapping_add(1);
            }
            Budget::Will => {}
        }
        self.data_limit = totals.data_limit;
        self.control_limit = totals.control_limit;
        self.credit_confirmed = totals.credit_seen;
        Ok(())
    }

    /// Whether a CREDIT message should be sent now. The caller then sends one with [`Self::totals`] and
    /// calls [`Self::sent_credit`].
    pub fn credit_due(&self) -> bool {
        let unconfirmed = self.credit_sent.wrapping_sub(self.credit_confirmed);
        if self.confirmation_due() {
            return unconfirmed < CREDIT;
        }
        self.advertisement_due() && unconfirmed < CREDIT - RESERVE
    }

    /// Whether a PING may be sent: it counts as a CREDIT that advertises.
    pub fn may_ping(&self) -> bool {
        self.credit_sent.wrapping_sub(self.credit_confirmed) < CREDIT - RESERVE
    }

    /// Whether to report the receives that the peer does not know of: once they are as many as those that it knows of.
    /// So a user who keeps a number of them posted costs one message for each half of it, and a peer that has none left
    /// learns of new ones at once. At the latest they are reported when they are a quarter of the depth, or have waited
    /// as long as [`Self::hasten`]'s caller lets them.
    fn advertisement_due(&self) -> bool {
        let batch = (self.depth / 4).max(1);
        let unreported = self.unreported();
        let known = self.reported.data_limit.wrapping_sub(self.consumed);
        unreported > 0 && (self.hasten || unreported >= batch.min(known))
    }

    /// Receives that were posted and that the peer does not know of.
    fn unreported(&self) -> u32 {
        self.posted.wrapping_sub(self.reported.data_limit)
    }

    /// Whether there are receives that will only be reported later. The caller ensures that [`Self::hasten`] follows.
    pub fn holds_back(&self) -> bool {
        self.unreported() > 0 && !self.advertisement_due()
    }

    /// Holds nothing back until the next message.
    pub fn hasten(&mut self) {
        self.hasten = true;
    }

    fn confirmation_due(&self) -> bool {
        let credits = self.credit_received.wrapping_sub(self.reported.credit_seen);
        let room = self.control_received.wrapping_add(CONTROL);
        let controls = room.wrapping_sub(self.reported.control_limit);
        credits >= CREDIT / 2 || controls >= CONTROL / 2
    }

    /// The totals to put into the message that is sent next; they count as reported.
    pub fn totals(&mut self) -> Totals {
        self.reported = Totals {
            data_limit: self.posted,
            control_limit: self.control_received.wrapping_add(CONTROL),
            credit_seen: self.credit_received,
        };
        self.hasten = false;
        self.reported
    }

    /// The totals that were last reported to the peer.
    pub fn reported(&self) -> Totals {
        self.reported
    }

    /// Restores the totals that were reported before: the message with the last ones was not sent after all.
    pub fn take_back(&mut self, before: Totals) {
        self.reported = before;
    }

    /// Counts a CREDIT message that was sent.
    pub fn sent_credit(&mut self) {
        self.credit_sent = self.credit_sent.wrapping_add(1);
    }
}
