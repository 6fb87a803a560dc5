// SPDX-License-Identifier: GPL-2.0-only

//! The ioctl that reads latencies.

use super::Context;
use crate::{
    dispatch::Objects,
    kx::{
        charged::GFP_CHARGED,
        user::{write_u64s, Arg},
    },
    logic::histogram::BUCKETS,
    observe::{Kind, Stage},
    uapi,
};
use kernel::prelude::*;

impl Context {
    /// See [`uapi::IOC_STATS_QUERY`].
    pub(super) fn stats_query(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::StatsQuery>::read(arg)?;
        let query = &mut arg.value;
        if query.flags & !uapi::STATS_RESET != 0 {
            return Err(EINVAL);
        }
        let op = u8::try_from(query.op).map_err(|_| EINVAL)?;
        let kind = Kind::of(op).ok_or(EINVAL)?;
        let stage = Stage::from_raw(query.stage).ok_or(EINVAL)?;
        let endpoint = self.endpoint(query.handle)?;
        let mut counts = KBox::new([0u64; BUCKETS], GFP_CHARGED)?;
        let empty = query.flags & uapi::STATS_RESET != 0;
        let record = endpoint.record();
        let summary = record.latencies(kind, stage, empty, &mut counts);
        if query.buckets != 0 {
            let room = BUCKETS.min(query.bucket_count as usize);
            write_u64s(query.buckets, counts.get(..room).ok_or(EINVAL)?)?;
        }
        query.bucket_count = BUCKETS as u32;
        query.count = summary.count;
        query.p50_ns = summary.p50;
        query.p99_ns = summary.p99;
        query.p999_ns = summary.p999;
        query.max_ns = summary.max;
        query.lost = record.lost();
        arg.write()
    }
}
