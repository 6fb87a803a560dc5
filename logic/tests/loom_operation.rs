// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One operation and everybody who may end it, in every interleaving that loom finds: there is exactly one completion,
//! and none while the provider has the operation.

use dmaplane_logic::{
    operation::{Ask, End, Operation},
    outcome::{Completion, Down, Outcome, State},
};
use loom::{
    model::Builder,
    sync::{Arc, Mutex},
    thread,
};

/// What the endpoint's lock protects.
struct Endpoint {
    life: Operation,
    provider_has: bool,
    down: Option<Down>,
    completions: Vec<Outcome>,
}

impl Endpoint {
    fn complete(&mut self, outcome: Outcome) {
        assert!(!self.provider_has, "a completion while the provider has it");
        self.completions.push(outcome);
    }

    /// The driver hands it over, unless the endpoint is over.
    fn pump(&mut self) {
        if self.down.is_none() && self.life.post() {
            self.provider_has = true;
        }
    }

    /// The provider gives it back: done, or flushed when the endpoint is over.
    fn give_back(&mut self) {
        if !self.provider_has {
            return;
        }
        self.provider_has = false;
        let completion = match self.down {
            Some(_) => Completion::Flushed,
            None => Completion::Success,
        };
        if let Some(outcome) = self.life.finish(completion, self.down, false) {
            self.complete(outcome);
        }
    }

    fn ask(&mut self, end: End) {
        match self.life.ask(end) {
            Ask::Now => self.complete(end.outcome()),
            Ask::Flush => self.down = self.down.or(Some(end.cause())),
            Ask::Late => {}
        }
    }

    /// The endpoint ends, by its peer.
    fn end(&mut self) {
        let down = *self.down.get_or_insert(Down::Peer);
        if let Some(outcome) = self.life.cut(down.outcome()) {
            self.complete(outcome);
        }
    }
}

/// Runs the steps in threads of their own, then what a teardown does, and checks the completions.
fn check(steps: &'static [fn(&mut Endpoint)]) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let endpoint = Arc::new(Mutex::new(Endpoint {
            life: Operation::new(),
            provider_has: false,
            down: None,
            completions: Vec::new(),
        }));
        let threads: Vec<_> = steps
            .iter()
            .map(|step| {
                let endpoint = endpoint.clone();
                thread::spawn(move || step(&mut endpoint.lock().expect("the lock")))
            })
            .collect();
        for thread in threads {
            thread.join().expect("a step");
        }
        let mut endpoint = endpoint.lock().expect("the lock");
        endpoint.end();
        endpoint.give_back();
        assert_eq!(endpoint.completions.len(), 1, "{:?}", endpoint.completions);
    });
}

#[test]
fn operation_between_cancel_and_the_provider() {
    check(&[Endpoint::pump, Endpoint::give_back, |endpoint| {
        endpoint.ask(End::Canceled);
    }]);
}

#[test]
fn operation_between_cancel_and_its_time_limit() {
    check(&[
        Endpoint::pump,
        |endpoint| endpoint.ask(End::Canceled),
        |endpoint| endpoint.ask(End::Expired),
    ]);
}

#[test]
fn operation_between_its_time_limit_and_the_peer() {
    check(&[
        |endpoint| {
            endpoint.pump();
        },
        |endpoint| endpoint.ask(End::Expired),
        Endpoint::end,
    ]);
}

#[test]
#[should_panic(expected = "while the provider has it")]
fn operation_that_is_ended_behind_the_provider_is_found_out() {
    check(&[Endpoint::pump, |endpoint| {
        let _ = endpoint.life.ask(End::Canceled);
        endpoint.complete(End::Canceled.outcome());
    }]);
}

#[test]
#[should_panic(expected = "left: 2")]
fn operation_that_is_completed_twice_is_found_out() {
    check(&[Endpoint::pump, Endpoint::give_back, |endpoint| {
        if !endpoint.provider_has {
            endpoint.complete(Outcome {
                state: State::Canceled,
                errno: 125,
            });
        }
    }]);
}
