// SPDX-License-Identifier: GPL-2.0-only

//! One operation's work requests.

use super::{raw, Status};
use crate::{
    kx::chain::{Link, Next},
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

/// Work requests of one operation: its pieces, and the step of a READ that goes in steps.
const MAX_REQUESTS: usize = MAX_PIECES + 1;

/// Most bytes of a step. Messages wait for its end, and so for the retransmissions of what it loses.
const STEP_BYTES: u32 = 16 << 10;

/// How far a READ in steps is.
#[derive(Default)]
struct Steps {
    /// Pieces of which all steps were posted.
    piece: usize,
    /// Bytes of the next piece for which they were.
    bytes: u32,
    /// Whether what confirms it was.
    confirmed: bool,
}

/// RDMA WRITEs or READs that make up one operation, and what its owner needs when they are done.
///
/// Only the last request asks for a completion. The others complete only when they fail, and then before
/// the last, which is flushed: so the last one's completion is the operation's end. A READ in steps has one request at a time,
/// each of which asks for a completion.
///
/// # Invariants
///
/// `1 <= count <= MAX_PIECES` once [`Self::push`] succeeded, and the first `count` requests and elements are
/// filled in, but for their pointers to each other, which [`Self::link`] sets.
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

// SAFETY: The pointers in it point into itself or belong to the chain that owns it.
unsafe impl<T: Send> Send for Transfer<T> {}

impl<T> Link for Transfer<T> {
    fn next(&mut self) -> &mut Next<Self> {
        &mut self.next
    }
}

impl<T> Transfer<T> {
    /// A transfer without requests and owner's part.
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
            GFP_KERNEL,
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

    /// Its owner's part, to be changed.
    pub(crate) fn body_mut(&mut self) -> Option<&mut T> {
        self.body.as_mut()
    }

    /// Gives the owner's part back.
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
        self.steps = alone.then(Steps::default);
    }

    /// Whether it goes in steps.
    pub(super) fn has_steps(&self) -> bool {
        self.steps.is_some()
    }

    /// The first step of a READ in steps. The box is not moved out of from here on.
    pub(super) fn first_step(&mut self, done: raw::ib_cqe) -> Option<*const raw::ib_send_wr> {
        self.steps = Some(Steps::default());
        self.last = done;
        // Not its last one: there is a piece.
        self.next_step(raw::ib_sge::default())
    }

    /// The next step, which is to be posted when the one before has completed; `None` when that was the last. That one reads
    /// the last byte once more, into `scratch`: it completes only where the queue pair has survived the others, which is what
    /// the end is told by. Not a READ of no bytes, of which rxe's responder keeps no key, so that it does not know it again
    /// when it has to be repeated.
    pub(super) fn next_step(&mut self, scratch: raw::ib_sge) -> Option<*const raw::ib_send_wr> {
        let steps = self.steps.as_mut()?;
        let (request, pieces) = self.requests.split_last_mut()?;
        let (target, elements) = self.elements.split_last_mut()?;
        let pieces = pieces.iter().zip(elements.iter()).take(self.count);
        request.wr.num_sge = 1;
        match pieces.clone().nth(steps.piece) {
            Some((whole, element)) => {
                let bytes = element.length.saturating_sub(steps.bytes).min(STEP_BYTES);
                *target = raw::ib_sge {
                    addr: element.addr + u64::from(steps.bytes),
                    length: bytes,
                    lkey: element.lkey,
                };
                request.remote_addr = whole.remote_addr + u64::from(steps.bytes);
                request.rkey = whole.rkey;
                steps.bytes += bytes;
                if steps.bytes >= element.length {
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
                steps.confirmed = true;
            }
            None => return None,
        }
        request.wr.opcode = raw::ib_wr_opcode_IB_WR_RDMA_READ;
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

    /// Chains the requests and names their completions. The box is not moved out of from here on.
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

    /// Leaves all requests but the first out, as a provider does that takes no more; true, as it did. For a fault point.
    pub(super) fn cut(&mut self) -> bool {
        if let Some(first) = self.requests.first_mut() {
            first.wr.next = ptr::null_mut();
        }
        true
    }

    /// Notes a failure of one of the requests; the first one counts.
    pub(super) fn note(&self, status: Status) {
        let _ = self.first_error.compare_exchange(
            raw::ib_wc_status_IB_WC_SUCCESS,
            status.0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Notes that it ends before its next step, as what is flushed does.
    pub(crate) fn give_up(&self) {
        self.note(Status::FLUSHED);
    }

    /// The operation's status, once its last request completed.
    pub(super) fn status(&self) -> Status {
        Status(self.first_error.load(Ordering::Relaxed))
    }
}
