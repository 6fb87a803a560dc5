// SPDX-License-Identifier: MIT OR Apache-2.0

//! Latencies of an endpoint's operations, as the driver counts them.

use std::time::Duration;

use dmaplane_uapi as abi;

use crate::endpoint::Endpoint;
use crate::error::{Call, Error, Result};
use crate::sys;

/// Kinds of operations that have an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// A receive.
    Recv,
    /// A write.
    Write,
    /// A write with an immediate.
    WriteImm,
    /// A read.
    Read,
    /// A few bytes.
    Send,
    /// A fence.
    Fence,
    /// A watch.
    Watch,
}

impl OpKind {
    fn raw(self) -> u8 {
        match self {
            Self::Recv => abi::OP_RECV,
            Self::Write => abi::OP_WRITE,
            Self::WriteImm => abi::OP_WRITE_IMM,
            Self::Read => abi::OP_READ,
            Self::Send => abi::OP_SEND,
            Self::Fence => abi::OP_FENCE,
            Self::Watch => abi::OP_WATCH,
        }
    }
}

/// Parts of an operation's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From acceptance until it is handed to the provider.
    Queued,
    /// In the provider.
    Provider,
    /// From acceptance to completion; the only stage of receives, fences and watches.
    Total,
}

/// Latencies of operations that ended well, each with an error of at most 1/64, or 4 ns where that is more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Half of them took at most this.
    pub p50: Duration,
    /// 99 of 100 took at most this.
    pub p99: Duration,
    /// 999 of 1000 took at most this.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
    /// Latencies of the endpoint that were not counted for lack of memory.
    pub lost: u64,
    /// How many are in each bucket.
    pub buckets: Vec<u64>,
}

impl Endpoint {
    /// Reads the latencies of one kind of operation; `reset` empties the histogram in the same step, so that each
    /// latency is in exactly one of the readings that do so.
    ///
    /// # Errors
    /// [`Error::Call`]: `ENOTTY` (a driver without `CAP_STATS`), `ENOMEM`.
    pub fn latency(&self, kind: OpKind, stage: Stage, reset: bool) -> Result<Latency> {
        let mut query = abi::StatsQuery {
            flags: if reset { abi::STATS_RESET } else { 0 },
            handle: self.raw_handle(),
            op: kind.raw().into(),
            stage: match stage {
                Stage::Queued => abi::STAGE_QUEUED,
                Stage::Provider => abi::STAGE_PROVIDER,
                Stage::Total => abi::STAGE_TOTAL,
            },
            ..Default::default()
        };
        // More than any version of the driver has, so that a reading that empties returns all of it.
        let mut buckets = vec![0; 4096];
        sys::stats_query(sys::fd(self.context()), &mut query, &mut buckets).map_err(|errno| {
            Error::call(Call::StatsQuery, errno, format!(" of {}", self.peer()))
        })?;
        buckets.truncate(query.bucket_count as usize);
        Ok(Latency {
            count: query.count,
            p50: Duration::from_nanos(query.p50_ns),
            p99: Duration::from_nanos(query.p99_ns),
            p999: Duration::from_nanos(query.p999_ns),
            max: Duration::from_nanos(query.max_ns),
            lost: query.lost,
            buckets,
        })
    }
}
