// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The life of an operation under random events: one terminal state, never while the provider has it.

use dmaplane_logic::{
    operation::{Ask, End, Operation},
    outcome::{Completion, Down, Outcome, State},
};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Event {
    Post,
    Unpost,
    Ask(End),
    Cut,
    Finish(Completion),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Event::Post),
        Just(Event::Unpost),
        prop_oneof![Just(End::Canceled), Just(End::Expired)].prop_map(Event::Ask),
        Just(Event::Cut),
        prop_oneof![
            Just(Completion::Success),
            Just(Completion::Flushed),
            Just(Completion::RemoteAccess),
            Just(Completion::RetryExceeded),
            Just(Completion::Failed),
        ]
        .prop_map(Event::Finish),
    ]
}

proptest! {
    #[test]
    fn one_terminal_state(events in proptest::collection::vec(event(), 1..40)) {
        let mut life = Operation::new();
        let mut ended: Option<Outcome> = None;
        let mut posted = false;
        let mut asked: Option<End> = None;
        for event in events {
            let outcome = match event {
                Event::Post => {
                    let now = life.post();
                    prop_assert_eq!(now, !posted && ended.is_none());
                    posted |= now;
                    None
                }
                Event::Unpost => {
                    // Whether an end was asked for or not: what the provider refused is queued again.
                    life.unpost();
                    posted = false;
                    None
                }
                Event::Ask(end) => match life.ask(end) {
                    Ask::Now => {
                        prop_assert!(!posted);
                        Some(end.outcome())
                    }
                    Ask::Flush => {
                        prop_assert!(posted && asked.is_none());
                        asked = Some(end);
                        None
                    }
                    Ask::Late => {
                        prop_assert!(ended.is_some() || asked.is_some());
                        None
                    }
                },
                Event::Cut => {
                    let outcome = life.cut(Down::Peer.outcome());
                    prop_assert!(outcome.is_none() || !posted);
                    outcome
                }
                Event::Finish(completion) => {
                    let outcome = life.finish(completion, Some(Down::Peer), false);
                    prop_assert_eq!(outcome.is_some(), posted);
                    posted = false;
                    if let (Some(outcome), Some(end)) = (outcome, asked) {
                        // The provider may be faster; otherwise the end that was asked for decides.
                        let wanted = match completion {
                            Completion::Success => State::Ok,
                            _ => end.outcome().state,
                        };
                        prop_assert_eq!(outcome.state, wanted);
                    }
                    outcome
                }
            };
            if let Some(outcome) = outcome {
                prop_assert!(ended.is_none(), "{:?}, then {:?}", ended, outcome);
                ended = Some(outcome);
            }
        }
    }
}
