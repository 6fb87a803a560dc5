// SPDX-License-Identifier: GPL-2.0-only

//! Who polls a file, and is to be told when completions come.

use crate::kx::{miscdev::PollTable, pages::at_will};
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

/// The pollers of one file. Kept by its context and its channels, so that it may outlive the file: whoever polls is then
/// let go by drop, which frees the memory only when nobody looks at it any more (RCU).
pub(crate) struct Readiness {
    changed: PollCondVarBox,
    /// 1 once somebody has polled: before, telling costs one load.
    watched: Atomic<u32>,
}

impl Readiness {
    /// Nobody polls.
    pub(super) fn new() -> Result<Arc<Self>> {
        let changed = PollCondVarBox::new(c"Readiness::changed", static_lock_class!())?;
        let watched = Atomic::new(0);
        Ok(Arc::new(Self { changed, watched }, at_will())?)
    }

    /// Has the caller told of what comes from now on. It looks afterwards at what is there.
    pub(super) fn watch(&self, file: &File, table: PollTable<'_>) {
        self.watched.store(1, Relaxed);
        table.register_wait(file, &self.changed);
        // Either the caller sees what was posted, or whoever posted it sees the caller; pairs with `tell()`.
        smp_mb(Full);
    }

    /// Tells of completions that were posted before. Never sleeps.
    pub(crate) fn tell(&self) {
        smp_mb(Full);
        if self.watched.load(Relaxed) != 0 {
            self.changed.notify_all();
        }
    }
}
