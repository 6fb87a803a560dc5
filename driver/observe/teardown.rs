// SPDX-License-Identifier: GPL-2.0-only

//! Trace events of teardowns, which may take long.

use super::nanoseconds;
use crate::kx::trace;
use kernel::time::{Instant, Monotonic};

/// A teardown: traces its begin when made and its end when dropped.
pub(crate) struct Teardown {
    object: u32,
    id: u64,
    began: Instant<Monotonic>,
}

/// As numbered in `dmaplane_trace.h`.
const ENDPOINT: u32 = 1;
const CONTEXT: u32 = 2;

impl Teardown {
    /// The teardown of an endpoint.
    pub(crate) fn of_endpoint(serial: u64) -> Self {
        Self::new(ENDPOINT, serial)
    }

    /// The teardown of a context.
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
