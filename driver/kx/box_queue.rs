// SPDX-License-Identifier: GPL-2.0-only

//! A first-in first-out queue of boxes that needs no memory of its own, for use under spinlocks.
//!
//! Extends `kernel::list`, whose lists hold `ListArc`s only.

use core::{marker::PhantomData, ptr};
use kernel::prelude::*;

/// An item whose box can be queued.
pub(crate) trait Link: Sized {
    /// The link to the next item. Only [`BoxQueue`] uses it.
    fn next(&mut self) -> &mut Next<Self>;
}

/// The link from a queued box to the next one.
pub(crate) struct Next<T>(*mut T);

// SAFETY: Only the queue uses the pointer, and it owns what the pointer leads to.
unsafe impl<T> Send for Next<T> {}

impl<T> Next<T> {
    /// The link of a box that is not queued.
    pub(crate) const fn none() -> Self {
        Self(ptr::null_mut())
    }
}

/// A queue of boxes. Its owner's lock protects it.
///
/// # Invariants
///
/// Both pointers are null, or `head` leads by [`Link::next`] to `tail`, whose next is null. Every item on the way
/// came from `KBox::into_raw()` and is ours.
pub(crate) struct BoxQueue<T: Link> {
    head: *mut T,
    tail: *mut T,
    _items: PhantomData<KBox<T>>,
}

// SAFETY: A queue owns its boxes.
unsafe impl<T: Link + Send> Send for BoxQueue<T> {}

impl<T: Link> BoxQueue<T> {
    /// An empty queue.
    pub(crate) const fn new() -> Self {
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
            _items: PhantomData,
        }
    }

    /// Adds a box at the end.
    pub(crate) fn push_back(&mut self, mut item: KBox<T>) {
        *item.next() = Next::none();
        let item = KBox::into_raw(item);
        if self.tail.is_null() {
            self.head = item;
        } else {
            // SAFETY: By the type invariant the tail is ours.
            unsafe { (*self.tail).next().0 = item };
        }
        self.tail = item;
    }

    /// Adds a box at the front.
    pub(crate) fn push_front(&mut self, mut item: KBox<T>) {
        item.next().0 = self.head;
        let item = KBox::into_raw(item);
        if self.tail.is_null() {
            self.tail = item;
        }
        self.head = item;
    }

    /// The box at the front.
    pub(crate) fn front(&self) -> Option<&T> {
        // SAFETY: By the type invariant the head is null or ours.
        unsafe { self.head.as_ref() }
    }

    /// The box at the front, for changes.
    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        // SAFETY: By the type invariant the head is null or ours, and nobody else refers to it.
        unsafe { self.head.as_mut() }
    }

    /// Takes the first box that `wanted` selects; the others keep their order.
    pub(crate) fn remove_first(
        &mut self,
        mut wanted: impl FnMut(&mut T) -> bool,
    ) -> Option<KBox<T>> {
        let mut passed = Self::new();
        let mut found = None;
        while let Some(mut item) = self.pop() {
            if wanted(&mut item) {
                found = Some(item);
                break;
            }
            passed.push_back(item);
        }
        passed.append(self);
        core::mem::swap(self, &mut passed);
        found
    }

    /// Calls `look` for every box, in order.
    pub(crate) fn for_each(&mut self, mut look: impl FnMut(&mut T)) {
        let mut at = self.head;
        while !at.is_null() {
            // SAFETY: By the type invariant every item on the way is ours.
            let item = unsafe { &mut *at };
            look(item);
            at = item.next().0;
        }
    }

    /// Moves all of another queue's boxes to the end of this one.
    fn append(&mut self, other: &mut Self) {
        if self.tail.is_null() {
            core::mem::swap(self, other);
            return;
        }
        // SAFETY: By the type invariant the tail is ours. The other queue gives up its boxes.
        unsafe { (*self.tail).next().0 = core::mem::replace(&mut other.head, ptr::null_mut()) };
        let tail = core::mem::replace(&mut other.tail, ptr::null_mut());
        if !tail.is_null() {
            self.tail = tail;
        }
    }

    /// Takes the box at the front.
    pub(crate) fn pop(&mut self) -> Option<KBox<T>> {
        if self.head.is_null() {
            return None;
        }
        // SAFETY: By the type invariant the head is ours, and it leaves the queue here.
        let mut item = unsafe { KBox::from_raw(self.head) };
        self.head = core::mem::replace(item.next(), Next::none()).0;
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        Some(item)
    }
}

impl<T: Link> Drop for BoxQueue<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}
