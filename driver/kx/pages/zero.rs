// SPDX-License-Identifier: GPL-2.0-only

//! Zeroing of pages before anybody sees them. Many pages are zeroed in parallel, by processors of their own nodes.
//!
//! Extends `kernel::page`.

use super::raw;
use crate::kx::charged::GFP_CHARGED;
use crate::kx::{completion::Completion, nodes, task::is_killed};
use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
use kernel::{bindings, container_of, prelude::*, sync::Arc, types::Opaque};

/// Pages between two checks whether to stop: 2 MiB, some hundred microseconds.
const CHUNK: usize = 512;

/// Number of pages from which on work items are worth their cost: 16 MiB.
const PARALLEL: usize = 4096;

/// Most work items of one buffer.
const MAX_WORKERS: usize = 32;

/// Zeroes a row of pages, which the caller keeps alive. `EINTR` when the caller is being killed; then some are not
/// zeroed. Other signals do not end it: where they come often, restarts would never finish. `limit` bounds the work
/// items; 0 leaves their number to this function, and 1 means that there are none.
pub(super) fn zero(row: &[NonNull<bindings::page>], limit: usize) -> Result {
    if row.len() >= PARALLEL && limit != 1 {
        let lanes = lanes(row)?;
        let limit = if limit == 0 { MAX_WORKERS } else { limit };
        // Work items run outside of the caller's cpuset, so it gets no more processors than that gives it.
        let limit = limit.min(nodes::own_cpus());
        if limit > 1 && lanes.iter().map(|lane| lane.workers).sum::<usize>() > 1 {
            return in_parallel(row, lanes, limit.min(MAX_WORKERS));
        }
    }
    for chunk in row.chunks(CHUNK) {
        if is_killed() {
            return Err(EINTR);
        }
        // SAFETY: The caller's pages are alive.
        unsafe { zero_chunk(chunk) };
    }
    Ok(())
}

/// # Safety
///
/// The pages are alive. A concurrent write tears their contents and nothing else. May sleep.
unsafe fn zero_chunk(chunk: &[NonNull<bindings::page>]) {
    for page in chunk {
        // SAFETY: The caller promises the same.
        unsafe { raw::dmaplane_zero_page(page.as_ptr()) };
    }
}

/// The chunks of one node, and the progress of its work items.
struct Lane {
    node: i32,
    workers: usize,
    next: AtomicUsize,
}

/// The node of a chunk: its first page's.
fn node_of(chunk: &[NonNull<bindings::page>]) -> i32 {
    // SAFETY: The users of the row keep the page alive.
    chunk.first().map_or(-1, |page| unsafe {
        raw::dmaplane_page_to_nid(page.as_ptr())
    })
}

/// Makes a lane for each node that has chunks. A lane has as many work items as its node has processors, and at most
/// one for each chunk.
fn lanes(row: &[NonNull<bindings::page>]) -> Result<KVec<Lane>> {
    let mut lanes: KVec<Lane> = KVec::new();
    for chunk in row.chunks(CHUNK) {
        let node = node_of(chunk);
        match lanes.iter_mut().find(|lane| lane.node == node) {
            Some(lane) => lane.workers += 1,
            None => {
                let lane = Lane {
                    node,
                    workers: 1,
                    next: AtomicUsize::new(0),
                };
                lanes.push(lane, GFP_CHARGED)?;
            }
        }
    }
    for lane in lanes.iter_mut() {
        // Processors of other nodes serve a node without processors.
        lane.workers = lane.workers.min(nodes::cpus(lane.node).max(1));
    }
    Ok(lanes)
}

/// What the work items share.
struct Job {
    /// The row, which outlives all work items.
    row: *const [NonNull<bindings::page>],
    lanes: KVec<Lane>,
    stop: AtomicBool,
    /// Work items that have not finished.
    left: AtomicUsize,
    done: Arc<Completion>,
}

// SAFETY: Pages are not tied to a thread, and the row is only read.
unsafe impl Send for Job {}
// SAFETY: Pages are not tied to a thread, and the row is only read; what changes is atomic.
unsafe impl Sync for Job {}

