// SPDX-License-Identifier: MIT OR Apache-2.0
//! The forward pass of a llama-type model over candle's operations, with the KV cache outside.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use candle_core::quantized::{QMatMul, gguf_file::Content};
use candle_core::{D, Device, Module as _, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};

use crate::cache::Cache;
use crate::config::Config;
use crate::rope::Rope;

/// A model: hyper-parameters and weights, without any state of a sequence.
#[derive(Debug)]
pub(crate) struct Model {
    config: Config,
    device: Device,
    embedding: QMatMul,
    layers: Vec<Layer>,
    norm: Tensor,
    /// The output projection; `None` where the embedding serves as such.
    head: Option<QMatMul>,
    rope: Rope,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Tensor,
    q: QMatMul,
    k: QMatMul,
    v: QMatMul,
    o: QMatMul,
    ffn_norm: Tensor,
    gate: QMatMul,
    up: QMatMul,
    down: QMatMul,
}

/// Where weights come from: a file, or a test.
trait Weights {
    fn matrix(&mut self, name: &str) -> Result<QMatMul>;
    fn vector(&mut self, name: &str) -> Result<Tensor>;
    fn has(&self, name: &str) -> bool;
}

struct Gguf<'a> {
    content: &'a Content,
    file: BufReader<File>,
    device: Device,
}

impl Weights for Gguf<'_> {
    fn matrix(&mut self, name: &str) -> Result<QMatMul> {
        Ok(QMatMul::from_qtensor(self.content.tensor(
            &mut self.file,
            name,
            &self.device,
        )?)?)
    }

    fn vector(&mut self, name: &str) -> Result<Tensor> {
        Ok(self
            .content
            .tensor(&mut self.file, name, &self.device)?
            .dequantize(&self.device)?)
    }

    fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }
}

impl Model {
    /// Loads a GGUF file. Returns its metadata, too: the tokenizer is in there.
    pub(crate) fn load(path: &Path) -> Result<(Self, Content)> {
        let read = || -> Result<_> {
            let mut file = BufReader::new(File::open(path)?);
            let content = Content::read(&mut file)?;
            let config = Config::from_gguf(&content)?;
            let device = Device::Cpu;
            let mut weights = Gguf {
                content: &content,
                file,
                device: device.clone(),
            };
            let model = Self::build(config, &mut weights, device)?;
            Ok((model, content))
        };
        read().with_context(|| format!("cannot load the model {}", path.display()))
    }

    fn build(config: Config, weights: &mut impl Weights, device: Device) -> Result<Self> {
        config.check()?;
        let layers = (0..config.layers)
            .map(|n| {
                let name = |part: &str| format!("blk.{n}.{part}.weight");
                Ok(Layer {
                    attention_norm: weights.vector(&name("attn_norm"))?,
                    q: weights.matrix(&name("attn_q"))?,
                    k: weights.matrix(&name("attn_k"))?,
                    v: weights.matrix(&name("attn_v"))?,
                    o: weights.matrix(&name("attn_output"))?,
                    ffn_norm: weights.vector(&name("ffn_norm"))?,
                    gate: weights.matrix(&name("ffn_gate"))?,
                    up: weights.matrix(&name("ffn_up"))?,
                    down: weights.matrix(&name("ffn_down"))?,
                })
            })
            .collect::<Result<_>>()?;
        let head = weights
            .has("output.weight")
            .then(|| weights.matrix("output.weight"));
        Ok(Self {
            embedding: weights.matrix("token_embd.weight")?,
            layers,
            norm: weights.vector("output_norm.weight")?,
            head: head.transpose()?,
            rope: Rope::new(&config, &device)?,
            config,
            device,
        })
    }

