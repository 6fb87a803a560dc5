// SPDX-License-Identifier: GPL-2.0-only

//! A first-in first-out queue of boxes that needs no memory of its own, for use under spinlocks.

use core::{marker::PhantomData, ptr};
use kernel::prelude::*;

/// A box that can be chained.
pub(crate) trait Link: Sized {
    /// Where the pointer to the next one is kept. Only [`Chain`] uses it.
    fn next(&mut self) -> &mut *mut Self;
}

/// A queue of boxes. Its owner's lock protects it.
///
/// # Invariants
///
/// Both pointers are null, or `head` leads by [`Link::next`] to `tail`, whose next is null. Every item on the way
/// came from `KBox::into_raw()` and is ours.
pub(crate) struct Chain<T: Link> {
    head: *mut T,
    tail: *mut T,
    _items: PhantomData<KBox<T>>,
}

// SAFETY: A chain owns its boxes.
unsafe impl<T: Link + Send> Send for Chain<T> {}

impl<T: Link> Chain<T> {
    /// An empty chain.
    pub(crate) const fn new() -> Self {
        Self {
            head: ptr::null_mut(),
            tail: ptr::null_mut(),
            _items: PhantomData,
        }
    }

    /// Adds a box at the end.
    pub(crate) fn push_back(&mut self, mut item: KBox<T>) {
        *item.next() = ptr::null_mut();
        let item = KBox::into_raw(item);
        if self.tail.is_null() {
            self.head = item;
        } else {
            // SAFETY: By the type invariant the tail is ours.
            unsafe { *(*self.tail).next() = item };
        }
        self.tail = item;
    }

    /// Adds a box at the front.
    pub(crate) fn push_front(&mut self, mut item: KBox<T>) {
        *item.next() = self.head;
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

    /// Takes the box at the front.
    pub(crate) fn pop(&mut self) -> Option<KBox<T>> {
        if self.head.is_null() {
            return None;
        }
        // SAFETY: By the type invariant the head is ours, and it leaves the chain here.
        let mut item = unsafe { KBox::from_raw(self.head) };
        self.head = core::mem::replace(item.next(), ptr::null_mut());
        if self.head.is_null() {
            self.tail = ptr::null_mut();
        }
        Some(item)
    }
}

impl<T: Link> Drop for Chain<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}
