// SPDX-License-Identifier: GPL-2.0-only

//! Delay points widen race windows: a test writes to a point's file in debugfs how many microseconds a thread sleeps
//! there. 0, the value after loading, costs one relaxed load.

use kernel::{
    debugfs::{Dir, Scope},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    time::{delay::fsleep, Delta, Instant, Monotonic},
};

/// Longest delay, in microseconds.
const MAX_US: u32 = 1_000_000;

/// One delay point.
pub(crate) struct DelayPoint(Atomic<u32>);

impl DelayPoint {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Sleeps for the point's delay, if one is set.
    #[inline]
    pub(crate) fn pass(&self) {
        let us = self.0.load(Relaxed);
        if us != 0 {
            sleep(us.min(MAX_US));
        }
    }
}

/// Sleeps for at least so many microseconds. A long `fsleep()` counts jiffies, which lag behind the clock of an emulated
/// machine, so that it may be too short.
#[cold]
fn sleep(us: u32) {
    let end = Instant::<Monotonic>::now() + Delta::from_micros(us.into());
    loop {
        let left = end - Instant::now();
        if left.is_negative() || left.is_zero() {
            return;
        }
        fsleep(left);
    }
}

/// The delay points.
pub(crate) struct DelayPoints {
    /// An entry was accepted, and its objects were not looked up yet.
    pub(crate) entry_accepted: DelayPoint,
    /// The provider completed an operation, and its terminal state was not decided yet.
    pub(crate) work_completed: DelayPoint,
    /// A WRITE_IMM or SEND arrived, and its receive was not found yet.
    pub(crate) receive_completed: DelayPoint,
    /// The receive of what arrived has completed, and the watches that count it have not.
    pub(crate) arrival_delivered: DelayPoint,
    /// A grant was made, and the peer was not notified of it yet.
    pub(crate) grant_unannounced: DelayPoint,
    /// A grant is about to be watched, and this thread refers to it.
    pub(crate) grant_watched: DelayPoint,
    /// The listening side was notified that a connection is up, and has not noted it yet.
    pub(crate) established: DelayPoint,
    /// The peer gave a grant back, and it was not deregistered yet.
    pub(crate) grant_returned: DelayPoint,
    /// An operation was taken out of its queue to end, and its completion was not posted yet.
    pub(crate) dequeued: DelayPoint,
    /// A use of memory has begun, and nothing was done with it yet.
    pub(crate) use_begun: DelayPoint,
    /// A revocation has begun: nobody may begin to use the memory any more, and nothing was ended yet.
    pub(crate) revocation_begun: DelayPoint,
    /// Nobody uses memory that is being revoked any more, and its mappings are still there.
    pub(crate) drained: DelayPoint,
    /// A device is being removed, and its memory was not revoked yet.
    pub(crate) device_removal: DelayPoint,
    /// A dma-buf was made, and does not follow its memory's revocation yet.
    pub(crate) dmabuf_exported: DelayPoint,
    /// A dma-buf is attached, and there is no memory of it yet.
    pub(crate) dmabuf_attached: DelayPoint,
    /// The pages of a dma-buf are known, and there is no memory of them yet.
    pub(crate) pages_mapped: DelayPoint,
    /// An importer's device is about to get the addresses of a dma-buf.
    pub(crate) addresses_mapped: DelayPoint,
    /// The cause of an endpoint's end is set, and its queue pair was not drained yet.
    pub(crate) ending: DelayPoint,
    /// A polling thread found nothing, and has not announced yet that it sleeps.
    pub(crate) idle: DelayPoint,
    /// A polling thread has announced that it sleeps, and does not sleep yet.
    pub(crate) before_sleep: DelayPoint,
    /// A polling thread woke, and has not looked for entries yet.
    pub(crate) woken: DelayPoint,
    /// An RDMA device is being removed: nothing new starts on it, and nothing was ended yet.
    pub(crate) rdma_removal: DelayPoint,
    /// The connection manager reported the end of the peer or the device, and it was not noted yet.
    pub(crate) disconnect_event: DelayPoint,
    /// A message from the peer arrived, and was not read yet.
    pub(crate) message_received: DelayPoint,
    /// The peer's last will was read, and what waits for the peer was not ended yet.
    pub(crate) last_will_received: DelayPoint,
    /// An endpoint's timer runs, and has not determined yet when it is to run next.
    pub(crate) timer_running: DelayPoint,
    /// The provider has registered memory, and the waiters were not notified yet.
    pub(crate) registration_done: DelayPoint,
}

