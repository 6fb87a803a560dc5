// SPDX-License-Identifier: GPL-2.0-only

//! One operation's work requests.
//!
//! Would become part of `kernel::rdma`.

use super::{raw, Status};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    kx::box_queue::{Link, Next},
    logic::range::Piece,
};
use core::{
    mem::ManuallyDrop,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};
use kernel::prelude::*;

/// Most pieces of one operation.
const MAX_PIECES: usize = 10;

/// Most work requests of one operation: its pieces, and the step of an operation that goes in steps.
const MAX_REQUESTS: usize = MAX_PIECES + 1;

/// Most bytes of a step. Messages wait for its end, and so for the retransmission of its lost packets.
const STEP_BYTES: u32 = 16 << 10;

/// Progress of an operation in steps.
struct Steps {
    /// Most bytes of a step.
    size: u32,
    /// Whether it is a READ that has to be alone: neither operations nor control messages, but for a
    /// last will, are posted before a step has completed, and the end is confirmed.
    alone: bool,
    /// Number of pieces of which all steps were posted.
    piece: usize,
    /// Bytes of the next piece whose steps were posted.
    bytes: u32,
    /// Whether the request that confirms it was posted, if it needs one.
    confirmed: bool,
}

impl Steps {
    const fn new(size: u32, alone: bool) -> Self {
        Self {
            size,
            alone,
            piece: 0,
            bytes: 0,
            confirmed: !alone,
        }
    }
}

/// RDMA WRITEs or READs that make up one operation, and what its owner needs when they are done.
///
/// Only the last request asks for a completion. The others complete only when they fail, and then before the last,
/// which is flushed: so the last one's completion is the operation's end. An operation in steps has one request at a
/// time, each of which asks for a completion.
///
/// # Invariants
///
/// `1 <= count <= MAX_PIECES` once [`Self::push`] succeeded, and the first `count` requests and elements are filled in,
/// except for their pointers to each other, which [`Self::link`] sets.
#[repr(C)]
pub(crate) struct Transfer<T> {
    pub(super) last: raw::ib_cqe,
    pub(super) part: raw::ib_cqe,
    first_error: AtomicU32,
    count: usize,
    steps: Option<Steps>,
    next: Next<Self>,
    requests: [raw::ib_rdma_wr; MAX_REQUESTS],
    elements: [raw::ib_sge; MAX_REQUESTS],
    body: Option<T>,
}

// SAFETY: The pointers in it point into itself or belong to the queue that owns it.
unsafe impl<T: Send> Send for Transfer<T> {}

impl<T> Link for Transfer<T> {
    fn next(&mut self) -> &mut Next<Self> {
        &mut self.next
    }
}

impl<T> Transfer<T> {
    /// A transfer without requests and without the owner's part.
    pub(crate) fn empty() -> Result<KBox<Self>> {
        Ok(KBox::new(
            Self {
                last: raw::ib_cqe::default(),
                part: raw::ib_cqe::default(),
                first_error: AtomicU32::new(raw::ib_wc_status_IB_WC_SUCCESS),
                count: 0,
                steps: None,
                next: Next::none(),
                requests: core::array::from_fn(|_| raw::ib_rdma_wr::default()),
                elements: core::array::from_fn(|_| raw::ib_sge::default()),
                body: None,
            },
            GFP_CHARGED,
        )?)
    }

    /// Puts the owner's part in.
    pub(crate) fn fill(mut this: KBox<Self>, body: T) -> KBox<Self> {
        this.body = Some(body);
        this
    }

    /// Its owner's part.
    pub(crate) fn body(&self) -> Option<&T> {
        self.body.as_ref()
    }

    /// Its owner's part, for changes.
    pub(crate) fn body_mut(&mut self) -> Option<&mut T> {
        self.body.as_mut()
    }

    /// Returns the owner's part.
    pub(crate) fn into_body(mut this: KBox<Self>) -> Option<T> {
        this.body.take()
    }

    /// Work requests that are posted at once.
    pub(crate) fn count(&self) -> usize {
        match self.steps {
            Some(_) => self.count.min(1),
            None => self.count,
        }
    }

