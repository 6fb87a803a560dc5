// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hyper-parameters of a llama-type model.

use anyhow::{Context as _, Result, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};

/// What the forward pass needs to know about a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// The model's own name.
    pub(crate) name: String,
    /// Transformer layers.
    pub(crate) layers: usize,
    /// Query heads.
    pub(crate) heads: usize,
    /// Key/value heads; each serves `heads / kv_heads` query heads.
    pub(crate) kv_heads: usize,
    /// Elements of one head, all of them rotated by position.
    pub(crate) head_dim: usize,
    /// Elements of the residual stream.
    pub(crate) hidden: usize,
    /// Tokens that a sequence can have.
    pub(crate) context: usize,
    /// Base of the rotary frequencies.
    pub(crate) rope_base: f32,
    /// Epsilon of the RMS norms.
    pub(crate) norm_eps: f32,
}

impl Config {
    /// Reads the hyper-parameters from the metadata of a GGUF file.
    pub(crate) fn from_gguf(content: &Content) -> Result<Self> {
        let value = |key: &str| {
            content
                .metadata
                .get(key)
                .with_context(|| format!("the model has no metadata `{key}`"))
        };
        let architecture = value("general.architecture")?.to_string()?;
        if architecture != "llama" {
            bail!("the model's architecture is `{architecture}`, this example runs `llama`");
        }
        let number = |key: &str| -> Result<usize> {
            integer(value(&format!("llama.{key}"))?)
                .with_context(|| format!("`llama.{key}` is not a number"))
        };
        let float = |key: &str| -> Result<Option<f32>> {
            Ok(content
                .metadata
                .get(&format!("llama.{key}"))
                .map(Value::to_f32)
                .transpose()?)
        };
        let heads = number("attention.head_count")?;
        let hidden = number("embedding_length")?;
        let config = Self {
            name: match content.metadata.get("general.name") {
                Some(name) => name.to_string()?.clone(),
                None => "unnamed".into(),
            },
            layers: number("block_count")?,
            heads,
            kv_heads: number("attention.head_count_kv")?,
            head_dim: hidden.checked_div(heads).unwrap_or(0),
            hidden,
            context: number("context_length")?,
            rope_base: float("rope.freq_base")?.unwrap_or(10_000.0),
            norm_eps: float("attention.layer_norm_rms_epsilon")?
                .context("the model has no metadata `llama.attention.layer_norm_rms_epsilon`")?,
        };
        config.check()?;
        let rotated = number("rope.dimension_count").unwrap_or(config.head_dim);
        ensure!(
            rotated == config.head_dim,
            "the model rotates {rotated} of {} elements of a head; this example rotates all",
            config.head_dim
        );
        Ok(config)
    }

    /// Refuses figures that the forward pass cannot work with.
    pub(crate) fn check(&self) -> Result<()> {
        let Self {
            layers,
            heads,
            kv_heads,
            head_dim,
            hidden,
            context,
            ..
        } = self;
        ensure!(
            [layers, heads, kv_heads, head_dim, hidden, context]
                .iter()
                .all(|n| **n > 0)
                && heads % kv_heads == 0
                && heads * head_dim == *hidden
                && head_dim % 2 == 0,
            "the model's figures do not fit together: {self:?}"
        );
        Ok(())
    }
}

fn integer(value: &Value) -> Option<usize> {
    let value = match value {
        Value::U8(n) => u64::from(*n),
        Value::U16(n) => u64::from(*n),
        Value::U32(n) => u64::from(*n),
        Value::U64(n) => *n,
        Value::I32(n) => u64::try_from(*n).ok()?,
        Value::I64(n) => u64::try_from(*n).ok()?,
        _ => return None,
    };
    usize::try_from(value).ok()
}
