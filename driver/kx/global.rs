// SPDX-License-Identifier: GPL-2.0-only

//! The locks that exist before any object does.

use crate::{device::Devices, observe::List, rdma::Registry};
use kernel::{prelude::*, sync::global_lock};

global_lock! {
    // SAFETY: `init()` runs first thing in the module's initialisation, before anything can lock it.
    pub(crate) unsafe(uninit) static REGISTRY: Mutex<Registry> = Registry::new();
}

global_lock! {
    // SAFETY: As above.
    pub(crate) unsafe(uninit) static DEVICES: Mutex<Devices> = Devices::new();
}

global_lock! {
    // SAFETY: As above.
    pub(crate) unsafe(uninit) static CONTEXTS: Mutex<List> = List::new();
}

/// The locks' life. A module's statics are not dropped when it goes, so that what they hold must be dropped by
/// somebody: this, as the last of the module's fields that use the locks.
pub(crate) struct Life(());

impl Life {
    /// Makes the locks usable.
    ///
    /// A module's initialisation runs once for each load, and its statics are fresh each time.
    pub(crate) fn begin(_proof: &'static ThisModule) -> Self {
        // SAFETY: Called once for each load, see above.
        unsafe {
            REGISTRY.init();
            DEVICES.init();
            CONTEXTS.init();
        }
        Self(())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let registry = core::mem::replace(&mut *REGISTRY.lock(), Registry::new());
        drop(registry);
        let devices = core::mem::replace(&mut *DEVICES.lock(), Devices::new());
        drop(devices);
        let contexts = core::mem::replace(&mut *CONTEXTS.lock(), List::new());
        drop(contexts);
    }
}
