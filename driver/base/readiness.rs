// SPDX-License-Identifier: GPL-2.0-only

//! The pollers of a file, which are notified of completions.

use crate::kx::{charged::GFP_CHARGED, miscdev::PollTable};
use kernel::{
    fs::File,
    prelude::*,
    static_lock_class,
    sync::{
        atomic::{Atomic, Relaxed},
        barrier::{smp_mb, Full},
        poll::PollCondVarBox,
        Arc,
    },
};

/// The pollers of one file. Kept by its context and its channels, so it may outlive the file. Drop then releases the
/// pollers, and frees the memory only when nobody looks at it any more (RCU).
pub(crate) struct Readiness {
    changed: PollCondVarBox,
    /// 1 once somebody has polled. Before that, a notification costs one load.
    watched: Atomic<u32>,
}

impl Readiness {
    /// Nobody polls.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let changed = PollCondVarBox::new(c"Readiness::changed", static_lock_class!())?;
        let watched = Atomic::new(0);
        Ok(Arc::new(Self { changed, watched }, GFP_CHARGED)?)
    }

    /// Registers the caller for notifications from now on. The caller checks afterwards what is there already.
    pub(crate) fn watch(&self, file: &File, table: PollTable<'_>) {
        self.watched.store(1, Relaxed);
        table.register_wait(file, &self.changed);
        // Either the caller sees what was posted, or whoever posted it sees the caller; pairs with `notify()`.
        smp_mb(Full);
    }

    /// Notifies pollers of completions that were posted before. Never sleeps.
    pub(crate) fn notify(&self) {
        smp_mb(Full);
        if self.watched.load(Relaxed) != 0 {
            self.changed.notify_all();
        }
    }
}
