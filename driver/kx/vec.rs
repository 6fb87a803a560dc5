// SPDX-License-Identifier: GPL-2.0-only

//! Operations that `KVec` has only with a panic path.
//!
//! Extends `kernel::alloc::Vec`.

use kernel::{alloc::Allocator, prelude::*};

/// Keeps the items that `keep` selects, in order. For short lists: each removal moves the items behind it.
pub(crate) fn retain<T, A: Allocator>(list: &mut Vec<T, A>, keep: impl Fn(&T) -> bool) {
    let mut index = 0;
    while let Some(item) = list.get(index) {
        if keep(item) {
            index += 1;
        } else {
            // The index was just looked up.
            drop(list.remove(index));
        }
    }
}