    /// The hyper-parameters.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Where the tensors live.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Runs tokens that follow those in the cache, adds their keys and values to it, and returns
    /// the logits after the last one. `layer_done` is called with each layer as soon as its part of
    /// the cache is final.
    pub(crate) fn forward(
        &self,
        tokens: &[u32],
        cache: &mut Cache,
        mut layer_done: impl FnMut(usize, &Cache) -> Result<()>,
    ) -> Result<Tensor> {
        let position = cache.tokens();
        let context = self.config.context;
        ensure!(!tokens.is_empty(), "no tokens to run");
        ensure!(
            position + tokens.len() <= context,
            "{} tokens exceed the model's context of {context}",
            position + tokens.len(),
        );
        let ids = Tensor::new(tokens, &self.device)?;
        let mask = self.mask(tokens.len(), position)?;
        let mut x = self.embedding.embedding(&ids)?.unsqueeze(0)?;
        for (n, layer) in self.layers.iter().enumerate() {
            let normed = rms_norm(&x, &layer.attention_norm, self.config.norm_eps)?;
            let attended = self.attention(n, layer, &normed, cache, mask.as_ref(), position)?;
            layer_done(n, cache)?;
            x = (x + attended)?;
            let normed = rms_norm(&x, &layer.ffn_norm, self.config.norm_eps)?;
            let gated = (silu(&layer.gate.forward(&normed)?)? * layer.up.forward(&normed)?)?;
            x = (x + layer.down.forward(&gated)?)?;
        }
        let last = x.narrow(1, tokens.len() - 1, 1)?.contiguous()?;
        let last = rms_norm(&last, &self.norm, self.config.norm_eps)?;
        let logits = self
            .head
            .as_ref()
            .unwrap_or(&self.embedding)
            .forward(&last)?;
        Ok(logits.flatten_all()?)
    }

    fn attention(
        &self,
        n: usize,
        layer: &Layer,
        x: &Tensor,
        cache: &mut Cache,
        mask: Option<&Tensor>,
        position: usize,
    ) -> Result<Tensor> {
        let Config {
            heads,
            kv_heads,
            head_dim,
            hidden,
            ..
        } = self.config;
        let tokens = x.dim(1)?;
        let by_head = |x: Tensor, heads| x.reshape((1, tokens, heads, head_dim))?.transpose(1, 2);
        let q = self
            .rope
            .rotate(&by_head(layer.q.forward(x)?, heads)?, position)?;
        let k = self
            .rope
            .rotate(&by_head(layer.k.forward(x)?, kv_heads)?, position)?;
        let v = by_head(layer.v.forward(x)?, kv_heads)?;
        let (k, v) = cache.append(n, &k, &v)?;
        let (k, v) = (k.squeeze(0)?.contiguous()?, v.squeeze(0)?.contiguous()?);
        // The query heads that share a KV head are stacked, so that nothing needs repeating.
        let shared = heads / kv_heads;
        let q = q.reshape((kv_heads, shared * tokens, head_dim))?;
        let scores = (q.matmul(&k.transpose(1, 2)?)? / (head_dim as f64).sqrt())?;
        let keys = scores.dim(D::Minus1)?;
        let scores = match mask {
            Some(mask) => scores
                .reshape((heads, tokens, keys))?
                .broadcast_add(mask)?
                .reshape((kv_heads, shared * tokens, keys))?,
            None => scores,
        };
        let mixed = softmax_last_dim(&scores)?.matmul(&v)?;
        let mixed = mixed.reshape((heads, tokens, head_dim))?.transpose(0, 1)?;
        let mixed = mixed.contiguous()?.reshape((1, tokens, hidden))?;
        Ok(layer.o.forward(&mixed)?)
    }

    /// Minus infinity wherever a token would look at a later one; a single token needs no mask.
    fn mask(&self, tokens: usize, position: usize) -> Result<Option<Tensor>> {
        if tokens == 1 {
            return Ok(None);
        }
        let keys = position + tokens;
        let mask: Vec<f32> = (0..tokens)
            .flat_map(|row| (0..keys).map(move |column| (row, column)))
            .map(|(row, column)| {
                if column > position + row {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        Ok(Some(Tensor::from_vec(mask, (tokens, keys), &self.device)?))
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(crate) mod tests;
