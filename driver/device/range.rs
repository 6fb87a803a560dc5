// SPDX-License-Identifier: GPL-2.0-only

//! A range of a device's memory that was taken.

use super::Device;
use crate::{
    kx::{
        bar::Tier,
        pages::{at_will, PAGE_BYTES},
    },
    memory::{Cause, Follower},
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
    },
};

/// A range, given back to the device when its memory is revoked or goes, whichever comes first.
pub(crate) struct Range {
    device: Arc<Device>,
    tier: Tier,
    first: usize,
    count: usize,
    given_back: Atomic<u32>,
}

impl Range {
    /// Of pages that were just taken.
    pub(super) fn new(
        device: Arc<Device>,
        tier: Tier,
        first: usize,
        count: usize,
    ) -> Result<Arc<Self>> {
        let range = Self {
            device,
            tier,
            first,
            count,
            // Whoever takes them gives them back, until all is made.
            given_back: Atomic::new(1),
        };
        Ok(Arc::new(range, at_will())?)
    }

    /// The memory is made: from here on the range gives itself back.
    pub(crate) fn keep(&self) {
        self.given_back.store(0, ordering::Release);
    }

    /// Somebody may use them for ever: nobody else gets them.
    pub(crate) fn never_give_back(&self) {
        self.given_back.store(1, ordering::Release);
    }

    /// Its device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Where it begins in its tier's zone, in bytes.
    pub(crate) fn offset(&self) -> u64 {
        (self.first * PAGE_BYTES) as u64
    }

    fn give_back(&self) {
        if self.given_back.xchg(1, ordering::Full) == 0 {
            self.device.give_back(self.tier, self.first, self.count);
        }
    }
}

impl Follower for Range {
    fn revoked(&self, _cause: Cause) {
        self.give_back();
    }

    fn kept(&self) {
        self.never_give_back();
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        self.give_back();
    }
}
