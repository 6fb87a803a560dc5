// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Where pages are wanted, and the pool's allocator.

use dmaplane_logic::buddy::{Block, Buddy, CLASSES};
use dmaplane_logic::placement::{nearest, Turns};
use proptest::prelude::*;

proptest! {
    #[test]
    fn turns_give_each_node_its_share(
        count in 1usize..20_000,
        nodes in 1usize..9,
        max_order in 0u32..10,
    ) {
        let turns = Turns::new(count, nodes, max_order);
        let unit = 1usize << turns.unit_order();
        prop_assert!(turns.unit_order() <= max_order);
        let mut shares = vec![0usize; nodes];
        let mut page = 0;
        let mut last = None;
        while page < count {
            let (place, next) = turns.turn(page);
            prop_assert!(place < nodes && next > page);
            // The last page of a turn belongs to it, and the next turn is the next node's.
            prop_assert_eq!(turns.turn(next.min(count) - 1).0, place);
            if let Some(last) = last {
                prop_assert_eq!(place, (last + 1) % nodes);
            }
            last = Some(place);
            shares[place] += next.min(count) - page;
            page = next.min(count);
        }
        let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
        if nodes > 1 {
            prop_assert!(most - least <= unit, "{:?}, units of {}", shares, unit);
        }
        if count >= nodes {
            prop_assert!(*least > 0, "a node without a share: {:?}", shares);
        }
    }

    #[test]
    fn the_first_of_the_nearest_is_chosen(distances in proptest::collection::vec(10i32..40, 1..8)) {
        let pairs = distances.iter().enumerate().map(|(node, distance)| (node as i32, *distance));
        let chosen = nearest(pairs).unwrap() as usize;
        let least = distances.iter().min().unwrap();
        prop_assert_eq!(&distances[chosen], least);
        prop_assert!(distances[..chosen].iter().all(|distance| distance > least));
    }

    /// A model that keeps each block's owner: nothing is given twice, runs are aligned, whole and inside, what
    /// is free adds up, and when all is back the longest run is what it was.
    #[test]
    fn runs_never_overlap_and_grow_together_again(
        count in 1usize..300,
        steps in proptest::collection::vec((0u8..10, any::<prop::sample::Index>(), any::<bool>()), 1..400),
    ) {
        let mut buddy = Buddy::new(vec![Block::NEW; count]).unwrap();
        let longest = buddy.longest();
        let mut owner: Vec<Option<u32>> = vec![None; count];
        let mut taken: Vec<(u32, u8)> = Vec::new();
        for (class, pick, give) in steps {
            if give && !taken.is_empty() {
                let (first, class) = taken.swap_remove(pick.index(taken.len()));
                prop_assert!(buddy.give(first));
                prop_assert!(!buddy.give(first), "given back twice");
                owner[first as usize..first as usize + (1 << class)].fill(None);
            } else if let Some(first) = buddy.take(class) {
                let run = first as usize..first as usize + (1usize << class);
                prop_assert_eq!(first % (1 << class), 0);
                prop_assert!(run.end <= count);
                for block in &mut owner[run] {
                    prop_assert_eq!(*block, None);
                    *block = Some(first);
                }
                taken.push((first, class));
            } else {
                // A refusal is honest: no aligned run of that length is free.
                let length = 1usize << class;
                let free = |start: usize| owner[start..start + length].iter().all(Option::is_none);
                let starts = (0..count).step_by(length).filter(|start| start + length <= count);
                prop_assert!(!starts.into_iter().any(free), "refused class {}", class);
            }
            prop_assert_eq!(buddy.free(), owner.iter().filter(|o| o.is_none()).count());
            prop_assert_eq!(buddy.taken_runs(), taken.len());
        }
        // Only first blocks of taken runs can be given back.
        for block in 0..count as u32 + 2 {
            if !taken.iter().any(|(first, _)| *first == block) {
                prop_assert!(!buddy.give(block));
            }
        }
        for (first, _) in taken {
            prop_assert!(buddy.give(first));
        }
        prop_assert_eq!(buddy.free(), count);
        prop_assert_eq!(buddy.longest(), longest);
    }
}

/// Storage that counts how often a block is looked at.
struct Counting {
    blocks: Vec<Block>,
    looks: std::cell::Cell<usize>,
}

impl std::ops::Deref for Counting {
    type Target = [Block];

    fn deref(&self) -> &[Block] {
        self.looks.set(self.looks.get() + 1);
        &self.blocks
    }
}

impl std::ops::DerefMut for Counting {
    fn deref_mut(&mut self) -> &mut [Block] {
        self.looks.set(self.looks.get() + 1);
        &mut self.blocks
    }
}

#[test]
fn the_cost_does_not_grow_with_the_row() {
    // The most looks of one call, for rows of very different lengths, in the worst history: single blocks out of one
    // long run, given back in an order that keeps neighbours apart until the end.
    let worst = |shift: u32| {
        let storage = Counting {
            blocks: vec![Block::NEW; 1 << shift],
            looks: std::cell::Cell::new(0),
        };
        let mut buddy = Buddy::new(storage).unwrap();
        let mut most = 0;
        let mut all = Vec::new();
        let mut measure = |buddy: &mut Buddy<Counting>, first: Option<u32>| {
            let before = buddy.storage().looks.get();
            let result = match first {
                Some(first) => buddy.give(first).then_some(first),
                None => buddy.take(0),
            };
            most = most.max(buddy.storage().looks.get() - before);
            result
        };
        while let Some(first) = measure(&mut buddy, None) {
            all.push(first);
        }
        let (even, odd): (Vec<u32>, Vec<u32>) = all.into_iter().partition(|first| first % 2 == 0);
        for first in even.into_iter().chain(odd) {
            measure(&mut buddy, Some(first)).unwrap();
        }
        assert_eq!(buddy.longest(), 1 << shift);
        most
    };
    let (short, long) = (worst(4), worst(16));
    let a_class = 8;
    assert!(
        long <= short + (16 - 4) * a_class,
        "{short} looks, then {long}"
    );
    assert!(long <= CLASSES * a_class, "{long} looks");
}
