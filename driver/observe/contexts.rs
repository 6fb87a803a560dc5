// SPDX-License-Identifier: GPL-2.0-only

//! The contexts that are open, for those who look at the whole.

use crate::{context::Context, kx::global::CONTEXTS, kx::vec::retain};
use kernel::{prelude::*, sync::Arc};

/// Open contexts in the order of their serials. Lock: the global mutex `CONTEXTS`, inside which nothing is taken.
pub(crate) struct List(KVec<Arc<Context>>);

impl List {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }
}

/// A context was opened.
pub(crate) fn enter(context: &Arc<Context>) -> Result {
    Ok(CONTEXTS.lock().0.push(context.clone(), GFP_KERNEL)?)
}

/// A context closes.
pub(crate) fn leave(context: &Context) {
    let mut list = CONTEXTS.lock();
    // Never the last reference: whoever closes has one.
    retain(&mut list.0, |other| other.serial() != context.serial());
}

/// Shows every context to `look`, without a lock. One that is opened or closed meanwhile may be left out.
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
