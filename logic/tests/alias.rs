// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The order of a copy between lists of pages, against a copy that reads everything first.

use dmaplane_logic::alias::{order, Order};
use proptest::prelude::*;

const PAGE: usize = 4096;
const PAGES: usize = 6;

/// Where a byte of a list of pages is in the memory.
fn place(pages: &[usize], at: usize) -> usize {
    pages[at / PAGE] * PAGE + at % PAGE
}

/// Copies as the driver does: in parts that end where a page of either side does.
fn copy(memory: &mut [u8], to: (&[usize], usize), from: (&[usize], usize), bytes: usize) -> Order {
    let within = |(pages, start): (&[usize], usize)| {
        let last = (start + bytes - 1) / PAGE;
        pages[start / PAGE..=last].to_vec()
    };
    let mut scratch = vec![(0, 0); PAGES];
    let chosen = order(
        within(to).into_iter(),
        to.1 % PAGE,
        within(from).into_iter(),
        from.1 % PAGE,
        &mut scratch,
    );
    let mut parts = Vec::new();
    let mut done = 0;
    while done < bytes {
        let left = |start: usize| PAGE - (start + done) % PAGE;
        let count = left(to.1).min(left(from.1)).min(bytes - done);
        parts.push((done, count));
        done += count;
    }
    match chosen {
        Order::Forward => {}
        Order::Backward => parts.reverse(),
        Order::Bounce => parts = vec![(0, bytes)],
    }
    for (done, count) in parts {
        let read: Vec<u8> = (done..done + count)
            .map(|at| memory[place(from.0, from.1 + at)])
            .collect();
        for (at, byte) in (done..done + count).zip(read) {
            memory[place(to.0, to.1 + at)] = byte;
        }
    }
    chosen
}

/// A list of pages: some of a memory of twice as many, in any order.
fn list() -> impl Strategy<Value = Vec<usize>> {
    Just((0..2 * PAGES).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_map(|pages| pages[..PAGES].to_vec())
}

/// A second list: any, the same, or a rotation of it, which shares all pages at another distance.
fn lists() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    (list(), list(), 0..3, 0..PAGES).prop_map(|(one, other, kind, by)| match kind {
        0 => (one, other),
        1 => (one.clone(), one),
        _ => {
            let mut turned = one.clone();
            turned.rotate_left(by);
            (one, turned)
        }
    })
}

proptest! {
    #[test]
    fn a_copy_is_memmove_whatever_the_names(
        (to, from) in lists(),
        to_start in 0..PAGES * PAGE,
        from_start in 0..PAGES * PAGE,
        length in 1..PAGES * PAGE,
    ) {
        let bytes = length.min(PAGES * PAGE - to_start).min(PAGES * PAGE - from_start);
        let mut memory: Vec<u8> = (0..2 * PAGES * PAGE).map(|at| (at * 7 + at / 256) as u8).collect();
        let read: Vec<u8> = (0..bytes).map(|at| memory[place(&from, from_start + at)]).collect();
        let mut want = memory.clone();
        for (at, byte) in read.into_iter().enumerate() {
            want[place(&to, to_start + at)] = byte;
        }
        let chosen = copy(&mut memory, (&to, to_start), (&from, from_start), bytes);
        prop_assert!(memory == want, "{chosen:?}: {to:?}+{to_start} from {from:?}+{from_start}, {bytes} bytes");
    }
}

#[test]
fn the_order_is_the_cheapest_that_is_right() {
    let ask = |to: &[usize], to_skip, from: &[usize], from_skip| {
        let mut scratch = [(0, 0); 8];
        let (to, from) = (to.iter().copied(), from.iter().copied());
        order(to, to_skip, from, from_skip, &mut scratch)
    };
    assert_eq!(ask(&[1, 2], 0, &[3, 4], 0), Order::Forward);
    assert_eq!(ask(&[2, 3], 0, &[1, 2], 0), Order::Backward);
    assert_eq!(ask(&[1, 2], 0, &[2, 3], 0), Order::Forward);
    assert_eq!(ask(&[1, 2], 100, &[1, 2], 0), Order::Backward);
    assert_eq!(ask(&[1, 2], 0, &[1, 2], 100), Order::Forward);
    assert_eq!(ask(&[1, 2], 0, &[2, 1], 0), Order::Bounce);
    // The same page twice in one list.
    assert_eq!(ask(&[1, 1], 0, &[1, 2], 0), Order::Bounce);
}
