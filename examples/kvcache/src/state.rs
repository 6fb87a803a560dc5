// SPDX-License-Identifier: MIT OR Apache-2.0
//! What decode needs besides the KV cache itself.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use dmaplane_kv::{Digest, Manifest};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// The small part of a prefill's result, which travels as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    /// The prompt as tokens; the cache has one entry for each.
    pub(crate) prompt_tokens: Vec<u32>,
    /// The first token after the prompt.
    pub(crate) next_token: u32,
    /// The digest of the cache that prefill wrote.
    pub(crate) kv_digest: Digest,
}

impl State {
    /// Records a prefill.
    pub(crate) fn new(prompt_tokens: Vec<u32>, next_token: u32, kv: &Manifest) -> Self {
        Self {
            version: VERSION,
            prompt_tokens,
            next_token,
            kv_digest: kv.digest(),
        }
    }

    /// Writes it to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads it from a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
        let state = read().with_context(|| format!("cannot read the state {}", path.display()))?;
        let version = state.version;
        ensure!(
            version == VERSION,
            "{} has version {version}, not {VERSION}",
            path.display()
        );
        Ok(state)
    }

    /// Checks that a cache is the one that this prefill wrote, bit for bit.
    pub(crate) fn check(&self, kv: &Manifest) -> Result<()> {
        ensure!(
            kv.geometry().seq_len == self.prompt_tokens.len() as u64,
            "the cache has {} tokens, the prompt {}; they do not belong together",
            kv.geometry().seq_len,
            self.prompt_tokens.len(),
        );
        ensure!(
            kv.digest() == self.kv_digest,
            "the cache is not the one that prefill wrote: digest {}, expected {}",
            kv.digest(),
            self.kv_digest,
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmaplane_kv::{DType, Geometry, Layout};

    fn manifest(seq_len: u64, fill: u8) -> Manifest {
        let geometry = Geometry {
            model: "m".into(),
            dtype: DType::F32,
            layout: Layout::KeysAndValues,
            layers: 1,
            kv_heads: 1,
            head_dim: 2,
            seq_len,
            chunk_size: 64,
        };
        Manifest::describe(geometry, &vec![fill; 16 * seq_len as usize]).unwrap()
    }

    #[test]
    fn a_foreign_cache_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        State::new(vec![5, 6], 7, &manifest(2, 1))
            .write(&path)
            .unwrap();
        let state = State::read(&path).unwrap();
        assert_eq!(
            (state.next_token, &state.prompt_tokens[..]),
            (7, &[5, 6][..])
        );
        state.check(&manifest(2, 1)).unwrap();
        let error = state.check(&manifest(2, 2)).unwrap_err().to_string();
        assert!(error.contains("digest"), "{error}");
        let error = state.check(&manifest(3, 1)).unwrap_err().to_string();
        assert!(error.contains("3 tokens"), "{error}");
        std::fs::write(&path, "{}").unwrap();
        assert!(State::read(&path).is_err());
    }
}
