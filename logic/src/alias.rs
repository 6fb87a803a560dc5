// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! In which order bytes are copied between two lists of pages that may have pages in common, so that the result is that
//! of memmove(3).
//!
//! The same pages may have several handles, and each handle may list them in another order: pages decide what overlaps,
//! and not handles.

/// Bytes of a page.
const PAGE: isize = 4096;

/// How to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the first byte to the last.
    Forward,
    /// From the last byte to the first.
    Backward,
    /// All bytes are read before the first is written: no order of single pages is right.
    Bounce,
}

/// Finds the order for a range of each side. `to` and `from` are the pages of the ranges, by anything that identifies a
/// page; `to_skip` and `from_skip` are the bytes before the ranges in their first pages. `scratch` has one entry for
/// each page of `from`; further entries are not used.
pub fn order(
    to: impl Iterator<Item = usize>,
    to_skip: usize,
    from: impl Iterator<Item = usize>,
    from_skip: usize,
    scratch: &mut [(usize, usize)],
) -> Order {
    let mut count = 0;
    for (slot, (index, page)) in scratch.iter_mut().zip(from.enumerate()) {
        *slot = (page, index);
        count += 1;
    }
    let known = match scratch.get_mut(..count) {
        Some(known) => known,
        None => return Order::Bounce,
    };
    sort(known);
    let mut distance = None;
    for (index, page) in to.enumerate() {
        let first = known.partition_point(|(other, _)| *other < page);
        let same = known
            .iter()
            .skip(first)
            .take_while(|(other, _)| *other == page);
        for (_, twin) in same {
            let now = *twin as isize - index as isize;
            match distance {
                None => distance = Some(now),
                Some(before) if before == now => {}
                Some(_) => return Order::Bounce,
            }
        }
    }
    match distance {
        // All common pages have the same distance: both sides are ranges of one list of pages.
        Some(distance) if (from_skip as isize) < distance * PAGE + to_skip as isize => {
            Order::Backward
        }
        _ => Order::Forward,
    }
}

/// Sorts in place, in `n log n` steps whatever the order (heapsort).
fn sort(list: &mut [(usize, usize)]) {
    for root in (0..list.len() / 2).rev() {
        sink(list, root);
    }
    for end in (1..list.len()).rev() {
        exchange(list, 0, end);
        if let Some(heap) = list.get_mut(..end) {
            sink(heap, 0);
        }
    }
}

/// Moves an entry down until none below is greater.
fn sink(heap: &mut [(usize, usize)], mut root: usize) {
    loop {
        let children = [2 * root + 1, 2 * root + 2];
        let greatest = children
            .into_iter()
            .filter_map(|child| Some((*heap.get(child)?, child)))
            .max();
        match (greatest, heap.get(root)) {
            (Some((value, child)), Some(top)) if value > *top => {
                exchange(heap, root, child);
                root = child;
            }
            _ => return,
        }
    }
}

fn exchange(list: &mut [(usize, usize)], one: usize, other: usize) {
    if let (Some(first), Some(second)) = (list.get(one).copied(), list.get(other).copied()) {
        if let Some(slot) = list.get_mut(one) {
            *slot = second;
        }
        if let Some(slot) = list.get_mut(other) {
            *slot = first;
        }
    }
}
