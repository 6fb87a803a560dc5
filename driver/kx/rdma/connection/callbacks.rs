// SPDX-License-Identifier: GPL-2.0-only

//! Completion callbacks. The completion queue's work item calls these one at a time, in process context.
//!
//! Would become part of `kernel::rdma`.
//!
//! Common to all: the queue's context is the [`Connection`], which outlives the drain, and the drain waits for the
//! callbacks. A completion's `wr_cqe` is the entry that was posted.

use super::{post::Registration, Connection, InCallback, MessageSlot, Queue, ReceiveSlot};
use crate::{
    kx::rdma::{raw, transfer::Transfer, Status},
    logic::wire::MESSAGE_BYTES,
};
use kernel::{container_of, prelude::*};

/// Runs `notify` with the connection's view for callbacks, after returning `requests` slots to the send queue, and the
/// slot of a READ's step if `step` is set.
///
/// # Safety
///
/// `queue` is a completion queue that [`Connection::open`] made with the same `Q`, in one of its callbacks.
unsafe fn in_callback<Q: Queue>(
    queue: *mut raw::ib_cq,
    (requests, step): (u32, bool),
    notify: impl FnOnce(&Q, &InCallback<'_, Q>),
) {
    Q::hooks().complete_delay.stall(Q::hooks().late_ms);
    // SAFETY: The context was set when the queue was made, and outlives its callbacks.
    let connection = unsafe { &*(*queue).cq_context.cast::<Connection<Q>>() };
    let id = {
        let mut gate = connection.gate.lock();
        gate.send_free += requests;
        gate.in_step &= !step;
        gate.id
    };
    // Set before the first request was posted, cleared after the drain: there always is one.
    if let Some(id) = id {
        notify(&connection.owner, &InCallback { connection, id });
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

/// What a receive completed with.
#[allow(clippy::large_enum_variant)] // Reason: it lives on the stack for a moment.
enum Arrival {
    /// The peer's WRITE_IMM, with its immediate.
    Data(u32),
    /// A control message.
    Message([u8; MESSAGE_BYTES]),
}

/// Handles the completion of a receive.
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
    let status = status.or_failed(Q::hooks().complete_receive);
    // SAFETY: The entry is part of a slot, which lives until after the drain.
    let index = unsafe { (*container_of!(entry, ReceiveSlot, cqe)).index };
    // SAFETY: This callback's own queue and completion, which are alive during the call.
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
                // The provider has invalidated the key already, whoever owned it. Data never comes with it, by the
                // specification. The endpoint ends, so no receive is posted again.
                _ if flags & raw::ib_wc_flags_IB_WC_WITH_INVALIDATE as i32 != 0 => {
                    let key = *(*completion).ex.invalidate_rkey;
                    return owner.unexpected(view, Some(key));
                }
                raw::ib_wc_opcode_IB_WC_RECV_RDMA_WITH_IMM => {
                    Arrival::Data(u32::from_be(*(*completion).ex.imm_data))
                }
                raw::ib_wc_opcode_IB_WC_RECV if length as usize == MESSAGE_BYTES => {
                    match view.connection.message(index) {
                        Some(message) => Arrival::Message(message),
                        // The buffers outlive this callback, so only what was asked for wrongly is not there.
                        None => return owner.receive_lost(view),
                    }
                }
                _ => return owner.unexpected(view, None),
            };
            // The receive is posted again first: the peer may learn of the room for it only afterwards.
            if view.connection.post_receive(index).is_err() {
                return owner.receive_lost(view);
            }
            match arrival {
                Arrival::Data(imm) => owner.data(view, imm, length),
                Arrival::Message(message) => owner.message(view, &message),
            }
        });
    }
}

/// Handles the completion of a message, which was sent or flushed.
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
    let status = status.or_failed(Q::hooks().complete_message);
    // SAFETY: The entry is part of a slot, which lives until after the drain.
    let index = unsafe { (*container_of!(entry, MessageSlot, cqe)).index };
    // SAFETY: This callback's own queue.
    unsafe {
        in_callback::<Q>(queue, (0, false), |owner, view| {
            // Reported first: the slot's next use must not find the owner of this one.
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

/// Handles the completion of an operation's last request, or of a step.
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
        // As `transfer_part()` would have noted it.
        transfer.note(status.or_failed(Q::hooks().complete_part));
    }
    let flushed = status.is_success() && Q::hooks().complete_flush.fires();
    transfer.note(if flushed {
        Status::FLUSHED
    } else {
        status.or_failed(Q::hooks().complete_error)
    });
    let (count, in_steps) = (transfer.count() as u32, transfer.has_steps());
    // SAFETY: This callback's own queue.
    unsafe {
        in_callback::<Q>(queue, (count, in_steps), |owner, view| {
            if flushed {
                // Other queue pairs get there by an error of their own.
                view.disconnect();
            }
            let over = if in_steps && transfer.status().is_success() {
                owner.read_on(view, transfer)
            } else {
                Some(transfer)
            };
            let Some(transfer) = over else { return };
            view.connection.gate.lock().stepping &= !in_steps;
            let status = transfer.status();
            if let Some(op) = Transfer::into_body(transfer) {
                owner.op_done(view, op, status);
            }
        });
    };
}

/// Handles the failure of another request of an operation, whose last one is still to come.
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

/// Handles the completion of a registration's request.
///
/// # Safety
///
/// See the module's head; the entry is a boxed [`Registration`]'s.
pub(super) unsafe extern "C" fn registered<Q: Queue>(
    queue: *mut raw::ib_cq,
    completion: *mut raw::ib_wc,
) {
    // SAFETY: This callback's own arguments.
    let (entry, status) = unsafe { parts(completion) };
    // SAFETY: Posting turned the box into this pointer, and the provider is done with it.
    let registration =
        unsafe { KBox::from_raw(container_of!(entry, Registration<Q::Registration>, cqe)) };
    let ended = status.or_failed(Q::hooks().complete_register);
    let broken = status.is_success() && !ended.is_success();
    (Q::hooks().registration_done)();
    let answer = match ended.is_success() {
        true => Ok(()),
        false => Err(ENOTCONN),
    };
    // SAFETY: This callback's own queue.
    unsafe {
        in_callback::<Q>(queue, (0, false), |owner, view| {
            if broken {
                // A provider that fails a request puts the queue pair into the error state.
                view.disconnect();
            }
            view.connection
                .register_on(registration, answer, |body, result| {
                    owner.registered(view, body, result);
                });
        });
    };
}
