// SPDX-License-Identifier: GPL-2.0-only

//! Posting work requests. Everything here runs under the gate and never sleeps while it is held.

use super::{
    callbacks::{registered, transfer_done, transfer_part},
    Connection, Queue,
};
use crate::{
    faults::FAULTS,
    kx::{
        rdma::{mr::RegionSet, raw, transfer::Transfer, Status},
        signal::Signal,
    },
    logic::wire::MESSAGE_BYTES,
};
use core::{
    mem::ManuallyDrop,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};
use kernel::{error::to_result, prelude::*, sync::Arc};

/// The wait for a registration.
pub(super) struct Registration {
    pub(super) status: AtomicU32,
    pub(super) done: Arc<Signal>,
}

/// A registration under way. It keeps the regions until the provider has answered.
#[repr(C)]
pub(super) struct RegistrationRequest {
    pub(super) cqe: raw::ib_cqe,
    request: raw::ib_reg_wr,
    pub(super) wait: Arc<Registration>,
    _regions: Arc<RegionSet>,
}

/// How much of an operation the provider took.
pub(crate) enum Posted {
    /// All of it.
    Whole,
    /// Not all: the connection is of no use any more, and must be ended.
    InPart,
}

/// Why an operation was not posted, and the operation.
pub(crate) type Refused<Op> = (Error, KBox<Transfer<Op>>);

impl<Q: Queue> Connection<Q> {
    /// Posts an operation's work requests. `EAGAIN` when the send queue has no room for them, or a READ
    /// is to come back first: then the operation waits for another one's end. `ESHUTDOWN` after teardown began.
    pub(crate) fn post(
        &self,
        transfer: KBox<Transfer<Q::Op>>,
    ) -> core::result::Result<Posted, Refused<Q::Op>> {
        let mut gate = self.gate.lock();
        let Some(queue_pair) = gate.queue_pair else {
            return Err((ESHUTDOWN, transfer));
        };
        let count = transfer.count() as u32;
        if count == 0 {
            return Err((EINVAL, transfer));
        }
        if gate.send_free < count || gate.reading {
            return Err((EAGAIN, transfer));
        }
        let in_steps = transfer.has_steps();
        if FAULTS.post_send.fires() {
            return Err((ENOMEM, transfer));
        }
        let raw_transfer = KBox::into_raw(transfer);
        let last = raw::ib_cqe {
            done: Some(transfer_done::<Q>),
        };
        let part = raw::ib_cqe {
            done: Some(transfer_part::<Q>),
        };
        let mut refused = ptr::null();
        // SAFETY: Ours from the box just above; its address is stable now. By the gate's invariant the queue
        // pair is alive. The last request's callback takes the box back.
        let (first, result) = unsafe {
            let step = (*raw_transfer).has_steps();
            let step = step.then(|| (*raw_transfer).first_step(last)).flatten();
            let first = step.unwrap_or_else(|| (*raw_transfer).link(last, part));
            // Then what follows the first is refused, and the last will never complete.
            let cut = count > 1 && FAULTS.post_part.fires() && (*raw_transfer).cut();
            let result = raw::dmaplane_ib_post_send(queue_pair.as_ptr(), first, &mut refused);
            (first, to_result(if cut && result == 0 { -ENOMEM_NR } else { result }))
        };
        if let Err(error) = result {
            // SAFETY: Not posted as a whole, so that no callback will take it.
            let transfer = unsafe { KBox::from_raw(raw_transfer) };
            if ptr::eq(refused, first) {
                return Err((error, transfer));
            }
            // The provider has some of the requests and will never see the last one: the box stays until the
            // drain, which ends the operation as canceled.
            gate.stranded.push_back(transfer);
            return Ok(Posted::InPart);
        }
        gate.send_free -= count;
        gate.reading = in_steps;
        gate.in_step = in_steps;
        Ok(Posted::Whole)
    }

