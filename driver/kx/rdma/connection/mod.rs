// SPDX-License-Identifier: GPL-2.0-only

//! A queue pair with its completion queue and connection identifier, torn down as one.
//!
//! Would become part of `kernel::rdma`.
//!
//! # Locks
//! `verbs` (mutex) is held while the connection is made and while it is torn down, and by nobody else. `gate`
//! (spinlock) guards posting: teardown closes it first, so that nothing is posted behind the drain.
//! Completion callbacks run one at a time in process context and never take `verbs`.
//!
//! # Teardown
//! close the gate → disconnect → drain (every work request's callback has run), or reset what never came up → destroy the
//! queue pair → free the completion queue → destroy the identifier (its events have ended) → unmap the message
//! buffers. Each step relies on the ones before it.

mod callbacks;
mod post;

pub(crate) use post::{Posted, Registration};

use super::{
    buffers::Buffers,
    cm::{CmId, Handler},
    hooks::Hooks,
    pd::Pd,
    quirks, raw,
    transfer::Transfer,
    Status, NAME,
};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    kx::box_queue::BoxQueue,
    logic::{flow, wire::MESSAGE_BYTES},
};
use core::ptr::{self, NonNull};
use kernel::{
    error::{from_err_ptr, to_result},
    new_mutex, new_spinlock,
    prelude::*,
    sync::{Arc, Mutex, SpinLock},
};

/// Most work requests of operations that may be under way.
pub(crate) const SEND_DEPTH: u32 = 256;
/// Most messages whose completion may be outstanding.
pub(crate) const MESSAGE_SLOTS: u32 = flow::CONTROL + flow::CREDIT + flow::WILL;
/// Most registrations that may be under way.
const REGISTRATIONS: u32 = 16;
/// The markers that drain the two queues.
const DRAIN: u32 = 2;

/// Work requests of all kinds that may be under way.
const SENDS: u32 = SEND_DEPTH + MESSAGE_SLOTS + REGISTRATIONS;

/// Work requests that a device's queues must hold for any connection.
pub(crate) const LEAST_QUEUE_ENTRIES: u32 = SENDS + DRAIN;

/// Estimate of the bytes that a provider takes for the queues of a connection whose user has `depth` receives. The
/// numbers are rxe's, whose queues are `vmalloc()`ed and charged to nobody: bytes for an entry of each kind, and a
/// power of two of entries.
pub(crate) fn queue_bytes(depth: u32) -> u64 {
    let receives = flow::receive_queue_entries(depth);
    let queue = |entries: u32, bytes| u64::from(entries.next_power_of_two()) * bytes;
    queue(SENDS, 384) + queue(receives, 96) + queue(receives + SENDS, 64)
}

/// The owner of the operations on a connection, which handles what arrives.
///
/// All methods run in process context, one at a time, and may sleep. They must not tear the connection down.
pub(crate) trait Queue: Handler {
    /// What the owner keeps for each operation.
    type Op: Send;
    /// What the owner keeps for each registration.
    type Registration: Send;

