// SPDX-License-Identifier: GPL-2.0-only

//! Posting of work requests. Everything here runs under the gate and never sleeps while it is held.
//!
//! Would become part of `kernel::rdma`.

use super::{
    callbacks::{registered, transfer_done, transfer_part},
    Connection, Queue,
};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    kx::{
        box_queue::{Link, Next},
        rdma::{mr::RegionSet, raw, transfer::Transfer, Status},
    },
    logic::wire::MESSAGE_BYTES,
};
use core::{
    mem::ManuallyDrop,
    ptr::{self, NonNull},
};
use kernel::{error::to_result, prelude::*, sync::Arc};

/// The registration of a row of regions, one after the other, and what its owner needs when it is over. It keeps the
/// regions until the provider has answered. Its maker owns it at first, then the gate while it waits for a slot, or the
/// provider, whose callback takes it back.
///
/// # Invariants
///
/// Once the first request was prepared, `request` names region `asked - 1` of `regions`, which nobody revokes
/// meanwhile.
#[repr(C)]
pub(crate) struct Registration<R> {
    pub(super) cqe: raw::ib_cqe,
    request: raw::ib_reg_wr,
    next: Next<Self>,
    regions: Arc<RegionSet>,
    /// Number of regions that were asked for.
    asked: usize,
    body: R,
}

// SAFETY: The pointers in it point into itself or to the regions that it keeps, or belong to the queue that owns it.
unsafe impl<R: Send> Send for Registration<R> {}

impl<R> Link for Registration<R> {
    fn next(&mut self) -> &mut Next<Self> {
        &mut self.next
    }
}

impl<R> Registration<R> {
    /// A registration of regions that are not registered yet.
    pub(crate) fn new(regions: Arc<RegionSet>, body: R) -> Result<KBox<Self>> {
        let request = raw::ib_reg_wr::default();
        Ok(KBox::new(
            Self {
                cqe: raw::ib_cqe::default(),
                request,
                next: Next::none(),
                regions,
                asked: 0,
                body,
            },
            GFP_CHARGED,
        )?)
    }

    /// Returns the owner's part.
    pub(crate) fn into_body(this: KBox<Self>) -> R {
        KBox::into_inner(this).body
    }

    /// Makes the request for the next region; false when all were asked for, `ESHUTDOWN` after their revocation. May sleep.
    fn prepare(&mut self) -> Result<bool> {
        if self.asked >= self.regions.keys().len() {
            return Ok(false);
        }
        self.request = self.regions.registration(self.asked)?;
        self.asked += 1;
        Ok(true)
    }
}

/// How much of an operation the provider took.
pub(crate) enum Posted {
    /// All of it.
    Whole,
    /// Only a part: the connection is of no use any more, and must be ended.
    InPart,
}

/// Why an operation was not posted, and the operation.
pub(crate) type Refused<Op> = (Error, KBox<Transfer<Op>>);

impl<Q: Queue> Connection<Q> {
    /// Posts an operation's work requests. `EAGAIN` when the send queue has no room for them, or an operation in steps
    /// is under way: the operation then waits for the end of another one. `ESHUTDOWN` after teardown began.
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
        if gate.send_free < count || gate.stepping {
            return Err((EAGAIN, transfer));
        }
        let (in_steps, alone) = (transfer.has_steps(), transfer.is_alone());
        if Q::hooks().post_send.fires() {
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
            // If it fires, the requests after the first are refused, and the last one never completes.
            let cut = count > 1 && Q::hooks().post_part.fires() && (*raw_transfer).cut();
            let result = raw::dmaplane_ib_post_send(queue_pair.as_ptr(), first, &mut refused);
            (
                first,
                to_result(if cut && result == 0 {
                    -ENOMEM_NR
                } else {
                    result
                }),
            )
        };
        if let Err(error) = result {
            // SAFETY: Not posted as a whole, so no callback will take it.
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
        gate.stepping = in_steps;
        gate.in_step = alone;
        Ok(Posted::Whole)
    }

