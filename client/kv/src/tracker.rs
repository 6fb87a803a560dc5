// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which chunks have arrived.

use super::{Chunk, ChunkPlan, Error, Imm, Result};

/// Follows the arrival of chunks, in any order, against a plan.
///
/// Each chunk is accepted once. What the peer announces is not trusted: an immediate that names
/// nothing, names a chunk a second time or comes with a wrong length is an error, and changes
/// nothing.
#[derive(Clone, Debug)]
pub struct Tracker {
    plan: ChunkPlan,
    /// One bit for each chunk, layer by layer.
    seen: Vec<u64>,
    /// Chunks still missing in each layer.
    missing: Vec<u32>,
    chunks: u64,
    bytes: u64,
}

/// What the arrival of a chunk means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The chunk that arrived.
    pub chunk: Chunk,
    /// It was the last one missing in its layer.
    pub layer_complete: bool,
    /// It was the last one missing at all.
    pub all_complete: bool,
}

impl Tracker {
    /// Starts with nothing arrived.
    pub fn new(plan: ChunkPlan) -> Self {
        let missing = (0..plan.layers())
            .map(|layer| plan.chunks_in(layer))
            .collect();
        let seen = vec![0; plan.total().div_ceil(64) as usize];
        Self {
            plan,
            seen,
            missing,
            chunks: 0,
            bytes: 0,
        }
    }

    /// Takes the immediate and the length of one completed receive.
    ///
    /// # Errors
    /// [`Error::ImmediateReserved`], [`Error::UnexpectedImmediate`] for a control message,
    /// [`Error::UnknownChunk`], [`Error::ChunkLength`] or [`Error::DuplicateChunk`].
    pub fn accept(&mut self, immediate: u32, len: u64) -> Result<Arrival> {
        let (layer, index) = match Imm::decode(immediate)? {
            Imm::Chunk { layer, chunk } => (layer, chunk),
            found => {
                return Err(Error::UnexpectedImmediate {
                    expected: "a chunk",
                    found,
                });
            }
        };
        let chunk = self.plan.chunk(layer, index)?;
        if len != chunk.len {
            let expected = chunk.len;
            return Err(Error::ChunkLength {
                layer,
                chunk: index,
                found: len,
                expected,
            });
        }
        let position = self.plan.position(&chunk);
        let (word, bit) = (&mut self.seen[position / 64], 1 << (position % 64));
        if *word & bit != 0 {
            return Err(Error::DuplicateChunk {
                layer,
                chunk: index,
            });
        }
        *word |= bit;
        self.chunks += 1;
        self.bytes += len;
        let missing = &mut self.missing[layer as usize];
        *missing -= 1;
        let layer_complete = *missing == 0;
        Ok(Arrival {
            chunk,
            layer_complete,
            all_complete: self.is_complete(),
        })
    }

    /// Every chunk has arrived.
    pub fn is_complete(&self) -> bool {
        self.chunks == self.plan.total()
    }

    /// Every chunk of this layer has arrived; `false` when there is no such layer.
    pub fn is_layer_complete(&self, layer: u32) -> bool {
        self.missing.get(layer as usize) == Some(&0)
    }

    /// Chunks that have arrived.
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// Bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The plan it follows.
    pub fn plan(&self) -> &ChunkPlan {
        &self.plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Geometry, Layout, Manifest};
    use proptest::prelude::*;

    fn plan(layers: u32, seq_len: u64) -> ChunkPlan {
        let manifest = Manifest::new(Geometry {
            model: String::new(),
            dtype: DType::F32,
            layout: Layout::KeysAndValues,
            layers,
            kv_heads: 1,
            head_dim: 8,
            seq_len,
            chunk_size: 128,
        });
        ChunkPlan::new(&manifest.unwrap())
    }

    #[test]
    fn lies_are_refused_and_change_nothing() {
        let mut tracker = Tracker::new(plan(2, 3));
        let first = Imm::chunk(0, 0).unwrap().encode();
        tracker.accept(first, 128).unwrap();
        assert!(matches!(
            tracker.accept(first, 128),
            Err(Error::DuplicateChunk { .. })
        ));
        let short = Imm::chunk(1, 0).unwrap().encode();
        assert!(matches!(
            tracker.accept(short, 128),
            Err(Error::ChunkLength { expected: 64, .. })
        ));
        let beyond = Imm::chunk(2, 0).unwrap().encode();
        assert!(matches!(
            tracker.accept(beyond, 128),
            Err(Error::UnknownChunk { .. })
        ));
        assert!(matches!(
            tracker.accept(Imm::End.encode(), 0),
            Err(Error::UnexpectedImmediate { .. })
        ));
        assert!(matches!(
            tracker.accept(u32::MAX, 0),
            Err(Error::ImmediateReserved(_))
        ));
        assert_eq!((tracker.chunks(), tracker.bytes()), (1, 128));
    }

    proptest! {
        #[test]
        fn any_order_completes_each_layer_once_and_everything_at_the_last_chunk(
            (plan, order) in (1u32..6, 1u64..12).prop_flat_map(|(layers, seq_len)| {
                let plan = plan(layers, seq_len);
                let chunks: Vec<Chunk> = plan.iter().collect();
                (Just(plan), Just(chunks).prop_shuffle())
            })
        ) {
            let mut tracker = Tracker::new(plan.clone());
            let mut complete = vec![false; plan.layers() as usize];
            for (n, chunk) in order.iter().enumerate() {
                prop_assert!(!tracker.is_complete());
                let arrival = tracker.accept(chunk.imm().encode(), chunk.len).unwrap();
                prop_assert_eq!(&arrival.chunk, chunk);
                let rest = &order[n + 1..];
                prop_assert_eq!(arrival.layer_complete, rest.iter().all(|c| c.layer != chunk.layer));
                prop_assert_eq!(arrival.all_complete, rest.is_empty());
                if arrival.layer_complete {
                    prop_assert!(!std::mem::replace(&mut complete[chunk.layer as usize], true));
                    prop_assert!(tracker.is_layer_complete(chunk.layer));
                }
            }
            prop_assert!(complete.iter().all(|c| *c));
            prop_assert_eq!(tracker.bytes(), order.iter().map(|c| c.len).sum::<u64>());
        }
    }
}
