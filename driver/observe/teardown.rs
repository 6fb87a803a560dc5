// SPDX-License-Identifier: GPL-2.0-only

//! The ends of what takes time to end.

use super::nanoseconds;
use crate::kx::trace;
use kernel::time::{Instant, Monotonic};

/// Tells of a teardown's begin when made and of its end when dropped.
pub(crate) struct Teardown {
    object: u32,
    id: u64,
    began: Instant<Monotonic>,
}

/// As numbered in `dmaplane_trace.h`.
const ENDPOINT: u32 = 1;
const CONTEXT: u32 = 2;

impl Teardown {
    /// Of an endpoint.
    pub(crate) fn of_endpoint(serial: u64) -> Self {
        Self::new(ENDPOINT, serial)
    }

    /// Of a context.
    pub(crate) fn of_context(serial: u64) -> Self {
        Self::new(CONTEXT, serial)
    }

    fn new(object: u32, id: u64) -> Self {
        trace::teardown_begin(|| trace::TeardownBegin { object, id });
        Self {
            object,
            id,
            began: Instant::now(),
        }
    }
}

impl Drop for Teardown {
    fn drop(&mut self) {
        trace::teardown_end(|| trace::TeardownEnd {
            object: self.object,
            id: self.id,
            nanoseconds: nanoseconds(self.began.elapsed()),
        });
    }
}
