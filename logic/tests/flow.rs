// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Two endpoints under random interleavings: nothing is sent without a receive for it, nothing is lost, and
//! the two never wait for each other for ever.

use std::collections::VecDeque;

use dmaplane_logic::flow::{Budget, Flow, Totals, Violation, CONTROL, CREDIT, MAX_DEPTH};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Packet {
    Data,
    Control(Totals),
    Credit(Totals),
}

struct Side {
    flow: Flow,
    /// What this side has put on the wire and the other has not taken off it.
    wire: VecDeque<Packet>,
    /// Data and control messages that the user still wants to send.
    data_wanted: u32,
    control_wanted: u32,
    /// Receives that the user still wants to post.
    posts_wanted: u32,
    /// Whether an operation in steps is under way: it has its credit, and nothing else that needs one is sent.
    in_steps: bool,
    data_received: u32,
    control_received: u32,
}

impl Side {
    fn new(depth: u32, peer_depth: u32) -> Self {
        Self {
            flow: Flow::new(depth, peer_depth),
            wire: VecDeque::new(),
            data_wanted: 0,
            control_wanted: 0,
            posts_wanted: 0,
            in_steps: false,
            data_received: 0,
            control_received: 0,
        }
    }

    /// What the driver does after each event.
    fn pump(&mut self) {
        loop {
            if self.flow.credit_due() {
                let totals = self.flow.totals();
                self.wire.push_back(Packet::Credit(totals));
                self.flow.sent_credit();
            } else if self.control_wanted > 0 && self.flow.take_control() {
                self.control_wanted -= 1;
                let totals = self.flow.totals();
                self.wire.push_back(Packet::Control(totals));
            } else {
                break;
            }
        }
        while self.data_wanted > 0 && !self.in_steps && self.flow.take_data() {
            self.data_wanted -= 1;
            self.wire.push_back(Packet::Data);
        }
    }

    /// An operation in steps begins, or the one under way is given up before its last step.
    fn step(&mut self) {
        if self.in_steps {
            self.in_steps = false;
            self.flow.give_back_data();
        } else {
            self.in_steps = self.flow.take_data();
        }
        self.pump();
    }

    fn post(&mut self) {
        while self.posts_wanted > 0 && self.flow.post_receive() {
            self.posts_wanted -= 1;
        }
        self.pump();
    }

    fn receive(&mut self, packet: Packet) -> Result<(), Violation> {
        match packet {
            Packet::Data => {
                self.flow.receive_data()?;
                self.data_received += 1;
                self.post();
            }
            Packet::Control(totals) => {
                self.flow.receive_message(Budget::Control, totals)?;
                self.control_received += 1;
            }
            Packet::Credit(totals) => self.flow.receive_message(Budget::Credit, totals)?,
        }
        self.pump();
        Ok(())
    }

