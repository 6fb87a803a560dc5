// SPDX-License-Identifier: GPL-2.0-only

//! The list of open contexts, which debugfs shows.

use super::Context;
use crate::kx::{global::global_mutex, vec::retain};
use kernel::{prelude::*, sync::Arc};

/// Open contexts in the order of their serials. Lock: the global mutex `CONTEXTS`, inside which no other lock is taken.
pub(crate) struct List(KVec<Arc<Context>>);

global_mutex! {
    /// The open contexts.
    static CONTEXTS: Mutex<List> = List::new();
    life ContextsLife;
}

impl List {
    /// None yet.
    const fn new() -> Self {
        Self(KVec::new())
    }
}

/// Adds a context that was opened.
pub(crate) fn enter(context: &Arc<Context>) -> Result {
    Ok(CONTEXTS.lock().0.push(context.clone(), GFP_KERNEL)?)
}

/// Removes a context that is being closed.
pub(crate) fn leave(context: &Context) {
    let mut list = CONTEXTS.lock();
    // Never drops the last reference: the caller has one.
    retain(&mut list.0, |other| other.serial() != context.serial());
}

/// Calls `look` for every context, without a lock. May leave out one that is opened or closed meanwhile.
pub(super) fn each(mut look: impl FnMut(&Context) -> kernel::fmt::Result) -> kernel::fmt::Result {
    let mut last = 0;
    loop {
        let next = {
            let list = CONTEXTS.lock();
            let behind = list.0.iter().filter(|context| context.serial() > last);
            behind.min_by_key(|context| context.serial()).cloned()
        };
        let Some(context) = next else { return Ok(()) };
        last = context.serial();
        look(&context)?;
    }
}
