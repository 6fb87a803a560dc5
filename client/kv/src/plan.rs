// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the layers of a cache are cut into chunks.
//!
//! The cuts are at multiples of the chunk size from the start of the data, and where layers meet.
//! That size is a power of two, so no chunk crosses a folio or registered region of its size, and
//! the driver moves each with one work request; only the first and last of a layer are shorter.

use super::{Error, Imm, Manifest, Result};

/// One chunk: what one WRITE WITH IMMEDIATE moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// The layer it belongs to.
    pub layer: u32,
    /// Its number within the layer.
    pub index: u32,
    /// Bytes from the start of the cache's data.
    pub offset: u64,
    /// Its length in bytes; the first and the last of a layer may be shorter than the chunk size.
    pub len: u64,
}

impl Chunk {
    /// The immediate that names it.
    pub fn imm(&self) -> Imm {
        Imm::Chunk {
            layer: self.layer,
            chunk: self.index,
        }
    }
}

/// The chunks of a cache. A chunk never spans two layers, so that a layer can be used as soon as
/// its own chunks are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPlan {
    chunk_size: u64,
    /// Offset and length of each layer.
    layers: Vec<(u64, u64)>,
    /// Number of the first chunk of each layer, and as the last entry the number of all chunks.
    first: Vec<u64>,
}

impl ChunkPlan {
    /// Plans the chunks of a cache.
    pub fn new(manifest: &Manifest) -> Self {
        let chunk_size = manifest.geometry().chunk_size;
        let layers = manifest.layers().iter();
        let mut layers: Vec<_> = layers.map(|l| (l.offset(), l.bytes())).collect();
        // The auxiliary tensors are one more layer.
        let auxiliary = manifest.bytes() - manifest.layer_bytes();
        if auxiliary > 0 {
            layers.push((manifest.layer_bytes(), auxiliary));
        }
        let mut first = vec![0];
        let mut total = 0;
        for (start, bytes) in &layers {
            total += (start + bytes).div_ceil(chunk_size) - start / chunk_size;
            first.push(total);
        }
        Self {
            chunk_size,
            layers,
            first,
        }
    }

    /// Layers in the plan, of which the last one may be all auxiliary tensors together.
    pub fn layers(&self) -> u32 {
        self.layers.len() as u32
    }

    /// Chunks in all layers together.
    pub fn total(&self) -> u64 {
        self.first[self.layers.len()]
    }

    /// Chunks of one layer; 0 when there is no such layer.
    pub fn chunks_in(&self, layer: u32) -> u32 {
        let layer = layer as usize;
        match self.first.get(layer..=layer + 1) {
            Some([from, to]) => (to - from) as u32,
            _ => 0,
        }
    }

    /// One chunk.
    ///
    /// # Errors
    /// [`Error::UnknownChunk`] when the layer or the chunk does not exist.
    pub fn chunk(&self, layer: u32, index: u32) -> Result<Chunk> {
        if index >= self.chunks_in(layer) {
            return Err(Error::UnknownChunk {
                layer,
                chunk: index,
            });
        }
        let (start, bytes) = self.layers[layer as usize];
        let cut = (start / self.chunk_size + u64::from(index)) * self.chunk_size;
        let offset = cut.max(start);
        let len = (cut + self.chunk_size).min(start + bytes) - offset;
        Ok(Chunk {
            layer,
            index,
            offset,
            len,
        })
    }

    /// The number of a chunk among all chunks, layer by layer.
    pub(super) fn position(&self, chunk: &Chunk) -> usize {
        (self.first[chunk.layer as usize] + u64::from(chunk.index)) as usize
    }

    /// All chunks, layer by layer.
    pub fn iter(&self) -> impl Iterator<Item = Chunk> + '_ {
        (0..self.layers())
            .flat_map(|layer| (0..self.chunks_in(layer)).map(move |index| (layer, index)))
            .filter_map(|(layer, index)| self.chunk(layer, index).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Digest, Geometry, Layout, auxiliary::Auxiliary};

    fn plan(seq_len: u64, chunk_size: u64) -> (Manifest, ChunkPlan) {
        let manifest = Manifest::new(Geometry {
            model: String::new(),
            dtype: DType::F32,
            layout: Layout::KeysAndValues,
            layers: 3,
            kv_heads: 1,
            head_dim: 8,
            seq_len,
            chunk_size,
        })
        .unwrap();
        let plan = ChunkPlan::new(&manifest);
        (manifest, plan)
    }

    #[test]
    fn chunks_tile_every_layer_exactly() {
        for (seq_len, chunk_size) in [(1, 64), (3, 64), (7, 128), (4, 1 << 20)] {
            let (manifest, plan) = plan(seq_len, chunk_size);
            let mut next = 0;
            for chunk in plan.iter() {
                assert_eq!(chunk.offset, next);
                assert!(chunk.len > 0 && chunk.len <= chunk_size);
                next += chunk.len;
                let layer = &manifest.layers()[chunk.layer as usize];
                assert!(chunk.offset + chunk.len <= layer.offset() + layer.bytes());
            }
            assert_eq!(next, manifest.bytes());
            assert_eq!(plan.iter().count() as u64, plan.total());
        }
    }

    #[test]
    fn cuts_are_at_multiples_of_the_chunk_size_and_between_layers() {
        // A layer of 3 tokens * 8 elements * 4 bytes * 2 tensors = 192 bytes.
        let (_, plan) = plan(3, 128);
        let lengths: Vec<_> = plan.iter().map(|chunk| chunk.len).collect();
        assert_eq!(lengths, [128, 64, 64, 128, 128, 64]);
        assert_eq!(plan.chunk(2, 1).unwrap().offset, 4 * 128);
        for chunk in plan.iter() {
            assert_eq!(chunk.offset / 128, (chunk.offset + chunk.len - 1) / 128);
        }
    }

    #[test]
    fn auxiliary_tensors_are_one_more_layer() {
        let tensor = |name: &str, n| Auxiliary {
            name: name.into(),
            dtype: safetensors::Dtype::U8,
            shape: vec![n],
            digest: Digest::ZERO,
        };
        let (manifest, _) = plan(3, 128);
        let empty = manifest
            .clone()
            .with_auxiliary(vec![tensor("a", 0)])
            .unwrap();
        assert_eq!(ChunkPlan::new(&empty).layers(), 3);
        let both = vec![tensor("a", 60), tensor("b", 10)];
        let plan = ChunkPlan::new(&manifest.with_auxiliary(both).unwrap());
        assert_eq!((plan.layers(), plan.chunks_in(3)), (4, 2));
        let last: Vec<_> = (0..2).map(|n| plan.chunk(3, n).unwrap()).collect();
        assert_eq!((last[0].offset, last[0].len, last[1].len), (576, 64, 6));
    }

    #[test]
    fn what_is_not_planned_is_refused() {
        let (_, plan) = plan(3, 128);
        for (layer, chunk) in [(0, 2), (3, 0), (u32::MAX, 0), (0, u32::MAX)] {
            assert!(matches!(
                plan.chunk(layer, chunk),
                Err(Error::UnknownChunk { .. })
            ));
        }
    }
}
