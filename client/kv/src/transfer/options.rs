// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be chosen about a transfer, and what is measured.

use std::time::Duration;

use serde::Serialize;

use super::MemoryLocation;
use crate::{Chunk, ChunkPlan};

/// Time limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long to wait for the connection, and then for a receiver's first message.
    pub connect: Duration,
    /// How long nothing may happen in mid-transfer.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(10),
        }
    }
}

/// In which order chunks are sent. The receiver takes any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Order {
    /// Layer by layer, as prefill produces them.
    #[default]
    Layers,
    /// The first chunk of every layer, then the second ones, and so on.
    Interleaved,
    /// From the last chunk of the last layer to the first of the first.
    Reverse,
}

impl Order {
    /// All chunks of a plan in this order.
    pub(super) fn arrange(self, plan: &ChunkPlan) -> Vec<Chunk> {
        let mut chunks: Vec<Chunk> = plan.iter().collect();
        match self {
            Self::Layers => {}
            Self::Interleaved => chunks.sort_by_key(|chunk| (chunk.index, chunk.layer)),
            Self::Reverse => chunks.reverse(),
        }
        chunks
    }
}

/// How to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendOptions {
    /// Chunks in flight at once, at least 1.
    pub depth: u32,
    /// The order of the chunks.
    pub order: Order,
    /// Time limits.
    pub limits: Limits,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self {
            depth: 32,
            order: Order::default(),
            limits: Limits::default(),
        }
    }
}

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// Receives posted ahead, at least 1: the chunks that the sender can have in flight.
    pub depth: u32,
    /// Where the cache is kept.
    pub location: MemoryLocation,
    /// Bytes of the largest cache to accept.
    pub max_bytes: u64,
    /// Time limits.
    pub limits: Limits,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            depth: 64,
            location: MemoryLocation::default(),
            max_bytes: u64::MAX,
            limits: Limits::default(),
        }
    }
}

/// What a transfer took. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Layers of the cache.
    pub layers: u32,
    /// Chunks moved.
    pub chunks: u64,
    /// Bytes moved in chunks.
    pub bytes: u64,
    /// Exchange of grants and manifest, and the receiver's preparation.
    pub setup_ms: f64,
    /// From the first chunk submitted or awaited to the last one done.
    pub transfer_ms: f64,
    /// Checking digests; on the receiver this is a part of `transfer_ms`.
    pub verify_ms: f64,
    /// Moving the cache between a device's memory and the host's, where RDMA does not reach the former; on neither side
    /// a part of `transfer_ms`.
    pub staging_ms: f64,
    /// Bytes over `transfer_ms`, in 10^6 bytes a second.
    pub transfer_mb_per_s: f64,
}

impl Stats {
    /// Completes the figures that follow from the others.
    pub(super) fn finish(mut self) -> Self {
        if self.transfer_ms > 0.0 {
            self.transfer_mb_per_s = self.bytes as f64 / self.transfer_ms / 1e3;
        }
        self
    }
}

/// A duration in milliseconds.
pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Geometry, Layout, Manifest};

    #[test]
    fn every_order_has_every_chunk_once() {
        let geometry = Geometry {
            model: String::new(),
            dtype: DType::F32,
            layout: Layout::KeysAndValues,
            layers: 3,
            kv_heads: 1,
            head_dim: 8,
            seq_len: 5,
            chunk_size: 64,
        };
        let plan = ChunkPlan::new(&Manifest::new(geometry).unwrap());
        let sorted = Order::Layers.arrange(&plan);
        assert_eq!((sorted[1].layer, sorted[1].index), (0, 1));
        for order in [Order::Interleaved, Order::Reverse] {
            let mut chunks = order.arrange(&plan);
            assert_eq!(chunks[1].layer, if order == Order::Reverse { 2 } else { 1 });
            chunks.sort_by_key(|chunk| (chunk.layer, chunk.index));
            assert_eq!(chunks, sorted);
        }
    }

    #[test]
    fn rate_follows_from_bytes_and_time() {
        let stats = Stats {
            bytes: 5_000_000,
            transfer_ms: 2_000.0,
            ..Stats::default()
        }
        .finish();
        assert!((stats.transfer_mb_per_s - 2.5).abs() < 1e-9);
        assert!(Stats::default().finish().transfer_mb_per_s.abs() < 1e-9);
    }
}
