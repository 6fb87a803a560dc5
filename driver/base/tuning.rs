// SPDX-License-Identifier: GPL-2.0-only

//! Settings in debugfs that an administrator may change while the driver runs, to measure or to test.

use kernel::{
    debugfs::{Dir, Scope},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// The settings.
pub(crate) struct Tuning {
    folio_order: Atomic<u32>,
    zero_workers: Atomic<u32>,
    will_ms: Atomic<u32>,
    answer_ms: Atomic<u32>,
    come_back_ms: Atomic<u32>,
}

/// Longest of the waits, in milliseconds.
const MAX_MS: u32 = 60_000;

impl Tuning {
    /// Order of the largest folios that buffers are made of.
    pub(crate) fn folio_order(&self) -> usize {
        self.folio_order.load(Relaxed) as usize
    }

    /// Most work items that zero one buffer; 0 for as many as are useful.
    pub(crate) fn zero_workers(&self) -> usize {
        self.zero_workers.load(Relaxed) as usize
    }

    /// How long a last will may take to be acknowledged, in milliseconds, and how much longer a thread that is killed
    /// waits for what would spoil it. Without a last will the peer still learns of the end, but not why.
    pub(crate) fn will_ms(&self) -> u32 {
        self.will_ms.load(Relaxed).min(MAX_MS)
    }

    /// How long a peer may take to give a grant back, in milliseconds. Afterwards its access ends anyway, and if it
    /// still writes, the connection ends too.
    pub(crate) fn answer_ms(&self) -> u32 {
        self.answer_ms.load(Relaxed).min(MAX_MS)
    }

    /// How long the provider may take to complete operations on memory that is being revoked, in milliseconds.
    /// Operations that take longer end with their endpoint.
    pub(crate) fn come_back_ms(&self) -> u32 {
        self.come_back_ms.load(Relaxed).min(MAX_MS)
    }
}

/// Their values.
pub(crate) static TUNING: Tuning = Tuning {
    folio_order: Atomic::new(crate::kx::pages::MAX_ORDER as u32),
    zero_workers: Atomic::new(0),
    will_ms: Atomic::new(40),
    answer_ms: Atomic::new(1000),
    come_back_ms: Atomic::new(1000),
};

/// The folder `tuning` in the driver's debugfs folder.
pub(crate) fn debugfs(dir: &Dir) -> impl PinInit<Scope<&'static Tuning>> + '_ {
    dir.scope(&TUNING, c"tuning", |tuning, dir| {
        let tuning: &'static Tuning = tuning;
        dir.read_write_file(c"folio_order", &tuning.folio_order);
        dir.read_write_file(c"zero_workers", &tuning.zero_workers);
        dir.read_write_file(c"will_ms", &tuning.will_ms);
        dir.read_write_file(c"answer_ms", &tuning.answer_ms);
        dir.read_write_file(c"come_back_ms", &tuning.come_back_ms);
    })
}
