// SPDX-License-Identifier: GPL-2.0-only

//! A range of a device's memory that was taken.

use super::Device;
use crate::{
    base::wait::Deadline,
    kx::{bar::Tier, charged::GFP_CHARGED, pages::PAGE_BYTES},
    memory::{DeviceRange, Follower, MemoryLifetime},
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
    },
};

/// A range, given back to the device when its memory is revoked or freed, whichever comes first.
pub(super) struct Range {
    device: Arc<Device>,
    tier: Tier,
    first: usize,
    count: usize,
    given_back: Atomic<u32>,
}

impl Range {
    /// The range of pages that were just taken.
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
            // Until the memory is made, `Device::take` gives the pages back.
            given_back: Atomic::new(1),
        };
        Ok(Arc::new(range, GFP_CHARGED)?)
    }

    /// Makes the range give itself back from now on: its memory is made.
    pub(super) fn keep(&self) {
        self.given_back.store(0, ordering::Release);
    }

    fn give_back(&self) {
        if self.given_back.xchg(1, ordering::Full) == 0 {
            self.device.give_back(self.tier, self.first, self.count);
        }
    }
}

impl Follower for Range {
    fn revoked(&self, _let_go: Deadline) {
        self.give_back();
    }

    /// Keeps the range for good: a device may use its pages for ever.
    fn kept(&self) {
        self.given_back.store(1, ordering::Release);
    }
}

impl DeviceRange for Range {
    fn device(&self) -> u64 {
        self.device.serial()
    }

    fn node(&self) -> i32 {
        self.device.node()
    }

    fn offset(&self) -> u64 {
        (self.first * PAGE_BYTES) as u64
    }

    fn forget(&self, lifetime: &Arc<MemoryLifetime>) {
        self.device.forget(lifetime);
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        self.give_back();
    }
}
