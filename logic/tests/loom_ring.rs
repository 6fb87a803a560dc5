// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The rings between a process and the kernel, in every interleaving that loom finds: nothing is lost, nothing comes
//! twice, and nobody reads what the other still writes.

use dmaplane_logic::ring::{place, queued, Slots};
use loom::{
    cell::Cell,
    model::Builder,
    sync::{
        atomic::{AtomicU32, Ordering},
        Arc,
    },
    thread,
};

/// How a side publishes what it wrote.
#[derive(Clone, Copy, PartialEq)]
enum Publish {
    /// As the driver does: the entry, then its index with release.
    Release,
    /// Wrongly: the index says nothing of the entry.
    Relaxed,
    /// Wrongly: the index before the entry.
    Before,
}

struct Rings {
    entries: u32,
    sq: Vec<Cell<u32>>,
    cq: Vec<Cell<u32>>,
    sq_head: AtomicU32,
    sq_tail: AtomicU32,
    cq_head: AtomicU32,
    cq_tail: AtomicU32,
}

impl Rings {
    fn new(entries: u32) -> Self {
        let places = || (0..entries).map(|_| Cell::new(0)).collect();
        Self {
            entries,
            sq: places(),
            cq: places(),
            sq_head: AtomicU32::new(0),
            sq_tail: AtomicU32::new(0),
            cq_head: AtomicU32::new(0),
            cq_tail: AtomicU32::new(0),
        }
    }

    fn at(&self, index: u32) -> usize {
        place(index, self.entries) as usize
    }

    /// The process: fills entries while there is room, takes completions as they come.
    fn user(&self, count: u32) -> Vec<u32> {
        let (mut tail, mut head, mut got) = (0, 0, Vec::new());
        while got.len() < count as usize {
            let taken = self.sq_head.load(Ordering::Acquire);
            let room =
                queued(taken, tail, self.entries).expect("the kernel is honest") < self.entries;
            let pushed = room && tail < count;
            if pushed {
                // The kernel has given this place back; loom checks it.
                self.sq[self.at(tail)].set(tail + 100);
                tail += 1;
                self.sq_tail.store(tail, Ordering::Release);
            }
            if self.cq_tail.load(Ordering::Acquire) != head {
                // The kernel has published this place; loom checks it.
                got.push(self.cq[self.at(head)].get());
                head += 1;
                self.cq_head.store(head, Ordering::Release);
            } else if !pushed {
                thread::yield_now();
            }
        }
        got
    }

    /// The kernel: takes an entry only with a completion slot reserved for it.
    fn kernel(&self, count: u32, publish: Publish) {
        let (mut head, mut slots) = (0, Slots::default());
        while head < count {
            let tail = self.sq_tail.load(Ordering::Acquire);
            let user_head = self.cq_head.load(Ordering::Acquire);
            let waiting = queued(head, tail, self.entries).expect("the user is honest here") > 0;
            if !waiting || slots.reserve(user_head, self.entries) != Ok(true) {
                thread::yield_now();
                continue;
            }
            // The user has published this place; loom checks it.
            let entry = self.sq[self.at(head)].get();
            head += 1;
            self.sq_head.store(head, Ordering::Release);
            let index = slots.post();
            let order = match publish {
                Publish::Release => Ordering::Release,
                Publish::Relaxed | Publish::Before => Ordering::Relaxed,
            };
            if publish == Publish::Before {
                self.cq_tail.store(slots.tail(), order);
            }
            // The slot was reserved, so that the user is done with it; loom checks it.
            self.cq[self.at(index)].set(entry + 100);
            if publish != Publish::Before {
                self.cq_tail.store(slots.tail(), order);
            }
        }
    }
}

fn check(entries: u32, count: u32, publish: Publish) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let rings = Arc::new(Rings::new(entries));
        let user = rings.clone();
        let user = thread::spawn(move || user.user(count));
        rings.kernel(count, publish);
        let got = user.join().expect("the user");
        assert_eq!(got, (0..count).map(|at| at + 200).collect::<Vec<_>>());
    });
}

#[test]
fn ring_of_one_carries_all() {
    check(1, 2, Publish::Release);
}

#[test]
fn ring_of_two_carries_all() {
    check(2, 3, Publish::Release);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn ring_without_release_is_found_out() {
    check(2, 2, Publish::Relaxed);
}

#[test]
#[should_panic]
fn ring_that_publishes_first_is_found_out() {
    check(2, 2, Publish::Before);
}
