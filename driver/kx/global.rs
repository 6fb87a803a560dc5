// SPDX-License-Identifier: GPL-2.0-only

//! The one lock that exists before any object does.

use crate::rdma::Registry;
use kernel::{prelude::*, sync::global_lock};

global_lock! {
    // SAFETY: `init()` runs first thing in the module's initialisation, before anything can lock it.
    pub(crate) unsafe(uninit) static REGISTRY: Mutex<Registry> = Registry::new();
}

/// Makes the lock usable.
///
/// A module's initialisation runs once for each load, and its statics are fresh each time.
pub(crate) fn init(_proof: &'static ThisModule) {
    // SAFETY: Called once for each load, see above.
    unsafe { REGISTRY.init() };
}