/// All of them.
pub(crate) static DELAY_POINTS: DelayPoints = DelayPoints {
    entry_accepted: DelayPoint::new(),
    work_completed: DelayPoint::new(),
    receive_completed: DelayPoint::new(),
    arrival_delivered: DelayPoint::new(),
    grant_unannounced: DelayPoint::new(),
    grant_watched: DelayPoint::new(),
    established: DelayPoint::new(),
    grant_returned: DelayPoint::new(),
    dequeued: DelayPoint::new(),
    use_begun: DelayPoint::new(),
    revocation_begun: DelayPoint::new(),
    drained: DelayPoint::new(),
    device_removal: DelayPoint::new(),
    dmabuf_exported: DelayPoint::new(),
    dmabuf_attached: DelayPoint::new(),
    pages_mapped: DelayPoint::new(),
    addresses_mapped: DelayPoint::new(),
    ending: DelayPoint::new(),
    idle: DelayPoint::new(),
    before_sleep: DelayPoint::new(),
    woken: DelayPoint::new(),
    rdma_removal: DelayPoint::new(),
    disconnect_event: DelayPoint::new(),
    message_received: DelayPoint::new(),
    last_will_received: DelayPoint::new(),
    timer_running: DelayPoint::new(),
    registration_done: DelayPoint::new(),
};

/// The folder `delay_points` in the driver's debugfs folder.
pub(crate) fn debugfs(dir: &Dir) -> impl PinInit<Scope<&'static DelayPoints>> + '_ {
    dir.scope(&DELAY_POINTS, c"delay_points", |delay_points, dir| {
        let delay_points: &'static DelayPoints = delay_points;
        dir.read_write_file(c"entry_accepted", &delay_points.entry_accepted.0);
        dir.read_write_file(c"work_completed", &delay_points.work_completed.0);
        dir.read_write_file(c"receive_completed", &delay_points.receive_completed.0);
        dir.read_write_file(c"arrival_delivered", &delay_points.arrival_delivered.0);
        dir.read_write_file(c"grant_unannounced", &delay_points.grant_unannounced.0);
        dir.read_write_file(c"grant_watched", &delay_points.grant_watched.0);
        dir.read_write_file(c"established", &delay_points.established.0);
        dir.read_write_file(c"grant_returned", &delay_points.grant_returned.0);
        dir.read_write_file(c"dequeued", &delay_points.dequeued.0);
        dir.read_write_file(c"use_begun", &delay_points.use_begun.0);
        dir.read_write_file(c"revocation_begun", &delay_points.revocation_begun.0);
        dir.read_write_file(c"drained", &delay_points.drained.0);
        dir.read_write_file(c"device_removal", &delay_points.device_removal.0);
        dir.read_write_file(c"dmabuf_exported", &delay_points.dmabuf_exported.0);
        dir.read_write_file(c"dmabuf_attached", &delay_points.dmabuf_attached.0);
        dir.read_write_file(c"pages_mapped", &delay_points.pages_mapped.0);
        dir.read_write_file(c"addresses_mapped", &delay_points.addresses_mapped.0);
        dir.read_write_file(c"ending", &delay_points.ending.0);
        dir.read_write_file(c"idle", &delay_points.idle.0);
        dir.read_write_file(c"before_sleep", &delay_points.before_sleep.0);
        dir.read_write_file(c"woken", &delay_points.woken.0);
        dir.read_write_file(c"rdma_removal", &delay_points.rdma_removal.0);
        dir.read_write_file(c"disconnect_event", &delay_points.disconnect_event.0);
        dir.read_write_file(c"message_received", &delay_points.message_received.0);
        dir.read_write_file(c"last_will_received", &delay_points.last_will_received.0);
        dir.read_write_file(c"timer_running", &delay_points.timer_running.0);
        dir.read_write_file(c"registration_done", &delay_points.registration_done.0);
    })
}
