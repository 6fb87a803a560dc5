// SPDX-License-Identifier: GPL-2.0-only

//! RDMA from inside the kernel: verbs and the connection manager.
//!
//! Would become `kernel::rdma`.
//!
//! # Lifetimes
//! An RDMA device is valid from [`client::Ops::add`] until [`client::Ops::remove`] returns. Whatever is made on it
//! ([`pd::Pd`], [`mr::RegionSet`], [`connection::Connection`], [`cm::CmId`]) must be torn down by then; the owner in
//! the policy code keeps a list for that and the types' own teardown is idempotent.

pub(crate) mod capabilities;
pub(crate) mod client;
pub(crate) mod cm;
pub(crate) mod connection;
pub(crate) mod hooks;
pub(crate) mod mr;
pub(crate) mod pd;
pub(crate) mod transfer;

mod buffers;
mod quirks;

use super::{fault::Point, raw};

/// The name that `rdma resource show` prints for this driver's objects.
const NAME: &kernel::str::CStr = c"dmaplane";

/// A bit beside the provider's numbers, which are small.
const GIVEN_UP: u32 = 1 << 31;

/// How a work request ended.
#[derive(Clone, Copy)]
pub(crate) struct Status(u32);

impl Status {
    /// The provider's number, `enum ib_wc_status`.
    pub(crate) fn raw(self) -> u32 {
        self.0 & !GIVEN_UP
    }

    /// What it means for the operation.
    pub(crate) fn completion(self) -> crate::logic::outcome::Completion {
        use crate::logic::outcome::Completion;
        match self.raw() {
            raw::ib_wc_status_IB_WC_SUCCESS => Completion::Success,
            raw::ib_wc_status_IB_WC_WR_FLUSH_ERR => Completion::Flushed,
            raw::ib_wc_status_IB_WC_REM_ACCESS_ERR => Completion::RemoteAccess,
            raw::ib_wc_status_IB_WC_RETRY_EXC_ERR => Completion::RetryExceeded,
            _ => Completion::Failed,
        }
    }

    /// Whether the peer had no receive.
    pub(crate) fn is_not_ready(self) -> bool {
        self.0 == raw::ib_wc_status_IB_WC_RNR_RETRY_EXC_ERR
    }

    /// The status of a request that the provider did not execute.
    const FLUSHED: Self = Self(raw::ib_wc_status_IB_WC_WR_FLUSH_ERR);

    /// The status of an operation that its owner gave up between two steps: flushed, but not by the provider, so that it
    /// says nothing about the queue pair.
    const GIVEN_UP: Self = Self(Self::FLUSHED.0 | GIVEN_UP);

    /// The status of a request that the provider refused when others of its operation were done already.
    const FAILED: Self = Self(raw::ib_wc_status_IB_WC_GENERAL_ERR);

    /// This status, or a failure in place of a success when a fault point fires.
    fn or_failed(self, point: &Point) -> Self {
        if self.is_success() && point.fires() {
            Self::FAILED
        } else {
            self
        }
    }

    /// Whether the queue pair was in the error state before the provider executed the request.
    pub(crate) fn is_flushed(self) -> bool {
        self.0 == Self::FLUSHED.0
    }

    fn is_success(self) -> bool {
        self.0 == raw::ib_wc_status_IB_WC_SUCCESS
    }
}
