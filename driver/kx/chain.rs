// SPDX-License-Identifier: GPL-2.0-only

//! A first-in first-out queue of boxes that needs no memory of its own, for use under spinlocks.

use core::{marker::PhantomData, ptr};
use kernel::prelude::*;

/// A box that can be chained.
pub(crate) trait Link: Sized {
    /// Where the pointer to the next one is kept. Only [`Chain`] uses it.
    fn next(&mut self) -> &mut Next<Self>;
}

/// Where a chained box keeps the pointer to the next one.
pub(crate) struct Next<T>(*mut T);

// SAFETY: The pointer is used by the chain only, which owns what it leads to.
unsafe impl<T> Send for Next<T> {}

impl<T> Next<T> {
    /// Not chained.
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

    /// Takes the first box that `wanted` chooses; the others keep their order.
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

    /// Shows every box to `look`.
    pub(crate) fn for_each(&mut self, mut look: impl FnMut(&mut T)) {
        let mut at = self.head;
        while !at.is_null() {
            // SAFETY: By the type invariant every item on the way is ours.
            let item = unsafe { &mut *at };
            look(item);
            at = item.next().0;
        }
    }

    /// Moves all of another chain's boxes to the end of this one.
    fn append(&mut self, other: &mut Self) {
        if self.tail.is_null() {
            core::mem::swap(self, other);
            return;
        }
        // SAFETY: By the type invariant the tail is ours. The other chain gives its boxes up.
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
        // SAFETY: By the type invariant the head is ours, and it leaves the chain here.
        let mut item = unsafe { KBox::from_raw(self.head) };
        self.head = core::mem::replace(item.next(), Next::none()).0;
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
