// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Credits between a sender and a receiver, in every interleaving that loom finds: the sender never sends what the
//! receiver has no receive for, and both come to an end.

use std::collections::VecDeque;

use dmaplane_logic::flow::{Budget, Flow, Totals};
use loom::{
    model::Builder,
    sync::{Arc, Mutex},
    thread,
};

/// One direction of a queue pair.
type Wire<T> = Arc<Mutex<VecDeque<T>>>;

fn take<T>(wire: &Wire<T>) -> Option<T> {
    wire.lock().expect("the wire").pop_front()
}

/// Sends `count` times, each against a credit, or without asking.
fn send(count: u32, data: &Wire<()>, credits: &Wire<Totals>, honest: bool) {
    let mut flow = Flow::new(1, 1);
    let mut sent = 0;
    while sent < count {
        if let Some(totals) = take(credits) {
            flow.receive_message(Budget::Credit, totals)
                .expect("an honest receiver");
        }
        if flow.take_data() || !honest {
            data.lock().expect("the wire").push_back(());
            sent += 1;
        } else {
            thread::yield_now();
        }
    }
}

/// Posts `count` receives, one at a time, and says so.
fn receive(count: u32, data: &Wire<()>, credits: &Wire<Totals>) {
    let mut flow = Flow::new(1, 1);
    let (mut posted, mut received) = (0, 0);
    while received < count {
        match take(data) {
            Some(()) => {
                flow.receive_data().expect("a receive that was advertised");
                received += 1;
            }
            None => thread::yield_now(),
        }
        if posted < count && flow.post_receive() {
            posted += 1;
        }
        if flow.credit_due() {
            let totals = flow.totals();
            credits.lock().expect("the wire").push_back(totals);
            flow.sent_credit();
        }
    }
}

fn check(count: u32, honest: bool) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let data: Wire<()> = Arc::default();
        let credits: Wire<Totals> = Arc::default();
        let (their_data, their_credits) = (data.clone(), credits.clone());
        let sender = thread::spawn(move || send(count, &their_data, &their_credits, honest));
        receive(count, &data, &credits);
        sender.join().expect("the sender");
    });
}

#[test]
fn credits_carry_all() {
    check(3, true);
}

#[test]
#[should_panic(expected = "a receive that was advertised")]
fn credits_that_are_not_asked_for_are_found_out() {
    check(2, false);
}
