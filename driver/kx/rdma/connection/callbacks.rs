// SPDX-License-Identifier: GPL-2.0-only

//! Completions. The completion queue's work item calls these one at a time, in process context.
//!
//! Common to all: the queue's context is the [`Connection`], which outlives the drain, and the drain waits for the
//! callbacks. A completion's `wr_cqe` is the entry that was posted.

use super::{post::RegistrationRequest, Connection, InCallback, MessageSlot, Queue, ReceiveSlot};
use crate::{
    faults::{FAULTS, LATE_MS},
    kx::rdma::{raw, transfer::Transfer, Status},
    logic::wire::MESSAGE_BYTES,
    windows::WINDOWS,
};
use core::sync::atomic::Ordering;
use kernel::{container_of, prelude::*};

/// Runs `tell` with the connection's view for callbacks, after giving `requests` places in the send queue
/// back, that of a READ's step if `step` says so.
///
/// # Safety
///
/// `queue` is a completion queue that [`Connection::open`] made with the same `Q`, in one of its callbacks.
unsafe fn in_callback<Q: Queue>(
    queue: *mut raw::ib_cq,
    (requests, step): (u32, bool),
    tell: impl FnOnce(&Q, &InCallback<'_, Q>),
) {
    FAULTS.complete_delay.stall(LATE_MS);
    // SAFETY: The context was set at the queue's making and outlives its callbacks.
    let connection = unsafe { &*(*queue).cq_context.cast::<Connection<Q>>() };
    let id = {
        let mut gate = connection.gate.lock();
        gate.send_free += requests;
        gate.in_step &= !step;
        gate.id
    };
    // Set before the first request was posted, cleared after the drain: there always is one.
    if let Some(id) = id {
        tell(&connection.owner, &InCallback { connection, id });
    }
}

/// The entry and the status of a completion.
///
/// # Safety
///
/// `completion` is what a callback was given.
unsafe fn parts(completion: *mut raw::ib_wc) -> (*mut raw::ib_cqe, Status) {
    // SAFETY: The caller's promise; queues made by `ib_alloc_cq` carry entries, not numbers.
    unsafe {
        (
            *(*completion).__bindgen_anon_1.wr_cqe,
            Status((*completion).status),
        )
    }
}

/// What a receive brought.
#[allow(clippy::large_enum_variant)] // Reason: it lives on the stack for a moment.
enum Arrival {
    /// The peer's WRITE_IMM, with its immediate.
    Data(u32),
    /// A control message, unless teardown has begun.
    Message(Option<[u8; MESSAGE_BYTES]>),
    /// Something that this protocol does not have; the key that it had the provider invalidate, if any.
    Unexpected(Option<u32>),
}

/// A receive completed.
///
/// # Safety
///
/// See the module's head; the entry is a [`ReceiveSlot`]'s.
pub(super) unsafe extern "C" fn received<Q: Queue>(
    queue: *mut raw::ib_cq,
    completion: *mut raw::ib_wc,
) {
    // SAFETY: This callback's own arguments.
    let (entry, status) = unsafe { parts(completion) };
    let status = status.or_failed(&FAULTS.complete_receive);
    // SAFETY: The entry is part of a slot, which lives until after the drain.
    let index = unsafe { (*container_of!(entry, ReceiveSlot, cqe)).index };
    // SAFETY: As above.
    unsafe {
        in_callback::<Q>(queue, (0, false), |owner, view| {
            if !status.is_success() {
                owner.receive_ended(view, status);
                return;
            }
            let opcode = (*completion).opcode;
            let length = (*completion).byte_len;
            let flags = (*completion).wc_flags;
            let arrival = match opcode {
                // The provider has done it already, whoever's key it was. Data never comes with it, by the specification.
                _ if flags & raw::ib_wc_flags_IB_WC_WITH_INVALIDATE as i32 != 0 => {
                    Arrival::Unexpected(Some(*(*completion).ex.invalidate_rkey))
                }
                raw::ib_wc_opcode_IB_WC_RECV_RDMA_WITH_IMM => {
                    Arrival::Data(u32::from_be(*(*completion).ex.imm_data))
                }
                raw::ib_wc_opcode_IB_WC_RECV if length as usize == MESSAGE_BYTES => {
                    Arrival::Message(view.connection.message(index))
                }
                _ => Arrival::Unexpected(None),
            };
            // The receive goes back first: the peer may learn of the room for it only afterwards.
            if view.connection.post_receive(index).is_err() {
                return owner.receive_lost(view);
            }
            match arrival {
                Arrival::Data(imm) => owner.data(view, imm, length),
                Arrival::Message(Some(message)) => owner.message(view, &message),
                // Teardown has begun, and nobody wants messages any more.
                Arrival::Message(None) => {}
                Arrival::Unexpected(key) => owner.unexpected(view, key),
            }
        });
    }
}

/// A message was sent, or flushed.
///
/// # Safety
///
/// See the module's head; the entry is a [`MessageSlot`]'s.
pub(super) unsafe extern "C" fn message_sent<Q: Queue>(
    queue: *mut raw::ib_cq,
    completion: *mut raw::ib_wc,
) {
    // SAFETY: This callback's own arguments.
    let (entry, status) = unsafe { parts(completion) };
    let status = status.or_failed(&FAULTS.complete_message);
    // SAFETY: The entry is part of a slot, which lives until after the drain.
    let index = unsafe { (*container_of!(entry, MessageSlot, cqe)).index };
    // SAFETY: As above.
    unsafe {
        in_callback::<Q>(queue, (0, false), |owner, view| {
            // Told first: the slot's next use must not find this one's owner.
            owner.message_done(view, index, status);
            // It came from this list, so there is room, unless teardown took the list away.
            let _ = view
                .connection
                .gate
                .lock()
                .free_messages
                .push_within_capacity(index);
            owner.slot_freed(view);
        });
    }
}

/// The last request of an operation completed, or a step of a READ.
///
/// # Safety
///
/// See the module's head; the entry is the `last` of a boxed [`Transfer`] that was posted.
pub(super) unsafe extern "C" fn transfer_done<Q: Queue>(
    queue: *mut raw::ib_cq,
    completion: *mut raw::ib_wc,
) {
    // SAFETY: This callback's own arguments.
    let (entry, status) = unsafe { parts(completion) };
    // SAFETY: Posting turned the box into this pointer; the provider is done with all its requests,
    // because this is the last and they complete in order.
    let transfer = unsafe { KBox::from_raw(container_of!(entry, Transfer<Q::Op>, last)) };
    if transfer.count() > 1 {
        // As its part would have noted it, see below.
        transfer.note(status.or_failed(&FAULTS.complete_part));
    }
    let flushed = status.is_success() && FAULTS.complete_flush.fires();
    transfer.note(if flushed {
        Status::FLUSHED
    } else {
        status.or_failed(&FAULTS.complete_error)
    });
    let (count, in_steps) = (transfer.count() as u32, transfer.has_steps());
    // SAFETY: This callback's own queue.
    unsafe {
        in_callback::<Q>(queue, (count, in_steps), |owner, view| {
            if flushed {
                // The other queue pairs' way there is an error of their own.
                view.disconnect();
            }
            let over = if in_steps && transfer.status().is_success() {
                owner.read_on(view, transfer)
            } else {
                Some(transfer)
            };
            let Some(transfer) = over else { return };
            view.connection.gate.lock().reading &= !in_steps;
            let status = transfer.status();
            if let Some(op) = Transfer::into_body(transfer) {
                owner.op_done(view, op, status);
            }
        });
    };
}

/// Another request of an operation failed; its last one is still to come.
///
/// # Safety
///
/// See the module's head; the entry is the `part` of a boxed [`Transfer`] that was posted.
pub(super) unsafe extern "C" fn transfer_part<Q: Queue>(
    _queue: *mut raw::ib_cq,
    completion: *mut raw::ib_wc,
) {
    // SAFETY: This callback's own arguments.
    let (entry, status) = unsafe { parts(completion) };
    // SAFETY: The last request keeps the transfer until its own completion, which follows.
    unsafe { (*container_of!(entry, Transfer<Q::Op>, part)).note(status) };
}

/// A registration completed.
///
/// # Safety
///
/// See the module's head; the entry is a boxed [`RegistrationRequest`]'s.
pub(super) unsafe extern "C" fn registered<Q: Queue>(
    queue: *mut raw::ib_cq,
    completion: *mut raw::ib_wc,
) {
    // SAFETY: This callback's own arguments.
    let (entry, status) = unsafe { parts(completion) };
    // SAFETY: Posting turned the box into this pointer, and the provider is done with it.
    let request = unsafe { KBox::from_raw(container_of!(entry, RegistrationRequest, cqe)) };
    let ended = status.or_failed(&FAULTS.complete_register);
    let broken = status.is_success() && !ended.is_success();
    WINDOWS.registered.pass();
    request.wait.status.store(ended.0, Ordering::Relaxed);
    request.wait.done.set();
    drop(request);
    // SAFETY: This callback's own queue.
    unsafe {
        in_callback::<Q>(queue, (0, false), |_, view| {
            if broken {
                // A provider that fails a request has the queue pair in error.
                view.disconnect();
            }
            view.connection.gate.lock().registrations_free += 1;
        });
    };
}
