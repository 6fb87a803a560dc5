// SPDX-License-Identifier: GPL-2.0-only

//! A first-in first-out queue whose memory is all allocated at the start, for use under spinlocks.
//!
//! Would become a ring buffer in `kernel::alloc`.

use crate::kx::charged::GFP_CHARGED;
use kernel::prelude::*;

/// A bounded queue. Its owner's lock protects it.
///
/// # Invariants
///
/// `len <= slots.len()`, and exactly the slots `head .. head + len` (modulo the size) are `Some`.
pub(crate) struct Fifo<T> {
    slots: KVVec<Option<T>>,
    head: usize,
    len: usize,
}

impl<T> Fifo<T> {
    /// A queue of capacity 0.
    pub(crate) const fn none() -> Self {
        Self {
            slots: KVVec::new(),
            head: 0,
            len: 0,
        }
    }

    /// A queue for `capacity` items.
    pub(crate) fn new(capacity: usize) -> Result<Self> {
        let mut slots = KVVec::with_capacity(capacity, GFP_CHARGED)?;
        for _ in 0..capacity {
            slots.push(None, GFP_CHARGED)?;
        }
        Ok(Self {
            slots,
            head: 0,
            len: 0,
        })
    }

    /// Number of items that it can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Adds an item at the front, or returns it when there is no room.
    pub(crate) fn push_front(&mut self, item: T) -> core::result::Result<(), T> {
        let capacity = self.slots.len();
        if self.len == capacity {
            return Err(item);
        }
        let place = self.head.checked_sub(1).unwrap_or(capacity - 1);
        match self.slots.get_mut(place) {
            Some(slot) => {
                *slot = Some(item);
                self.head = place;
                self.len += 1;
                Ok(())
            }
            None => Err(item),
        }
    }

    /// Whether there is no room for another item.
    pub(crate) fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// Wraps a position below twice the size back into the queue. Without `%`, which would panic for a size of 0.
    fn wrap(&self, place: usize) -> usize {
        place.checked_sub(self.slots.len()).unwrap_or(place)
    }

    /// Adds an item at the end, or returns it when there is no room.
    pub(crate) fn push(&mut self, item: T) -> core::result::Result<(), T> {
        let capacity = self.slots.len();
        if self.len == capacity {
            return Err(item);
        }
        let place = self.wrap(self.head + self.len);
        match self.slots.get_mut(place) {
            Some(slot) => {
                *slot = Some(item);
                self.len += 1;
                Ok(())
            }
            None => Err(item),
        }
    }

    /// Calls `look` for every item, in order.
    pub(crate) fn for_each(&mut self, mut look: impl FnMut(&mut T)) {
        for offset in 0..self.len {
            let place = self.wrap(self.head + offset);
            if let Some(item) = self.slots.get_mut(place).and_then(Option::as_mut) {
                look(item);
            }
        }
    }

    /// Number of items that are in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The item at the front.
    pub(crate) fn front(&self) -> Option<&T> {
        self.slots.get(self.head).and_then(Option::as_ref)
    }

    /// Takes the item at the front.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let item = self.slots.get_mut(self.head)?.take()?;
        self.head = self.wrap(self.head + 1);
        self.len -= 1;
        Some(item)
    }

    /// Takes the first item that `wanted` selects; the others keep their order.
    pub(crate) fn remove_first(&mut self, wanted: impl Fn(&T) -> bool) -> Option<T> {
        if self.front().is_some_and(&wanted) {
            return self.pop();
        }
        let mut found = None;
        for _ in 0..self.len {
            match self.pop() {
                Some(item) if found.is_none() && wanted(&item) => found = Some(item),
                // There is room: one was just taken.
                Some(item) => drop(self.push(item)),
                None => break,
            }
        }
        found
    }
}