    /// Where tests interfere.
    fn hooks() -> &'static Hooks;
    /// Whether the connection was ever up, so that the peer may have sent something. Takes no lock.
    fn was_up(&self) -> bool;
    /// A step of an operation is over. Posts the next one by [`Connection::post_step`], or returns the transfer, which
    /// is then over.
    fn read_on(
        &self,
        connection: &InCallback<'_, Self>,
        transfer: KBox<Transfer<Self::Op>>,
    ) -> Option<KBox<Transfer<Self::Op>>>;
    /// An operation is over: the provider has returned all its work requests.
    fn op_done(&self, connection: &InCallback<'_, Self>, op: Self::Op, status: Status);
    /// Whether a registration shall go on with its next region; it ends with `ESTALE` otherwise. Takes no lock.
    fn is_wanted(&self, registration: &Self::Registration) -> bool;
    /// A registration is over. `result` says whether all of its regions are registered.
    fn registered(
        &self,
        connection: &InCallback<'_, Self>,
        registration: Self::Registration,
        result: Result,
    );
    /// A registration will not be begun: the connection is gone.
    fn unregistered(&self, registration: Self::Registration);
    /// A control message arrived. Its receive has been posted again already.
    fn message(&self, connection: &InCallback<'_, Self>, message: &[u8; MESSAGE_BYTES]);
    /// The peer's WRITE_IMM arrived. Its receive has been posted again already.
    fn data(&self, connection: &InCallback<'_, Self>, imm: u32, length: u32);
    /// Something arrived that cannot be reported, because its receive could not be posted again.
    fn receive_lost(&self, connection: &InCallback<'_, Self>);
    /// Something arrived that the protocol does not have. Its receive is not posted again. `key` is the one that the
    /// provider invalidated for it.
    fn unexpected(&self, connection: &InCallback<'_, Self>, key: Option<u32>);
    /// A message was sent or flushed, and its slot is about to be free again.
    fn message_done(&self, connection: &InCallback<'_, Self>, slot: u16, status: Status);
    /// A message's slot is free again.
    fn slot_freed(&self, connection: &InCallback<'_, Self>);
    /// The receive queue is in error: nothing will arrive any more.
    fn receive_ended(&self, connection: &InCallback<'_, Self>, status: Status);
}

/// A connection during one of its callbacks, when its parts are known to be alive.
pub(crate) struct InCallback<'a, Q: Queue> {
    connection: &'a Connection<Q>,
    id: NonNull<raw::rdma_cm_id>,
}

impl<Q: Queue> InCallback<'_, Q> {
    /// The connection.
    pub(crate) fn connection(&self) -> &Connection<Q> {
        self.connection
    }

    /// Moves the queue pair to the error state and notifies the peer. Everything under way is flushed.
    pub(crate) fn disconnect(&self) {
        // SAFETY: The identifier outlives the drain, and the drain waits for this callback. A failure means that it was
        // not connected any more.
        let _ = unsafe { raw::rdma_disconnect(self.id.as_ptr()) };
    }
}

/// One receive: its completion names the slot.
#[repr(C)]
struct ReceiveSlot {
    cqe: raw::ib_cqe,
    index: usize,
}

/// One message under way.
#[repr(C)]
struct MessageSlot {
    cqe: raw::ib_cqe,
    index: u16,
}

/// What posting needs; protected by the gate.
///
/// # Invariants
///
/// While `queue_pair` is `Some`, it is alive, and so are the buffers in `parts` while that is `Some`: longer, until the
/// drain is over. `id` is alive as long as completion callbacks run, and only they use it.
struct Gate<Op, Body> {
    id: Option<NonNull<raw::rdma_cm_id>>,
    queue_pair: Option<NonNull<raw::ib_qp>>,
    parts: Option<NonNull<Parts>>,
    send_free: u32,
    /// Whether READs go in steps, behind which nothing goes to the peer before they have completed; see
    /// [`quirks::reads_alone`].
    reads_alone: bool,
    /// Whether an operation in steps is under way: others wait for its end.
    stepping: bool,
    /// Whether a step of such a READ is under way: messages wait for its end.
    in_step: bool,
    /// Free slots for registrations.
    registrations_free: u32,
    /// Registrations that wait for a slot.
    registrations: BoxQueue<Registration<Body>>,
    free_messages: KVec<u16>,
    /// Operations that the provider took only in part; see [`Connection::post`].
    stranded: BoxQueue<Transfer<Op>>,
}

// SAFETY: The pointers are used under the gate's lock only, and queue pairs lock themselves.
unsafe impl<Op: Send, Body: Send> Send for Gate<Op, Body> {}

/// Buffers and slots, at a stable address. Read-only while the connection lives, except for the contents of the message
/// buffers, which the free list hands out.
struct Parts {
    lkey: u32,
    /// One more than there are receives: nobody reads what arrives in the last.
    receive_buffers: Buffers,
    receives: KVVec<ReceiveSlot>,
    message_buffers: Buffers,
    messages: KVec<MessageSlot>,
}

/// The provider's objects. Field order is drop order: the identifier's events have ended before the buffers go.
struct Verbs<Q: Queue> {
    queue_pair: NonNull<raw::ib_qp>,
    completion_queue: NonNull<raw::ib_cq>,
    id: CmId<Q>,
    _parts: KBox<Parts>,
}

// SAFETY: Queue pairs, completion queues and identifiers lock themselves; the pointers in the parts are
// not tied to a thread.
unsafe impl<Q: Queue> Send for Verbs<Q> {}

/// A connection. Made closed, opened once, shut down any number of times.
///
/// # Invariants
///
/// The gate is open only while `verbs` is `Some`, and the completion queue's context is this object, which
/// lives until [`Self::shutdown`] has drained it.
#[pin_data(PinnedDrop)]
pub(crate) struct Connection<Q: Queue> {
    #[pin]
    gate: SpinLock<Gate<Q::Op, Q::Registration>>,
    #[pin]
    verbs: Mutex<Option<Verbs<Q>>>,
    owner: Arc<Q>,
}

impl<Q: Queue> Connection<Q> {
    /// A connection that is not open yet.
    pub(crate) fn new(owner: Arc<Q>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                gate <- new_spinlock!(Gate {
                    id: None,
                    queue_pair: None,
                    parts: None,
                    send_free: 0,
                    reads_alone: false,
                    stepping: false,
                    in_step: false,
                    registrations_free: 0,
                    registrations: BoxQueue::new(),
                    free_messages: KVec::new(),
                    stranded: BoxQueue::new(),
                }, "Connection::gate"),
                verbs <- new_mutex!(None, "Connection::verbs"),
                owner,
            }),
            GFP_CHARGED,
        )
    }

    /// Makes the queue pair on `id`'s device and posts all receives. `depth` is the number of receives that
    /// the owner's user may post.
    pub(crate) fn open(self: &Arc<Self>, id: CmId<Q>, pd: &Pd, depth: u32) -> Result {
        if !Arc::ptr_eq(id.handler(), &self.owner) || id.device() != Some(pd.device()) {
            return Err(EINVAL);
        }
        let receives = flow::receive_queue_entries(depth);
        if receives.max(SENDS) + DRAIN > pd.device().capabilities().queue_entries {
            return Err(EOPNOTSUPP);
        }
        let parts = Parts::new::<Q>(pd, receives)?;
        let mut free_messages = KVec::with_capacity(MESSAGE_SLOTS as usize, GFP_CHARGED)?;
        for index in 0..MESSAGE_SLOTS as u16 {
            free_messages.push(index, GFP_CHARGED)?;
        }
        let mut verbs = self.verbs.lock();
        if verbs.is_some() {
            return Err(EBUSY);
        }
        id.set_ack_timeout();
        let id_pointer = NonNull::new(id.as_ptr()).ok_or(EINVAL)?;
        let completion_queue = self.completion_queue(pd, receives + SENDS + 2 * DRAIN)?;
        let queue_pair = match queue_pair(&id, pd, completion_queue, receives + 1, SENDS + 1) {
            Ok(queue_pair) => queue_pair,
            Err(error) => {
                // SAFETY: Made above, and no queue pair uses it.
                unsafe { raw::ib_free_cq(completion_queue.as_ptr()) };
                return Err(error);
            }
        };
        let parts_pointer = NonNull::from(&*parts);
        *verbs = Some(Verbs {
            queue_pair,
            completion_queue,
            id,
            _parts: parts,
        });
        {
            let mut gate = self.gate.lock();
            // INVARIANT: Both are alive until `shutdown()` has closed the gate.
            gate.id = Some(id_pointer);
            gate.queue_pair = Some(queue_pair);
            gate.parts = Some(parts_pointer);
            gate.send_free = SEND_DEPTH;
            gate.reads_alone = quirks::reads_alone(pd.device());
            gate.registrations_free = REGISTRATIONS;
            gate.free_messages = free_messages;
        }
        drop(verbs);
        for index in 0..receives as usize {
            if let Err(error) = self.post_receive(index) {
                self.shutdown();
                return Err(error);
            }
        }
        Ok(())
    }

    fn completion_queue(&self, pd: &Pd, entries: u32) -> Result<NonNull<raw::ib_cq>> {
        // SAFETY: The device is alive by the domain's invariant. The context is used by callbacks only, which
        // end with the drain.
        let queue = from_err_ptr(unsafe {
            raw::__ib_alloc_cq_any(
                pd.device().as_ptr(),
                ptr::from_ref(self).cast_mut().cast(),
                i32::try_from(entries).map_err(|_| EINVAL)?,
                raw::ib_poll_context_IB_POLL_WORKQUEUE,
                NAME.as_char_ptr(),
            )
        })?;
        NonNull::new(queue).ok_or(ENOMEM)
    }

    /// Moves the queue pair to the error state and notifies the peer: everything under way is flushed. May sleep.
    pub(crate) fn disconnect(&self) {
        // If it is not open, another thread is tearing it down, which flushes as well.
        let _ = self.with_id(|id| {
            id.disconnect();
            Ok(())
        });
    }

    /// Runs `use_id` on the identifier; `ESHUTDOWN` when the connection is not open.
    pub(crate) fn with_id<R>(&self, use_id: impl FnOnce(&CmId<Q>) -> Result<R>) -> Result<R> {
        let verbs = self.verbs.lock();
        use_id(&verbs.as_ref().ok_or(ESHUTDOWN)?.id)
    }

    /// Tears the connection down. When it returns, every callback has run and none will run again,
    /// whoever called it first. Must not be called from a callback or an event.
    pub(crate) fn shutdown(&self) {
        let mut slot = self.verbs.lock();
        let Some(verbs) = slot.take() else { return };
        let free_messages = {
            let mut gate = self.gate.lock();
            // The buffers stay: the drain delivers what arrived before.
            gate.queue_pair = None;
            core::mem::take(&mut gate.free_messages)
        };
        drop(free_messages);
        // SAFETY: Everything is alive and only ours, because the gate is closed. The queues have room for the drain's
        // markers, which were counted when the queues were made. A queue pair that was reset has nothing to drain, and
        // what its completion queue still holds is discarded: `ib_free_cq()` waits for a running callback. The mutex is
        // held throughout, so a second caller returns only when everything is gone.
        //
        // A connection that never came up is reset, whoever ends it and why: its provider may have run out of memory
        // during the setup, see `CmId::reset()`, and nothing but receives was posted on it, whose completions nobody
        // waits for. A connection that was up is drained: its drain ends, and its peer may be sending, which a queue
        // pair that is reset does not expect.
        unsafe {
            // A failure means that it was not connected any more.
            let _ = raw::rdma_disconnect(verbs.id.as_ptr());
            if self.owner.was_up() || !verbs.id.reset() {
                raw::ib_drain_qp(verbs.queue_pair.as_ptr());
            }
            raw::rdma_destroy_qp(verbs.id.as_ptr());
            raw::ib_free_cq(verbs.completion_queue.as_ptr());
        }
        let (stranded, mut unregistered) = {
            let mut gate = self.gate.lock();
            gate.id = None;
            gate.parts = None;
            (
                core::mem::replace(&mut gate.stranded, BoxQueue::new()),
                core::mem::replace(&mut gate.registrations, BoxQueue::new()),
            )
        };
        drop(stranded);
        while let Some(registration) = unregistered.pop() {
            self.owner
                .unregistered(Registration::into_body(registration));
        }
        drop(verbs);
    }
}

#[pinned_drop]
impl<Q: Queue> PinnedDrop for Connection<Q> {
    fn drop(self: Pin<&mut Self>) {
        self.shutdown();
    }
}

impl Parts {
    fn new<Q: Queue>(pd: &Pd, receives: u32) -> Result<KBox<Self>> {
        let mut receive_slots = KVVec::with_capacity(receives as usize, GFP_CHARGED)?;
        for index in 0..receives as usize {
            let cqe = raw::ib_cqe {
                done: Some(callbacks::received::<Q>),
            };
            receive_slots.push(ReceiveSlot { cqe, index }, GFP_CHARGED)?;
        }
        let mut messages = KVec::with_capacity(MESSAGE_SLOTS as usize, GFP_CHARGED)?;
        for index in 0..MESSAGE_SLOTS as u16 {
            let cqe = raw::ib_cqe {
                done: Some(callbacks::message_sent::<Q>),
            };
            messages.push(MessageSlot { cqe, index }, GFP_CHARGED)?;
        }
        Ok(KBox::new(
            Self {
                lkey: pd.local_dma_lkey(),
                receive_buffers: Buffers::new(
                    pd.device(),
                    receives as usize + 1,
                    false,
                    Q::hooks(),
                )?,
                receives: receive_slots,
                message_buffers: Buffers::new(
                    pd.device(),
                    MESSAGE_SLOTS as usize,
                    true,
                    Q::hooks(),
                )?,
                messages,
            },
            GFP_CHARGED,
        )?)
    }

    /// Memory for data that nobody reads.
    fn scratch(&self) -> Result<raw::ib_sge> {
        self.receive_buffers.sge(self.receives.len(), self.lkey)
    }
}

fn queue_pair<Q: Queue>(
    id: &CmId<Q>,
    pd: &Pd,
    completion_queue: NonNull<raw::ib_cq>,
    receives: u32,
    sends: u32,
) -> Result<NonNull<raw::ib_qp>> {
    let mut attributes = raw::ib_qp_init_attr {
        send_cq: completion_queue.as_ptr(),
        recv_cq: completion_queue.as_ptr(),
        sq_sig_type: raw::ib_sig_type_IB_SIGNAL_REQ_WR,
        qp_type: raw::ib_qp_type_IB_QPT_RC,
        ..Default::default()
    };
    attributes.cap.max_send_wr = sends;
    attributes.cap.max_recv_wr = receives;
    attributes.cap.max_send_sge = 1;
    attributes.cap.max_recv_sge = 1;
    // SAFETY: The identifier and the domain are alive and on the same device, which the caller checked.
    to_result(unsafe { raw::rdma_create_qp(id.as_ptr(), pd.as_ptr(), &mut attributes) })?;
    // SAFETY: A success sets the identifier's queue pair.
    NonNull::new(unsafe { (*id.as_ptr()).qp }).ok_or(EIO)
}
