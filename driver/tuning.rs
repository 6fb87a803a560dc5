// SPDX-License-Identifier: GPL-2.0-only

//! What an administrator may set while the driver runs, in debugfs, to measure or to test.

use kernel::{
    debugfs::{Dir, Scope},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// The settings.
pub(crate) struct Tuning {
    folio_order: Atomic<u32>,
    zero_workers: Atomic<u32>,
}

impl Tuning {
    /// Order of the largest folios that buffers are made of.
    pub(crate) fn folio_order(&self) -> usize {
        self.folio_order.load(Relaxed) as usize
    }

    /// Most work items that zero one buffer; 0 for as many as are useful.
    pub(crate) fn zero_workers(&self) -> usize {
        self.zero_workers.load(Relaxed) as usize
    }
}

/// Their values.
pub(crate) static TUNING: Tuning = Tuning {
    folio_order: Atomic::new(crate::kx::pages::MAX_ORDER as u32),
    zero_workers: Atomic::new(0),
};

/// The folder `tuning` in the driver's debugfs folder.
pub(crate) fn debugfs(dir: &Dir) -> impl PinInit<Scope<&'static Tuning>> + '_ {
    dir.scope(&TUNING, c"tuning", |tuning, dir| {
        let tuning: &'static Tuning = tuning;
        dir.read_write_file(c"folio_order", &tuning.folio_order);
        dir.read_write_file(c"zero_workers", &tuning.zero_workers);
    })
}
