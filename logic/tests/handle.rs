// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How long a handle that was given up names nothing.

use dmaplane_logic::handle::{
    FreeSlots, Handle, Links, MmapTarget, GENERATIONS, MAX_SLOTS, MMAP_GENERATIONS,
};

/// A table of handles, which is as large as it may get.
struct Names {
    generations: Vec<u32>,
    next: Next,
    free: FreeSlots,
}

/// The free slot behind each.
struct Next(Vec<Option<u32>>);

impl Links for Next {
    fn next(&self, index: u32) -> Option<u32> {
        self.0[index as usize]
    }

    fn set_next(&mut self, index: u32, next: Option<u32>) {
        self.0[index as usize] = next;
    }
}

impl Names {
    fn new(slots: usize) -> Self {
        let (mut next, mut free) = (Next(vec![None; slots]), FreeSlots::new());
        for index in 0..slots as u32 {
            free.give_up(&mut next, index);
        }
        let generations = vec![1; slots];
        Self {
            generations,
            next,
            free,
        }
    }

    fn give(&mut self) -> Option<Handle> {
        let index = self.free.take(&self.next)?;
        let generation = self.generations[index as usize];
        Some(Handle { index, generation })
    }

    fn give_up(&mut self, handle: Handle) {
        let generation = &mut self.generations[handle.index as usize];
        *generation = Handle::next_generation(*generation);
        self.free.give_up(&mut self.next, handle.index);
    }
}

/// Makes new objects, each of which is gone before the next comes, until the first one's handle repeats; returns how
/// many.
fn until_it_repeats(free: usize, same: impl Fn(Handle, Handle) -> bool) -> u64 {
    let mut names = Names::new(free);
    let first = names.give().expect("a free slot");
    names.give_up(first);
    let mut count = 0;
    loop {
        let handle = names.give().expect("a free slot");
        count += 1;
        if same(first, handle) {
            return count;
        }
        names.give_up(handle);
    }
}

#[test]
fn a_handle_repeats_after_all_generations_of_all_free_slots() {
    for free in [1usize, 2, 7] {
        let objects = until_it_repeats(free, |first, handle| first.to_raw() == handle.to_raw());
        assert_eq!(objects, u64::from(GENERATIONS - 1) * free as u64);
    }
    // What the head of `handle.rs` says about a table that is empty otherwise.
    let most = u64::from(GENERATIONS - 1) * MAX_SLOTS as u64;
    assert_eq!(most, (1 << 32) - (1 << 15));
}

#[test]
fn an_mmap_offset_repeats_after_its_bits_of_all_free_slots() {
    for free in [1usize, 2, 7] {
        let objects = until_it_repeats(free, |first, handle| {
            let target = MmapTarget::from_offset(first.mmap_offset());
            target.index == handle.index && target.matches(handle.generation)
        });
        assert!(
            objects >= u64::from(MMAP_GENERATIONS - 1) * free as u64,
            "{objects}"
        );
    }
}

#[test]
fn slots_come_in_the_order_in_which_they_were_given_up() {
    let mut names = Names::new(4);
    let mut all: Vec<Handle> = (0..4).map(|_| names.give().expect("a free slot")).collect();
    assert!(names.give().is_none());
    for at in [2, 0, 3, 1] {
        names.give_up(all[at]);
    }
    all = (0..4).map(|_| names.give().expect("a free slot")).collect();
    let order: Vec<u32> = all.iter().map(|handle| handle.index).collect();
    assert_eq!(order, [2, 0, 3, 1]);
    assert!(names.give().is_none());
}
