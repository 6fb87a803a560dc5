// SPDX-License-Identifier: GPL-2.0-only

//! RDMA from inside the kernel: verbs and the connection manager.
//!
//! # Lifetimes
//! An RDMA device is valid from [`client::Ops::add`] until [`client::Ops::remove`] returns. Whatever is made on it
//! ([`pd::Pd`], [`mr::RegionSet`], [`connection::Connection`], [`cm::CmId`]) must be torn down by then; the owner in
//! the policy code keeps a list for that and the types' own teardown is idempotent.

pub(crate) mod client;
pub(crate) mod cm;
pub(crate) mod connection;
pub(crate) mod mr;
pub(crate) mod pd;
pub(crate) mod transfer;

mod buffers;

use super::{fault::Point, raw};

/// The name that `rdma resource show` prints for what this driver makes.
const NAME: &kernel::str::CStr = c"dmaplane";

/// How a work request ended.
#[derive(Clone, Copy)]
pub(crate) struct Status(u32);

impl Status {
    /// The provider's number, `enum ib_wc_status`.
    pub(crate) fn raw(self) -> u32 {
        self.0
    }

    /// What it means for the operation.
    pub(crate) fn completion(self) -> crate::logic::outcome::Completion {
        use crate::logic::outcome::Completion;
        match self.0 {
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

    /// What a request gets that the provider did not come to.
    const FLUSHED: Self = Self(raw::ib_wc_status_IB_WC_WR_FLUSH_ERR);

    /// What a request gets that the provider refused when others of its operation were done already.
    const FAILED: Self = Self(raw::ib_wc_status_IB_WC_GENERAL_ERR);

    /// This status, or a failure in the place of a success when a fault point fires.
    fn or_failed(self, point: &Point) -> Self {
        if self.is_success() && point.fires() {
            Self::FAILED
        } else {
            self
        }
    }

    /// Whether the queue pair was in error before the provider came to it.
    pub(crate) fn is_flushed(self) -> bool {
        self.0 == Self::FLUSHED.0
    }

    fn is_success(self) -> bool {
        self.0 == raw::ib_wc_status_IB_WC_SUCCESS
    }
}