    /// Posts the next step of a READ, or gives the transfer back, which is over then. To be called under the lock under which
    /// messages are sent: one must not come behind a step.
    pub(crate) fn post_step(
        &self,
        transfer: KBox<Transfer<Q::Op>>,
    ) -> core::result::Result<(), KBox<Transfer<Q::Op>>> {
        let mut gate = self.gate.lock();
        let Some((queue_pair, parts)) = gate.queue_pair.zip(gate.parts) else {
            transfer.give_up();
            return Err(transfer);
        };
        // SAFETY: By the gate's invariant the parts are alive.
        let Ok(scratch) = unsafe { parts.as_ref() }.scratch() else {
            transfer.give_up();
            return Err(transfer);
        };
        let pointer = KBox::into_raw(transfer);
        // SAFETY: Ours from the box just above, at the address that it had for the step before. By the gate's invariant the
        // queue pair is alive. The callback takes the box back.
        let result = unsafe {
            (*pointer).next_step(scratch).map(|step| {
                FAULTS.post_send.fail(ENOMEM)?;
                let refused = &mut ptr::null();
                to_result(raw::dmaplane_ib_post_send(queue_pair.as_ptr(), step, refused))
            })
        };
        if let Some(Ok(())) = result {
            // A place was given back with the step before, and no other operation comes between.
            gate.send_free = gate.send_free.saturating_sub(1);
            gate.in_step = true;
            return Ok(());
        }
        // SAFETY: Not posted, so that no callback will take it.
        let transfer = unsafe { KBox::from_raw(pointer) };
        if result.is_some() {
            transfer.note(Status::FAILED);
        }
        Err(transfer)
    }

    /// Whether READs have to be alone, see [`Transfer::set_read`].
    pub(crate) fn reads_alone(&self) -> bool {
        self.gate.lock().reads_alone
    }

    /// Whether an operation of so many work requests could be posted now. Only other operations take that room.
    pub(crate) fn room_for(&self, requests: usize) -> bool {
        let gate = self.gate.lock();
        gate.queue_pair.is_some() && gate.send_free as usize >= requests && !gate.reading
    }

    /// Whether a message could be sent now, as far as slots and steps of READs go. A last will asks for slots only: what
    /// it does to the step before does not matter, because the READ ends with the endpoint.
    pub(crate) fn can_send_message(&self) -> bool {
        let gate = self.gate.lock();
        gate.queue_pair.is_some() && !gate.free_messages.is_empty() && !gate.in_step
    }

    /// Sends a control message and tells its slot, by which [`Queue::message_done`] will name it. `EAGAIN` without a
    /// free slot, `ESHUTDOWN` after teardown began.
    ///
    /// With a key to `invalidate` the message is what no honest kernel sends, for a fault point.
    pub(crate) fn send_message(
        &self,
        message: &[u8; MESSAGE_BYTES],
        invalidate: Option<u32>,
    ) -> Result<u16> {
        let mut gate = self.gate.lock();
        let (queue_pair, parts) = gate.queue_pair.zip(gate.parts).ok_or(ESHUTDOWN)?;
        // SAFETY: By the gate's invariant the parts are alive.
        let parts = unsafe { parts.as_ref() };
        let slot = gate.free_messages.pop().ok_or(EAGAIN)?;
        let result = (|| {
            FAULTS.post_message.fail(ENOMEM)?;
            let entry = parts.messages.get(usize::from(slot)).ok_or(EINVAL)?;
            parts.message_buffers.write(slot.into(), message)?;
            let mut element = parts.message_buffers.sge(slot.into(), parts.lkey)?;
            let mut request = raw::ib_send_wr {
                sg_list: &mut element,
                num_sge: 1,
                opcode: raw::ib_wr_opcode_IB_WR_SEND,
                send_flags: raw::ib_send_flags_IB_SEND_SIGNALED,
                ..Default::default()
            };
            request.__bindgen_anon_1.wr_cqe =
                ManuallyDrop::new(ptr::from_ref(&entry.cqe).cast_mut());
            if let Some(key) = invalidate {
                request.opcode = raw::ib_wr_opcode_IB_WR_SEND_WITH_INV;
                request.ex.invalidate_rkey = ManuallyDrop::new(key);
            }
            // SAFETY: By the gate's invariant the queue pair is alive; providers copy the element.
            to_result(unsafe {
                raw::dmaplane_ib_post_send(queue_pair.as_ptr(), &request, &mut ptr::null())
            })
        })();
        if result.is_err() {
            // It came from this list, so there is room.
            let _ = gate.free_messages.push_within_capacity(slot);
        }
        result.map(|()| slot)
    }

