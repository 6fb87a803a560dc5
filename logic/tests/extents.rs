// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Ranges of a zone under random use, next to a model that keeps each range by itself.

use dmaplane_logic::extents::{words, Extents, Refused};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Event {
    Take(usize),
    TakeAt(usize, usize),
    GiveBack(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0usize..80).prop_map(Event::Take),
        2 => (0usize..400, 0usize..80).prop_map(|(first, count)| Event::TakeAt(first, count)),
        3 => any::<usize>().prop_map(Event::GiveBack),
    ]
}

/// Whether pages are free by the model.
fn is_free(ranges: &[(usize, usize)], first: usize, count: usize) -> bool {
    ranges
        .iter()
        .all(|(other, length)| first + count <= *other || other + length <= first)
}

proptest! {
    #[test]
    fn ranges_never_overlap_and_none_is_lost(
        pages in 1usize..400,
        events in proptest::collection::vec(event(), 1..200),
    ) {
        let mut zone = Extents::new(vec![0u64; words(pages)], pages).expect("enough words");
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for event in events {
            match event {
                Event::Take(count) => {
                    let lowest = (0..pages)
                        .filter(|first| count != 0 && first + count <= pages)
                        .find(|first| is_free(&ranges, *first, count));
                    prop_assert_eq!(zone.take(count), lowest);
                    ranges.extend(lowest.map(|first| (first, count)));
                }
                Event::TakeAt(first, count) => {
                    let want = if count == 0 || first + count > pages {
                        Err(Refused::Range)
                    } else if is_free(&ranges, first, count) {
                        Ok(())
                    } else {
                        Err(Refused::Taken)
                    };
                    prop_assert_eq!(zone.take_at(first, count), want);
                    if want.is_ok() {
                        ranges.push((first, count));
                    }
                }
                Event::GiveBack(which) => {
                    if !ranges.is_empty() {
                        let (first, count) = ranges.swap_remove(which % ranges.len());
                        zone.give_back(first, count);
                    }
                }
            }
            let taken: usize = ranges.iter().map(|(_, count)| count).sum();
            prop_assert_eq!(zone.free(), pages - taken);
        }
    }
}

#[test]
fn nonsense_is_refused() {
    assert!(Extents::new(vec![0u64; 1], 65).is_none());
    let mut zone = Extents::new(vec![0u64; 2], 65).expect("enough words");
    assert_eq!(zone.take_at(64, 2), Err(Refused::Range));
    assert_eq!(zone.take_at(usize::MAX, 2), Err(Refused::Range));
    assert_eq!(zone.take(66), None);
    assert_eq!(zone.take(65), Some(0));
    zone.give_back(60, 10);
    assert_eq!(zone.free(), 0, "a range beyond the end was given back");
}