    /// Whether the queue pair has a receive for everything that is on the way to this side.
    fn fits(in_flight: &VecDeque<Packet>, depth: u32) -> bool {
        let count = |wanted: fn(&Packet) -> bool| in_flight.iter().filter(|p| wanted(p)).count();
        count(|p| matches!(p, Packet::Data)) <= depth as usize
            && count(|p| matches!(p, Packet::Control(_))) <= CONTROL as usize
            && count(|p| matches!(p, Packet::Credit(_))) <= CREDIT as usize
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Want { side: bool, data: u8, control: u8 },
    Deliver { to: bool, count: u8 },
    Steps { side: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (any::<bool>(), 0u8..80, 0u8..50).prop_map(|(side, data, control)| Step::Want {
            side,
            data,
            control
        }),
        (any::<bool>(), 1u8..60).prop_map(|(to, count)| Step::Deliver { to, count }),
        any::<bool>().prop_map(|side| Step::Steps { side }),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_sent_without_a_receive_and_everything_arrives(
        steps in steps(),
        depth_a in 1u32..300,
        depth_b in 1u32..300,
    ) {
        let mut a = Side::new(depth_a, depth_b);
        let mut b = Side::new(depth_b, depth_a);
        let (mut data_a, mut data_b, mut control_a, mut control_b) = (0u32, 0u32, 0u32, 0u32);
        for step in steps {
            match step {
                Step::Want { side, data, control } => {
                    let (from, to) = if side { (&mut a, &mut b) } else { (&mut b, &mut a) };
                    from.data_wanted += u32::from(data);
                    from.control_wanted += u32::from(control);
                    // The other user posts a receive for each, in any amount at a time.
                    to.posts_wanted += u32::from(data);
                    to.post();
                    from.pump();
                    let (sent_data, sent_control) =
                        if side { (&mut data_a, &mut control_a) } else { (&mut data_b, &mut control_b) };
                    *sent_data += u32::from(data);
                    *sent_control += u32::from(control);
                }
                Step::Steps { side } => if side { a.step() } else { b.step() },
                Step::Deliver { to, count } => {
                    let (to, from) = if to { (&mut a, &mut b) } else { (&mut b, &mut a) };
                    for _ in 0..count {
                        let Some(packet) = from.wire.pop_front() else { break };
                        prop_assert!(to.receive(packet).is_ok(), "honest traffic was refused");
                    }
                }
            }
            prop_assert!(Side::fits(&a.wire, depth_b), "more on the way to B than B has receives");
            prop_assert!(Side::fits(&b.wire, depth_a), "more on the way to A than A has receives");
        }
        for side in [&mut a, &mut b] {
            if side.in_steps {
                side.step();
            }
        }
        // Let everything arrive, in bursts: first all of one side's, then all of the other's.
        for _ in 0..200_000 {
            if a.wire.is_empty() && b.wire.is_empty() {
                break;
            }
            while let Some(packet) = a.wire.pop_front() {
                prop_assert!(b.receive(packet).is_ok());
            }
            while let Some(packet) = b.wire.pop_front() {
                prop_assert!(a.receive(packet).is_ok());
            }
        }
        prop_assert_eq!((a.data_received, a.control_received), (data_b, control_b));
        prop_assert_eq!((b.data_received, b.control_received), (data_a, control_a));
    }

    #[test]
    fn a_lying_peer_is_refused_or_harmless(
        lies in proptest::collection::vec((any::<bool>(), any::<u32>(), any::<u32>(), any::<u32>()), 1..50),
        depth in 1u32..MAX_DEPTH,
    ) {
        let mut flow = Flow::new(depth, depth);
        for (is_credit, data_limit, control_limit, credit_seen) in lies {
            let totals = Totals { data_limit, control_limit, credit_seen };
            if flow.receive_message(if is_credit { Budget::Credit } else { Budget::Control }, totals).is_err() {
                return Ok(());
            }
            prop_assert!(flow.send_credits() <= depth);
        }
    }
}

#[test]
fn data_that_was_never_advertised_is_refused() {
    let mut flow = Flow::new(4, 4);
    assert_eq!(flow.receive_data(), Err(Violation));
    assert!(flow.post_receive());
    // Posted, but not reported: the peer cannot know of it.
    assert_eq!(flow.receive_data(), Err(Violation));
    let _reported = flow.totals();
    assert_eq!(flow.receive_data(), Ok(()));
    assert_eq!(flow.receive_data(), Err(Violation));
}

#[test]
fn the_depth_bounds_posted_receives() {
    let mut flow = Flow::new(2, 2);
    assert!(flow.post_receive());
    assert!(flow.post_receive());
    assert!(!flow.post_receive());
    let _reported = flow.totals();
    assert_eq!(flow.receive_data(), Ok(()));
    assert!(flow.post_receive());
}

#[test]
fn totals_wrap() {
    let mut flow = Flow::new(8, 8);
    for round in 0..5u32 {
        for _ in 0..8 {
            assert!(flow.post_receive(), "round {round}");
        }
        let _reported = flow.totals();
        for _ in 0..8 {
            assert_eq!(flow.receive_data(), Ok(()));
        }
    }
    assert_eq!(flow.posted_receives(), 0);
}

/// Messages that report receives while `count` arrivals come and `window` receives are kept posted.
fn credits_for(window: u32, count: u32) -> u32 {
    let mut flow = Flow::new(256, 256);
    let mut credits = 0;
    let mut report = |flow: &mut Flow| {
        // The peer confirms them all, as it does by its own messages.
        while flow.credit_due() {
            let _reported = flow.totals();
            credits += 1;
        }
    };
    for _ in 0..window {
        assert!(flow.post_receive());
        report(&mut flow);
    }
    for _ in 0..count {
        assert_eq!(flow.receive_data(), Ok(()), "the peer has run dry");
        report(&mut flow);
        assert!(flow.post_receive());
        report(&mut flow);
    }
    credits
}

#[test]
fn a_window_of_receives_costs_a_message_for_each_half() {
    for window in [1u32, 2, 8, 32, 64, 128] {
        let count = 1024u32;
        let most = count.div_ceil((window / 2).max(1)) + 2 * (window.ilog2() + 2);
        let credits = credits_for(window, count);
        assert!(
            credits <= most,
            "{credits} for {count} with {window} posted"
        );
    }
}

#[test]
fn what_is_held_back_is_reported_when_it_is_hastened() {
    let mut flow = Flow::new(256, 256);
    for _ in 0..7 {
        assert!(flow.post_receive());
        if flow.credit_due() {
            let _reported = flow.totals();
        }
    }
    assert!(flow.holds_back() && !flow.credit_due());
    flow.hasten();
    assert!(!flow.holds_back() && flow.credit_due());
    assert_eq!(flow.totals().data_limit, 7);
    assert!(!flow.credit_due());
}

#[test]
fn what_was_not_sent_is_reported_by_the_next_message() {
    let mut flow = Flow::new(8, 8);
    assert!(flow.post_receive());
    assert!(flow.credit_due());
    let before = flow.reported();
    // The message could not be sent.
    let _ = flow.totals();
    assert!(!flow.credit_due());
    flow.take_back(before);
    assert!(
        flow.credit_due(),
        "the peer would never learn of the receive"
    );
    assert_eq!(flow.totals().data_limit, 1);
}
