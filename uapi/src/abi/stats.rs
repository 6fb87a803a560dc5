// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Latencies of an endpoint's operations.

use super::*;

/// Reads the latencies of one kind of operation of an endpoint ([`StatsQuery`]). Errors: `ENOENT`, `EINVAL` (an
/// operation without an endpoint, an unknown stage), `EFAULT`, `ENOMEM`. Since [`CAP_STATS`].
pub const IOC_STATS_QUERY: u32 = (IOC_TYPE << 8) | 0x60;

/// Flag of [`StatsQuery`]: empties the histogram while it is read. Each latency is in exactly one of the readings that
/// empty it; if the array cannot be written (`EFAULT`), its latencies are lost.
pub const STATS_RESET: u32 = 1 << 0;

/// Stage of an operation: from acceptance until it is handed to the provider.
pub const STAGE_QUEUED: u32 = 0;
/// Stage: in the provider.
pub const STAGE_PROVIDER: u32 = 1;
/// Stage: from acceptance to completion. The only stage of receives, fences and watches.
pub const STAGE_TOTAL: u32 = 2;

/// Argument of [`IOC_STATS_QUERY`]: latencies of operations of one kind that ended with `STATE_OK`, in nanoseconds.
/// They are counted in buckets and reported as the middle of their bucket: with an error of at most 1/64, or 4 ns where
/// that is more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `STATS_*` bits.
    pub flags: u32,
    /// Handle of the endpoint.
    pub handle: u32,
    /// One of `OP_*`.
    pub op: u32,
    /// One of `STAGE_*`.
    pub stage: u32,
    /// Length of the array at `buckets`; on return the number of buckets that the driver has. Bucket `i` begins at
    /// `8 * i` ns for `i` below 32, and at `8 * (32 + i % 32) << (i / 32 - 1)` ns from there on.
    pub bucket_count: u32,
    /// User address of an array of `u64`, which receives the latencies in each bucket; 0 for none.
    pub buckets: u64,
    /// Out: latencies.
    pub count: u64,
    /// Out: half of them are at most this.
    pub p50_ns: u64,
    /// Out: 99 of 100 are at most this.
    pub p99_ns: u64,
    /// Out: 999 of 1000 are at most this.
    pub p999_ns: u64,
    /// Out: the highest one.
    pub max_ns: u64,
    /// Out: latencies of the endpoint that were not counted for want of memory.
    pub lost: u64,
}

const _: () = {
    assert!(size_of::<StatsQuery>() == 80);
};