    /// Posts the next step of an operation, or returns the transfer, which is then over. Called under the lock under
    /// which messages are sent: none must be sent behind a step.
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
        let alone = transfer.is_alone();
        let pointer = KBox::into_raw(transfer);
        // SAFETY: Ours from the box just above, at the address that it had for the step before. By the gate's invariant the
        // queue pair is alive. The callback takes the box back.
        let result = unsafe {
            (*pointer).next_step(scratch).map(|step| {
                Q::hooks().post_send.fail(ENOMEM)?;
                let refused = &mut ptr::null();
                to_result(raw::dmaplane_ib_post_send(
                    queue_pair.as_ptr(),
                    step,
                    refused,
                ))
            })
        };
        if let Some(Ok(())) = result {
            // The step before has returned its slot, and no other operation comes between.
            gate.send_free = gate.send_free.saturating_sub(1);
            gate.in_step = alone;
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

    /// Whether an operation of `requests` work requests could be posted now. Only other operations take that room.
    pub(crate) fn room_for(&self, requests: usize) -> bool {
        let gate = self.gate.lock();
        gate.queue_pair.is_some() && gate.send_free as usize >= requests && !gate.stepping
    }

    /// Whether a message could be sent now, as far as slots and steps of READs go. A last will needs only a slot: it
    /// may disturb the step before it, because the READ ends with the endpoint.
    pub(crate) fn can_send_message(&self) -> bool {
        let gate = self.gate.lock();
        gate.queue_pair.is_some() && !gate.free_messages.is_empty() && !gate.in_step
    }

    /// Sends a control message and returns its slot, which [`Queue::message_done`] will name. `EAGAIN` without a free
    /// slot, `ESHUTDOWN` after teardown began.
    ///
    /// With a key to `invalidate` it is a message that no honest kernel sends, for a fault point.
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
            Q::hooks().post_message.fail(ENOMEM)?;
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

    /// A received message; `None` when the teardown is over.
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
        Q::hooks().post_receive.fail(ENOMEM)?;
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

    /// Registers a row of regions. Does not wait: [`Queue::registered`] gets the result, unless the registration is
    /// returned. A registration for which the provider has no room waits for the end of others.
    pub(crate) fn register(
        &self,
        mut registration: KBox<Registration<Q::Registration>>,
    ) -> core::result::Result<(), NotRegistered<Q::Registration>> {
        if let Err(error) = registration.prepare() {
            return Err((error, registration));
        }
        let mut gate = self.gate.lock();
        let Some(queue_pair) = gate.queue_pair else {
            return Err((ESHUTDOWN, registration));
        };
        match gate.registrations_free.checked_sub(1) {
            Some(left) => {
                post_registration::<Q>(queue_pair, registration)?;
                gate.registrations_free = left;
            }
            None => gate.registrations.push_back(registration),
        }
        Ok(())
    }

    /// Continues a registration whose request has completed: with the next of its regions, or with its end. Then its
    /// slot is free for a waiting one, which may end here, too.
    pub(super) fn register_on(
        &self,
        mut registration: KBox<Registration<Q::Registration>>,
        answer: Result,
        mut over: impl FnMut(Q::Registration, Result),
    ) {
        let mut next = match answer.and_then(|()| self.go_on(&mut registration)) {
            Ok(true) => Some(registration),
            result => {
                over(Registration::into_body(registration), result.map(|_| ()));
                self.next_registration()
            }
        };
        while let Some(registration) = next {
            let posted = if self.owner.is_wanted(&registration.body) {
                let gate = self.gate.lock();
                match gate.queue_pair {
                    Some(queue_pair) => post_registration::<Q>(queue_pair, registration),
                    None => Err((ESHUTDOWN, registration)),
                }
            } else {
                Err((ESTALE, registration))
            };
            let Err((error, registration)) = posted else {
                return;
            };
            over(Registration::into_body(registration), Err(error));
            next = self.next_registration();
        }
    }

    /// Prepares a registration's next region; false when there is none. `ESTALE` when it is not wanted any more.
    fn go_on(&self, registration: &mut Registration<Q::Registration>) -> Result<bool> {
        match self.owner.is_wanted(&registration.body) {
            true => registration.prepare(),
            false => Err(ESTALE),
        }
    }

    /// The next waiting registration, which takes over the slot. Without one the slot becomes free.
    fn next_registration(&self) -> Option<KBox<Registration<Q::Registration>>> {
        let mut gate = self.gate.lock();
        let next = gate.registrations.pop();
        if next.is_none() {
            gate.registrations_free += 1;
        }
        next
    }

    /// Takes the first registration that `wanted` selects among those that wait for a slot.
    pub(crate) fn withdraw_registration(
        &self,
        wanted: impl Fn(&Q::Registration) -> bool,
    ) -> Option<KBox<Registration<Q::Registration>>> {
        let mut gate = self.gate.lock();
        gate.registrations
            .remove_first(|waiting| wanted(&waiting.body))
    }
}

/// Why a registration was not begun, and the registration.
pub(crate) type NotRegistered<R> = (Error, KBox<Registration<R>>);

/// Posts a registration's request. The caller holds the gate, by whose invariant the queue pair is alive.
fn post_registration<Q: Queue>(
    queue_pair: NonNull<raw::ib_qp>,
    mut registration: KBox<Registration<Q::Registration>>,
) -> core::result::Result<(), NotRegistered<Q::Registration>> {
    if Q::hooks().post_register.fires() {
        return Err((ENOMEM, registration));
    }
    registration.cqe = raw::ib_cqe {
        done: Some(registered::<Q>),
    };
    let pointer = KBox::into_raw(registration);
    // SAFETY: Ours from the box just above, at a stable address. By this function's contract the queue pair is
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
    // SAFETY: Not posted, so that no callback will take it.
    result.map_err(|error| (error, unsafe { KBox::from_raw(pointer) }))
}

/// `ENOMEM` as a number: what a fault point returns in the provider's place.
const ENOMEM_NR: i32 = kernel::bindings::ENOMEM as i32;
