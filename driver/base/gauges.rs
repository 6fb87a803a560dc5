// SPDX-License-Identifier: GPL-2.0-only

//! Counts of everything alive, shown in debugfs. All are 0 when nothing is open, which tests of teardown check.

use kernel::{
    debugfs::{Dir, Scope},
    fmt,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// How many of one kind are alive.
pub(crate) struct Gauge(Atomic<usize>);

/// A part of a gauge's value, given back on drop.
pub(crate) struct Held {
    gauge: &'static Gauge,
    amount: usize,
}

impl Gauge {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// The value.
    pub(crate) fn value(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Adds `amount` until the result is dropped.
    pub(crate) fn hold(&'static self, amount: usize) -> Held {
        let _ = self.0.fetch_add(amount, Relaxed);
        Held {
            gauge: self,
            amount,
        }
    }

    /// Adds 1 until the result is dropped, unless there are `most` already.
    pub(crate) fn hold_below(&'static self, most: usize) -> Option<Held> {
        let held = self.hold(1);
        // A caller that comes at the same time may be refused too, which does no harm.
        (self.0.load(Relaxed) <= most).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.gauge.0.fetch_sub(self.amount, Relaxed);
    }
}

/// The driver's gauges.
pub(crate) struct Gauges {
    /// Open files.
    pub(crate) contexts: Gauge,
    /// Pieces of memory, also those that no handle names any more.
    pub(crate) buffers: Gauge,
    /// Bytes of them.
    pub(crate) bytes: Gauge,
    /// dma-bufs of the driver's memory that somebody still refers to.
    pub(crate) exports: Gauge,
    /// dma-bufs of other drivers that are attached.
    pub(crate) imports: Gauge,
    /// Pools, also those that no handle names any more.
    pub(crate) pools: Gauge,
    /// Memory registered on a device.
    pub(crate) regions: Gauge,
    /// Grants given to peers.
    pub(crate) grants: Gauge,
    /// Channels.
    pub(crate) channels: Gauge,
    /// Polling threads of channels.
    pub(crate) pollers: Gauge,
    /// Listeners.
    pub(crate) listeners: Gauge,
    /// Endpoints, those being connected included.
    pub(crate) endpoints: Gauge,
    /// Accepted entries without a completion.
    pub(crate) operations: Gauge,
}

/// Their values.
pub(crate) static GAUGES: Gauges = Gauges {
    contexts: Gauge::new(),
    buffers: Gauge::new(),
    bytes: Gauge::new(),
    exports: Gauge::new(),
    imports: Gauge::new(),
    pools: Gauge::new(),
    regions: Gauge::new(),
    grants: Gauge::new(),
    channels: Gauge::new(),
    pollers: Gauge::new(),
    listeners: Gauge::new(),
    endpoints: Gauge::new(),
    operations: Gauge::new(),
};

fn show(gauge: &Gauge, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "{}", gauge.value())
}

/// The folder `gauges` in the driver's debugfs folder.
pub(crate) fn debugfs(dir: &Dir) -> impl PinInit<Scope<&'static Gauges>> + '_ {
    dir.scope(&GAUGES, c"gauges", |gauges, dir| {
        let gauges: &'static Gauges = gauges;
        dir.read_callback_file(c"contexts", &gauges.contexts, &show);
        dir.read_callback_file(c"buffers", &gauges.buffers, &show);
        dir.read_callback_file(c"bytes", &gauges.bytes, &show);
        dir.read_callback_file(c"exports", &gauges.exports, &show);
        dir.read_callback_file(c"imports", &gauges.imports, &show);
        dir.read_callback_file(c"pools", &gauges.pools, &show);
        dir.read_callback_file(c"regions", &gauges.regions, &show);
        dir.read_callback_file(c"grants", &gauges.grants, &show);
        dir.read_callback_file(c"channels", &gauges.channels, &show);
        dir.read_callback_file(c"pollers", &gauges.pollers, &show);
        dir.read_callback_file(c"listeners", &gauges.listeners, &show);
        dir.read_callback_file(c"endpoints", &gauges.endpoints, &show);
        dir.read_callback_file(c"operations", &gauges.operations, &show);
    })
}
