// SPDX-License-Identifier: MIT OR Apache-2.0
//! The figures of a cache, from which everything else about it follows, and their bounds.

use serde::{Deserialize, Serialize};

use super::{DType, Error, Result, imm};

/// Bytes that a cache can have at most.
pub const MAX_BYTES: u64 = 1 << 40;
/// Bounds of the chunk size in bytes; it is also a power of two, so that chunks fit into pages and
/// registered regions.
pub const CHUNK_SIZE: std::ops::RangeInclusive<u64> = 64..=1 << 30;

const MAX_MODEL_NAME: usize = 256;
/// Elements along one axis of a tensor at most.
pub const MAX_DIMENSION: u64 = 1 << 32;

/// Which tensors a layer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Keys and values, of the same shape.
    #[default]
    KeysAndValues,
    /// One tensor from which both are computed, as multi-head latent attention (MLA) has it.
    Latent,
}

impl Layout {
    /// What the tensors of a layer are called in a file, behind `layers.N.`.
    pub fn parts(self) -> &'static [&'static str] {
        match self {
            Self::KeysAndValues => &["k", "v"],
            Self::Latent => &["latent"],
        }
    }

    /// Tensors of a layer.
    pub fn tensors(self) -> u64 {
        self.parts().len() as u64
    }
}

/// The figures that determine everything else about a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// What the cache belongs to, for humans and for a check on the decoding side.
    pub model: String,
    /// The element type of K and V.
    pub dtype: DType,
    /// Which tensors a layer has.
    pub layout: Layout,
    /// Transformer layers.
    pub layers: u32,
    /// Key/value heads of a layer.
    pub kv_heads: u32,
    /// Elements of one head.
    pub head_dim: u32,
    /// Tokens in the cache.
    pub seq_len: u64,
    /// Bytes of one chunk; the first and the last of a layer may be shorter.
    pub chunk_size: u64,
}

impl Geometry {
    /// The shape of each tensor: heads, tokens, elements of a head.
    pub fn shape(&self) -> [u64; 3] {
        [
            u64::from(self.kv_heads),
            self.seq_len,
            u64::from(self.head_dim),
        ]
    }
}

pub(super) fn invalid<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::ManifestInvalid(why.into()))
}

/// Checks that auxiliary tensors of so many bytes can follow layers of so many.
pub(super) fn check_auxiliary(geometry: &Geometry, layers: u64, auxiliary: u64) -> Result<()> {
    if auxiliary == 0 {
        return Ok(());
    }
    if layers + auxiliary > MAX_BYTES {
        return invalid(format!("more than {MAX_BYTES} bytes"));
    }
    // On the wire they are one more layer.
    if geometry.layers >= imm::MAX_LAYERS {
        return invalid(format!(
            "{} layers and auxiliary tensors, beside which at most {} layers are possible",
            geometry.layers,
            imm::MAX_LAYERS - 1
        ));
    }
    check_chunks(auxiliary, geometry.chunk_size, "the auxiliary tensors")
}

/// Checks that the chunks of a layer can be numbered.
fn check_chunks(bytes: u64, chunk_size: u64, what: &str) -> Result<()> {
    // One more than its size requires, since a layer may begin in the middle of a chunk.
    let chunks = bytes.div_ceil(chunk_size) + 1;
    if chunks > u64::from(imm::MAX_CHUNKS) {
        return invalid(format!(
            "{chunks} chunks in {what}, at most {} are possible; choose a larger chunk size",
            imm::MAX_CHUNKS
        ));
    }
    Ok(())
}

/// Checks the geometry and returns the bytes of one tensor.
pub(super) fn tensor_bytes(geometry: &Geometry) -> Result<u64> {
    let Geometry {
        model,
        dtype,
        layers,
        chunk_size,
        ..
    } = geometry;
    if model.len() > MAX_MODEL_NAME || model.chars().any(char::is_control) {
        return invalid(format!(
            "the model's name has control characters or more than {MAX_MODEL_NAME} bytes"
        ));
    }
    if !(1..=imm::MAX_LAYERS).contains(layers) {
        return invalid(format!(
            "{layers} layers, 1 to {} are possible",
            imm::MAX_LAYERS
        ));
    }
    if geometry
        .shape()
        .iter()
        .any(|n| !(1..=MAX_DIMENSION).contains(n))
    {
        return invalid(format!(
            "shape {:?}, each from 1 to {MAX_DIMENSION}",
            geometry.shape()
        ));
    }
    if !CHUNK_SIZE.contains(chunk_size) || !chunk_size.is_power_of_two() {
        return invalid(format!(
            "a chunk size of {chunk_size} bytes; it is a power of two from {} to {}",
            CHUNK_SIZE.start(),
            CHUNK_SIZE.end()
        ));
    }
    let tensor = geometry
        .shape()
        .iter()
        .try_fold(dtype.size() as u64, |product, n| product.checked_mul(*n))
        .filter(|tensor| {
            let whole = tensor
                .checked_mul(geometry.layout.tensors())
                .and_then(|n| n.checked_mul(u64::from(*layers)));
            whole.is_some_and(|whole| whole <= MAX_BYTES)
        });
    let Some(tensor) = tensor else {
        return invalid(format!("more than {MAX_BYTES} bytes"));
    };
    check_chunks(geometry.layout.tensors() * tensor, *chunk_size, "a layer")?;
    Ok(tensor)
}