    /// A received message; `None` after teardown began.
    pub(super) fn message(&self, slot: usize) -> Option<[u8; MESSAGE_BYTES]> {
        let gate = self.gate.lock();
        // SAFETY: By the gate's invariant the parts are alive.
        unsafe { gate.parts?.as_ref() }
            .receive_buffers
            .read(slot)
            .ok()
    }

    /// Posts a receive, for the first time or again. Not an error after teardown began.
    pub(super) fn post_receive(&self, index: usize) -> Result {
        let gate = self.gate.lock();
        let Some((queue_pair, parts)) = gate.queue_pair.zip(gate.parts) else {
            return Ok(());
        };
        // SAFETY: By the gate's invariant the parts are alive.
        let parts = unsafe { parts.as_ref() };
        let slot = parts.receives.get(index).ok_or(EINVAL)?;
        FAULTS.post_receive.fail(ENOMEM)?;
        parts.receive_buffers.give_back(index)?;
        let mut element = parts.receive_buffers.sge(index, parts.lkey)?;
        let mut request = raw::ib_recv_wr {
            sg_list: &mut element,
            num_sge: 1,
            ..Default::default()
        };
        request.__bindgen_anon_1.wr_cqe = ManuallyDrop::new(ptr::from_ref(&slot.cqe).cast_mut());
        // SAFETY: By the gate's invariant the queue pair is alive; providers copy the element.
        to_result(unsafe { raw::dmaplane_ib_post_recv(queue_pair.as_ptr(), &request) })
    }

    /// Registers every segment of `regions`, one after the other, and waits for the provider's answers. A region must
    /// not go while its request is queued: so a thread that is killed waits a little longer, `patience_ms`. Then it tells
    /// `before_end`, ends the connection, which flushes the request, and waits for that. `EBUSY` when too many threads
    /// register at once.
    pub(crate) fn register(
        &self,
        regions: &Arc<RegionSet>,
        patience_ms: u32,
        before_end: impl Fn(),
    ) -> Result {
        for index in 0..regions.keys().len() {
            let wait = Arc::new(
                Registration {
                    status: AtomicU32::new(0),
                    done: Signal::new()?,
                },
                GFP_KERNEL,
            )?;
            let boxed = KBox::new(
                RegistrationRequest {
                    cqe: raw::ib_cqe {
                        done: Some(registered::<Q>),
                    },
                    request: regions.registration(index)?,
                    wait: wait.clone(),
                    _regions: regions.clone(),
                },
                GFP_KERNEL,
            )?;
            self.post_registration(boxed)?;
            if !wait.done.wait_killable() {
                if !wait.done.wait_at_most(patience_ms) {
                    before_end();
                    self.disconnect();
                    wait.done.wait();
                }
                return Err(EINTR);
            }
            if !Status(wait.status.load(Ordering::Relaxed)).is_success() {
                return Err(ENOTCONN);
            }
        }
        Ok(())
    }

    fn post_registration(&self, boxed: KBox<RegistrationRequest>) -> Result {
        let mut gate = self.gate.lock();
        let queue_pair = gate.queue_pair.ok_or(ESHUTDOWN)?;
        FAULTS.post_register.fail(ENOMEM)?;
        gate.registrations_free = gate.registrations_free.checked_sub(1).ok_or(EBUSY)?;
        let pointer = KBox::into_raw(boxed);
        // SAFETY: Ours from the box just above, at a stable address. By the gate's invariant the queue pair is
        // alive. The callback takes the box back.
        let result = unsafe {
            (*pointer).request.wr.__bindgen_anon_1.wr_cqe =
                ManuallyDrop::new(ptr::from_mut(&mut (*pointer).cqe));
            to_result(raw::dmaplane_ib_post_send(
                queue_pair.as_ptr(),
                &(*pointer).request.wr,
                &mut ptr::null(),
            ))
        };
        if result.is_err() {
            gate.registrations_free += 1;
            drop(gate);
            // SAFETY: The provider has not kept it.
            drop(unsafe { KBox::from_raw(pointer) });
        }
        result
    }
}

/// `ENOMEM` as a number: what a fault point says in the provider's place.
const ENOMEM_NR: i32 = kernel::bindings::ENOMEM as i32;
