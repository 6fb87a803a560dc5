// SPDX-License-Identifier: GPL-2.0-only

//! Forced windows: moments at which a race is decided can be made as long as a test wants, by writing microseconds
//! to a file in debugfs. 0, as after loading, costs one relaxed load.

use kernel::{
    debugfs::{Dir, Scope},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    time::{delay::fsleep, Delta},
};

/// Longest window, in microseconds.
const MAX_US: u32 = 1_000_000;

/// One moment.
pub(crate) struct Window(Atomic<u32>);

impl Window {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Stays at this moment as long as it is told to. May sleep.
    pub(crate) fn pass(&self) {
        let us = self.0.load(Relaxed).min(MAX_US);
        if us != 0 {
            fsleep(Delta::from_micros(us.into()));
        }
    }
}

/// The moments.
pub(crate) struct Windows {
    /// An entry was accepted, and its objects were not looked up yet.
    pub(crate) accepted: Window,
    /// The provider gave an operation back, and its state was not decided yet.
    pub(crate) landed: Window,
    /// A WRITE_IMM or SEND came, and its receive was not found yet.
    pub(crate) arrived: Window,
    /// A grant is there, and the peer was not told of it yet.
    pub(crate) granting: Window,
    /// The side that listens hears that a connection is up, and has not noted that yet.
    pub(crate) established: Window,
    /// The peer gave a grant back, and it was not deregistered yet.
    pub(crate) answered: Window,
    /// An operation was taken out of its queue to end, and its completion was not posted yet.
    pub(crate) taken: Window,
    /// A use of memory has begun, and nothing was done with it yet.
    pub(crate) entered: Window,
    /// Nobody may begin to use some memory any more, and nobody was told to end yet.
    pub(crate) revoking: Window,
    /// Nobody uses memory that is being revoked any more, and its mappings are still there.
    pub(crate) quiet: Window,
    /// A device is being removed, and its memory was not revoked yet.
    pub(crate) leaving: Window,
    /// A dma-buf was made, and does not follow its memory's revocation yet.
    pub(crate) exported: Window,
    /// A dma-buf is attached, and there is no memory of it yet.
    pub(crate) attached: Window,
    /// The pages of a dma-buf are known, and there is no memory of them yet.
    pub(crate) lent: Window,
    /// An importer's device is about to get the addresses of a dma-buf.
    pub(crate) mapped: Window,
    /// An endpoint's cause of its end is set, and its queue pair was not drained yet.
    pub(crate) down: Window,
    /// A polling thread found nothing, and has not said yet that it sleeps.
    pub(crate) dozing: Window,
    /// A polling thread has said that it sleeps, and does not yet.
    pub(crate) dozed: Window,
    /// A polling thread woke, and has not looked for entries yet.
    pub(crate) roused: Window,
    /// An RDMA device is being removed: nothing new starts on it, and nothing was ended yet.
    pub(crate) removing: Window,
    /// The connection manager told of the peer's end, or of the device's, and it was not noted yet.
    pub(crate) told: Window,
    /// A message of the peer's came, and was not read yet.
    pub(crate) mailed: Window,
    /// The peer's last will was read, and what waits for the peer was not ended yet.
    pub(crate) willed: Window,
    /// An endpoint's clock runs, and has not looked yet when it is to run next.
    pub(crate) ticking: Window,
    /// The provider has registered memory, and who waits for that was not told yet.
    pub(crate) registered: Window,
}

/// All of them.
pub(crate) static WINDOWS: Windows = Windows {
    accepted: Window::new(),
    landed: Window::new(),
    arrived: Window::new(),
    granting: Window::new(),
    established: Window::new(),
    answered: Window::new(),
    taken: Window::new(),
    entered: Window::new(),
    revoking: Window::new(),
    quiet: Window::new(),
    leaving: Window::new(),
    exported: Window::new(),
    attached: Window::new(),
    lent: Window::new(),
    mapped: Window::new(),
    down: Window::new(),
    dozing: Window::new(),
    dozed: Window::new(),
    roused: Window::new(),
    removing: Window::new(),
    told: Window::new(),
    mailed: Window::new(),
    willed: Window::new(),
    ticking: Window::new(),
    registered: Window::new(),
};

/// The folder `windows` in the driver's debugfs folder.
pub(crate) fn debugfs(dir: &Dir) -> impl PinInit<Scope<&'static Windows>> + '_ {
    dir.scope(&WINDOWS, c"windows", |windows, dir| {
        let windows: &'static Windows = windows;
        dir.read_write_file(c"accepted", &windows.accepted.0);
        dir.read_write_file(c"landed", &windows.landed.0);
        dir.read_write_file(c"arrived", &windows.arrived.0);
        dir.read_write_file(c"granting", &windows.granting.0);
        dir.read_write_file(c"established", &windows.established.0);
        dir.read_write_file(c"answered", &windows.answered.0);
        dir.read_write_file(c"taken", &windows.taken.0);
        dir.read_write_file(c"entered", &windows.entered.0);
        dir.read_write_file(c"revoking", &windows.revoking.0);
        dir.read_write_file(c"quiet", &windows.quiet.0);
        dir.read_write_file(c"leaving", &windows.leaving.0);
        dir.read_write_file(c"exported", &windows.exported.0);
        dir.read_write_file(c"attached", &windows.attached.0);
        dir.read_write_file(c"lent", &windows.lent.0);
        dir.read_write_file(c"mapped", &windows.mapped.0);
        dir.read_write_file(c"down", &windows.down.0);
        dir.read_write_file(c"dozing", &windows.dozing.0);
        dir.read_write_file(c"dozed", &windows.dozed.0);
        dir.read_write_file(c"roused", &windows.roused.0);
        dir.read_write_file(c"removing", &windows.removing.0);
        dir.read_write_file(c"told", &windows.told.0);
        dir.read_write_file(c"mailed", &windows.mailed.0);
        dir.read_write_file(c"willed", &windows.willed.0);
        dir.read_write_file(c"ticking", &windows.ticking.0);
        dir.read_write_file(c"registered", &windows.registered.0);
    })
}
