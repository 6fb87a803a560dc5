// SPDX-License-Identifier: MIT OR Apache-2.0
//! A cache that belongs to no model, to try a transfer with.

use std::path::Path;

use super::file;
use super::{DType, Geometry, Layout, Manifest, Result};

const KV_HEADS: u32 = 8;
const HEAD_DIM: u32 = 64;
const CHUNK_SIZE: u64 = 64 << 10;
/// Bytes of one token in one layer: keys and values of two bytes per element.
const TOKEN_BYTES: u64 = 2 * 2 * (KV_HEADS * HEAD_DIM) as u64;

/// Writes a cache of `layers` layers and `tokens` tokens, 2 KiB each, whose bytes are all different enough that a
/// chunk in a wrong place shows. The same figures give the same bytes.
///
/// # Errors
/// [`super::Error::ManifestInvalid`] when a figure is zero or too large, [`super::Error::Io`].
pub fn write(path: &Path, layers: u32, tokens: u64) -> Result<Manifest> {
    let geometry = Geometry {
        model: "sample".to_owned(),
        dtype: DType::F16,
        layout: Layout::KeysAndValues,
        layers,
        kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        seq_len: tokens,
        chunk_size: CHUNK_SIZE,
    };
    // The figures are checked before their product is used.
    let bytes = Manifest::new(geometry.clone())?.bytes();
    let mut data = Vec::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while (data.len() as u64) < bytes {
        // Marsaglia's xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    debug_assert_eq!(data.len() as u64, TOKEN_BYTES * tokens * u64::from(layers));
    let manifest = Manifest::describe(geometry, &data)?;
    file::write(path, &manifest, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::KvFile;

    #[test]
    fn a_sample_can_be_read_and_is_the_same_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let written = write(&path("a"), 3, 5).unwrap();
        assert_eq!(written.bytes(), 3 * 5 * TOKEN_BYTES);
        write(&path("b"), 3, 5).unwrap();
        let bytes = std::fs::read(path("a")).unwrap();
        assert_eq!(bytes, std::fs::read(path("b")).unwrap());
        let read = KvFile::read(&path("a")).unwrap();
        assert_eq!(read.manifest(), &written);
        assert_ne!(written.layers()[0].digest, written.layers()[1].digest);
    }

    #[test]
    fn impossible_figures_are_refused_before_memory_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(write(&path, 0, 5).is_err());
        assert!(write(&path, 3, 0).is_err());
        assert!(write(&path, 4096, u64::MAX).is_err());
        assert!(!path.exists());
    }
}
