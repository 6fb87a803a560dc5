// SPDX-License-Identifier: GPL-2.0-only

//! What is going on: trace events, latency histograms, and the state of everything alive.
//!
//! Call sites elsewhere are one line each. Nothing here changes what the driver does, and nothing shows an address or a key.

mod attributes;
mod endpoint;
mod histograms;
mod memory;
mod op;
mod teardown;

pub(crate) use attributes::attribute;
pub(crate) use endpoint::EndpointRecord;
pub(crate) use histograms::{Kind, Stage, ENABLED};
pub(crate) use memory::{MemoryMark, RegionMark};
pub(crate) use op::{show_rest, traces_entries, Mark, Probe, MAX_SHOWN};
pub(crate) use teardown::Teardown;

use kernel::time::Delta;

/// Nanoseconds of a span that cannot be negative.
fn nanoseconds(span: Delta) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(0)
}