/// A work item.
///
/// # Invariants
///
/// The work is initialised with [`run`] and does not move. It does not run any more when this is dropped, and the job's row
/// outlives it.
#[pin_data(PinnedDrop)]
#[repr(C)]
struct Worker {
    #[pin]
    work: Opaque<bindings::work_struct>,
    job: Arc<Job>,
    lane: usize,
}

impl Worker {
    /// A work item that is not queued yet. It is dropped before the job's row is.
    fn new(job: Arc<Job>, lane: usize) -> impl PinInit<Self> {
        // INVARIANT: The work is initialised here and pinned from here on; the caller promises the rest.
        pin_init!(Self {
            work <- Opaque::ffi_init(|slot: *mut bindings::work_struct| {
                // SAFETY: The slot is valid for writing, and pinned from here on.
                unsafe { raw::dmaplane_init_work(slot, Some(run)) };
            }),
            job,
            lane,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Worker {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the work is initialised. This waits for a running one, for a chunk at most once
        // the job was stopped.
        unsafe { bindings::disable_work_sync(self.work.get()) };
    }
}

fn in_parallel(row: &[NonNull<bindings::page>], lanes: KVec<Lane>, limit: usize) -> Result {
    let done = Completion::new()?;
    // At least one for each lane, whatever the limit says: each serves its own node only.
    let share = limit.checked_div(lanes.len()).unwrap_or(1).max(1);
    let count = |lane: &Lane| lane.workers.min(share);
    let total = lanes.iter().map(count).sum::<usize>();
    let job = Arc::new(
        Job {
            row: ptr::from_ref(row),
            left: AtomicUsize::new(total),
            stop: AtomicBool::new(false),
            done: done.clone(),
            lanes,
        },
        GFP_CHARGED,
    )?;
    let mut workers = KVec::with_capacity(total, GFP_CHARGED)?;
    for (index, lane) in job.lanes.iter().enumerate() {
        for _ in 0..count(lane) {
            let worker = KBox::pin_init(Worker::new(job.clone(), index), GFP_CHARGED)?;
            workers.push(worker, GFP_CHARGED)?;
        }
    }
    for worker in workers.iter() {
        let lane = job.lanes.get(worker.lane).ok_or(EINVAL)?;
        // SAFETY: By the type invariant the work is initialised, and it is queued once.
        unsafe { raw::dmaplane_queue_on_node(lane.node, worker.work.get()) };
    }
    let finished = done.wait_killable();
    job.stop.store(true, Ordering::Relaxed);
    // Waits for running work items, so that their writes are done and seen.
    drop(workers);
    if finished {
        Ok(())
    } else {
        Err(EINTR)
    }
}

/// # Safety
///
/// Called by the workqueue with the work of a [`Worker`].
unsafe extern "C" fn run(work: *mut bindings::work_struct) {
    // SAFETY: By the caller's promise; the worker is not dropped before this has run.
    let worker = unsafe { &*container_of!(Opaque::cast_from(work), Worker, work) };
    let job = &*worker.job;
    // SAFETY: By the type invariant the row is alive.
    let row = unsafe { &*job.row };
    let Some(lane) = job.lanes.get(worker.lane) else {
        return;
    };
    while !job.stop.load(Ordering::Relaxed) {
        let index = lane.next.fetch_add(1, Ordering::Relaxed);
        // The same bounds as those of `chunks()`, in which an older compiler sees a possible panic.
        let start = index.saturating_mul(CHUNK).min(row.len());
        let end = start.saturating_add(CHUNK).min(row.len());
        let chunk = match row.get(start..end) {
            Some(chunk) if !chunk.is_empty() => chunk,
            _ => break,
        };
        if node_of(chunk) == lane.node {
            // SAFETY: The caller of `zero()` keeps the pages alive. Each chunk belongs to one lane and is taken once.
            unsafe { zero_chunk(chunk) };
        }
    }
    if job.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        job.done.set();
    }
}