    /// Adds a piece under the keys of its segments. `EMSGSIZE` when it would be one too many.
    pub(crate) fn push(&mut self, piece: &Piece, lkey: u32, rkey: u32) -> Result {
        let length = u32::try_from(piece.length).map_err(|_| EMSGSIZE)?;
        if self.count >= MAX_PIECES {
            return Err(EMSGSIZE);
        }
        let element = self.elements.get_mut(self.count).ok_or(EMSGSIZE)?;
        let request = self.requests.get_mut(self.count).ok_or(EMSGSIZE)?;
        *element = raw::ib_sge {
            addr: piece.local_offset,
            length,
            lkey,
        };
        request.wr.opcode = raw::ib_wr_opcode_IB_WR_RDMA_WRITE;
        request.wr.num_sge = 1;
        request.remote_addr = piece.remote_offset;
        request.rkey = rkey;
        self.count += 1;
        Ok(())
    }

    /// Makes all requests READs, which go in steps if they have to be alone.
    pub(crate) fn set_read(&mut self, alone: bool) {
        for request in self.requests.iter_mut().take(self.count) {
            request.wr.opcode = raw::ib_wr_opcode_IB_WR_RDMA_READ;
        }
        self.steps = alone.then_some(Steps::new(STEP_BYTES, true));
    }

    /// Makes a WRITE go in steps of `size` bytes, or at once for `None`. Called before it is posted.
    pub(crate) fn set_write_steps(&mut self, size: Option<u32>) {
        self.steps = size.map(|size| Steps::new(size.max(1), false));
    }

    /// Sets the size of the steps that follow, except for a READ.
    pub(crate) fn resize_steps(&mut self, size: u32) {
        if let Some(steps) = self.steps.as_mut().filter(|steps| !steps.alone) {
            steps.size = size.max(1);
        }
    }

    /// Whether nothing is left to be posted of an operation in steps.
    pub(crate) fn is_through(&self) -> bool {
        let through = |steps: &Steps| steps.piece >= self.count && steps.confirmed;
        self.steps.as_ref().is_some_and(through)
    }

    /// Bytes of the step that is posted next.
    pub(crate) fn step_bytes(&self) -> u32 {
        let Some(steps) = &self.steps else { return 0 };
        let piece = self.elements.get(steps.piece);
        let piece = piece.filter(|_| steps.piece < self.count);
        piece.map_or(0, |piece| {
            piece.length.saturating_sub(steps.bytes).min(steps.size)
        })
    }

    /// Whether it goes in steps that have to be alone.
    pub(crate) fn is_alone(&self) -> bool {
        self.steps.as_ref().is_some_and(|steps| steps.alone)
    }

    /// Whether it goes in steps.
    pub(super) fn has_steps(&self) -> bool {
        self.steps.is_some()
    }

    /// The first step of an operation in steps. The box must not be moved out of from here on.
    pub(super) fn first_step(&mut self, done: raw::ib_cqe) -> Option<*const raw::ib_send_wr> {
        let steps = self.steps.as_ref()?;
        self.steps = Some(Steps::new(steps.size, steps.alone));
        self.last = done;
        // This is a step: there is a piece.
        self.next_step(raw::ib_sge::default())
    }

