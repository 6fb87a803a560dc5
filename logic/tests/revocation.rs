// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Memory's life under random events, next to a model that counts by itself.

use dmaplane_logic::revocation::{Closed, Life, Stage};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Event {
    Enter,
    Leave,
    Begin,
    End,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Enter),
        4 => Just(Event::Leave),
        1 => Just(Event::Begin),
        1 => Just(Event::End),
    ]
}

proptest! {
    #[test]
    fn nobody_enters_late_and_it_ends_empty(events in proptest::collection::vec(event(), 1..200)) {
        let mut life = Life::new();
        let (mut users, mut stage) = (0u32, Stage::Live);
        for event in events {
            match event {
                Event::Enter => match life.enter() {
                    Ok(after) => {
                        prop_assert_eq!(stage, Stage::Live);
                        users += 1;
                        life = after;
                    }
                    Err(why) => {
                        prop_assert_eq!(why, Closed::Revoked);
                        prop_assert_ne!(stage, Stage::Live);
                    }
                },
                Event::Leave => {
                    let (after, last) = life.leave();
                    prop_assert_eq!(last, users == 1 && stage == Stage::Revoking);
                    users = users.saturating_sub(1);
                    life = after;
                }
                Event::Begin => match life.begin() {
                    Some(after) => {
                        prop_assert_eq!(stage, Stage::Live);
                        stage = Stage::Revoking;
                        life = after;
                    }
                    None => prop_assert_ne!(stage, Stage::Live),
                },
                Event::End => match life.end() {
                    Some(after) => {
                        prop_assert_eq!((stage, users), (Stage::Revoking, 0));
                        stage = Stage::Revoked;
                        life = after;
                    }
                    None => prop_assert!(stage != Stage::Revoking || users != 0),
                },
            }
            prop_assert_eq!((life.stage(), life.users()), (stage, users));
            prop_assert_eq!(Life::from_word(life.word()), life);
        }
    }
}

#[test]
fn users_are_counted_to_the_end_and_not_beyond() {
    let full = Life::from_word((1 << 30) - 1);
    assert_eq!(full.enter(), Err(Closed::Full));
    assert_eq!(full.stage(), Stage::Live);
    let (after, last) = full.leave();
    assert_eq!((after.users(), last), ((1 << 30) - 2, false));
}