    /// The next step, to be posted when the one before has completed; `None` when that was the last. The last step of a
    /// READ reads the last byte once more, into `scratch`. It completes only if the queue pair has survived the other
    /// steps, which confirms them. It is not a READ of no bytes: rxe's responder keeps no key for that, so it would not
    /// recognise a retransmission.
    pub(super) fn next_step(&mut self, scratch: raw::ib_sge) -> Option<*const raw::ib_send_wr> {
        let steps = self.steps.as_mut()?;
        let (request, pieces) = self.requests.split_last_mut()?;
        let (target, elements) = self.elements.split_last_mut()?;
        let pieces = pieces.iter().zip(elements.iter()).take(self.count);
        request.wr.num_sge = 1;
        match pieces.clone().nth(steps.piece) {
            Some((whole, element)) => {
                let bytes = element.length.saturating_sub(steps.bytes).min(steps.size);
                *target = raw::ib_sge {
                    addr: element.addr + u64::from(steps.bytes),
                    length: bytes,
                    lkey: element.lkey,
                };
                request.remote_addr = whole.remote_addr + u64::from(steps.bytes);
                request.rkey = whole.rkey;
                steps.bytes += bytes;
                let ends = steps.bytes >= element.length;
                // The immediate goes with the last bytes.
                request.wr.opcode = match whole.wr.opcode {
                    raw::ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM if !ends => {
                        raw::ib_wr_opcode_IB_WR_RDMA_WRITE
                    }
                    opcode => opcode,
                };
                // SAFETY: Reads the member of the union that holds an immediate, for which any bytes are valid.
                request.wr.ex.imm_data = unsafe { whole.wr.ex.imm_data };
                if ends {
                    steps.piece += 1;
                    steps.bytes = 0;
                }
            }
            None if !steps.confirmed => {
                let (last, element) = pieces.clone().next_back()?;
                *target = raw::ib_sge {
                    length: 1,
                    ..scratch
                };
                request.remote_addr = last.remote_addr + u64::from(element.length.checked_sub(1)?);
                request.rkey = last.rkey;
                request.wr.opcode = raw::ib_wr_opcode_IB_WR_RDMA_READ;
                steps.confirmed = true;
            }
            None => return None,
        }
        request.wr.sg_list = target;
        request.wr.send_flags = raw::ib_send_flags_IB_SEND_SIGNALED;
        request.wr.__bindgen_anon_1.wr_cqe = ManuallyDrop::new(ptr::from_mut(&mut self.last));
        request.wr.next = ptr::null_mut();
        Some(ptr::from_ref(&request.wr))
    }

    /// Makes the last request carry an immediate.
    pub(crate) fn set_immediate(&mut self, imm: u32) {
        if let Some(request) = self
            .count
            .checked_sub(1)
            .and_then(|at| self.requests.get_mut(at))
        {
            request.wr.opcode = raw::ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM;
            request.wr.ex.imm_data = ManuallyDrop::new(imm.to_be());
        }
    }

    /// Links the requests and sets their completion entries. The box must not be moved out of from here on.
    pub(super) fn link(&mut self, last: raw::ib_cqe, part: raw::ib_cqe) -> *const raw::ib_send_wr {
        self.last = last;
        self.part = part;
        let last_cqe = ptr::from_mut(&mut self.last);
        let part_cqe = ptr::from_mut(&mut self.part);
        let mut next = ptr::null_mut();
        let used = self
            .requests
            .iter_mut()
            .zip(self.elements.iter_mut())
            .take(self.count);
        for (request, element) in used.rev() {
            request.wr.sg_list = element;
            let is_last = ptr::eq(next, ptr::null_mut::<raw::ib_send_wr>());
            request.wr.__bindgen_anon_1.wr_cqe =
                ManuallyDrop::new(if is_last { last_cqe } else { part_cqe });
            request.wr.send_flags = if is_last {
                raw::ib_send_flags_IB_SEND_SIGNALED
            } else {
                0
            };
            request.wr.next = next;
            next = ptr::from_mut(&mut request.wr);
        }
        next
    }

    /// Leaves out all requests but the first, like a provider that takes no more. Returns true. For a fault point.
    pub(super) fn cut(&mut self) -> bool {
        if let Some(first) = self.requests.first_mut() {
            first.wr.next = ptr::null_mut();
        }
        true
    }

    /// Records a failure of one of the requests; the first failure counts.
    pub(super) fn note(&self, status: Status) {
        let _ = self.first_error.compare_exchange(
            raw::ib_wc_status_IB_WC_SUCCESS,
            status.0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Records that it ends before its next step. To its user it counts as flushed.
    pub(crate) fn give_up(&self) {
        self.note(Status::GIVEN_UP);
    }

    /// The operation's status, once its last request completed.
    pub(super) fn status(&self) -> Status {
        Status(self.first_error.load(Ordering::Relaxed))
    }
}
