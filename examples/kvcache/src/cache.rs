// SPDX-License-Identifier: MIT OR Apache-2.0
//! The key/value cache of a sequence, layer by layer, and its way into and out of a file.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use dmaplane_kv::{self as kv, TensorView, file::KvFile};

use crate::config::Config;

/// Keys and values of every layer, each `[1, kv_heads, tokens, head_dim]`.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    dtype: kv::DType,
    layers: Vec<Option<(Tensor, Tensor)>>,
}

impl Cache {
    /// An empty cache that keeps its elements in the given type.
    pub(crate) fn new(config: &Config, dtype: kv::DType) -> Self {
        Self {
            dtype,
            layers: vec![None; config.layers],
        }
    }

    /// Tokens in the cache.
    pub(crate) fn tokens(&self) -> usize {
        match self.layers.first() {
            Some(Some((k, _))) => k.dims()[2],
            _ => 0,
        }
    }

    /// Appends the keys and values of new tokens to a layer and returns all of that layer as the
    /// attention reads it, in `f32`.
    ///
    /// The new ones also go through the cache's type, so that attention sees the same values
    /// whether they were computed here or came through a file.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let dtype = to_candle(self.dtype)?;
        let (k, v) = (k.to_dtype(dtype)?, v.to_dtype(dtype)?);
        let (k, v) = match &self.layers[layer] {
            Some((old_k, old_v)) => (Tensor::cat(&[old_k, &k], 2)?, Tensor::cat(&[old_v, &v], 2)?),
            None => (k.contiguous()?, v.contiguous()?),
        };
        self.layers[layer] = Some((k.clone(), v.clone()));
        Ok((k.to_dtype(DType::F32)?, v.to_dtype(DType::F32)?))
    }

    /// Writes one layer, which must have the tokens that the writer was created for.
    pub(crate) fn write_layer(&self, layer: usize, writer: &mut kv::file::Writer) -> Result<()> {
        let Some(Some((k, v))) = self.layers.get(layer) else {
            anyhow::bail!("layer {layer} has not been computed");
        };
        let (shape, mut keys, mut values) = (k.dims()[1..].to_vec(), Vec::new(), Vec::new());
        k.write_bytes(&mut keys)?;
        v.write_bytes(&mut values)?;
        let k = TensorView::dense(self.dtype, &shape, &keys)?;
        let v = TensorView::dense(self.dtype, &shape, &values)?;
        Ok(writer.put_layer(layer, &k, &v)?)
    }

    /// Takes the cache out of a file, after checking that it belongs to a model of this shape.
    pub(crate) fn from_file(config: &Config, file: &KvFile, device: &Device) -> Result<Self> {
        let geometry = file.manifest().geometry();
        let have = (
            geometry.layers as usize,
            geometry.kv_heads as usize,
            geometry.head_dim as usize,
        );
        let want = (config.layers, config.kv_heads, config.head_dim);
        ensure!(
            have == want && geometry.model == config.name,
            "the cache belongs to `{}` with (layers, KV heads, head size) {have:?}, \
             the model is `{}` with {want:?}",
            geometry.model,
            config.name,
        );
        let tensor = |view: TensorView| -> Result<Tensor> {
            let mut bytes = Vec::new();
            view.append_to(&mut bytes);
            let shape: Vec<usize> = [1].iter().chain(view.shape()).copied().collect();
            Ok(Tensor::from_raw_buffer(
                &bytes,
                to_candle(view.dtype())?,
                &shape,
                device,
            )?)
        };
        let layers = (0..config.layers).map(|layer| {
            let (k, v) = file.layer(layer)?;
            Ok(Some((tensor(k)?, tensor(v)?)))
        });
        Ok(Self {
            dtype: geometry.dtype,
            layers: layers.collect::<Result<_>>()?,
        })
    }
}

/// Starts a file for the cache of a prompt.
pub(crate) fn create_file(
    path: &Path,
    config: &Config,
    dtype: kv::DType,
    tokens: usize,
    chunk_size: u64,
) -> Result<kv::file::Writer> {
    let geometry = kv::Geometry {
        model: config.name.clone(),
        dtype,
        layout: kv::Layout::KeysAndValues,
        layers: u32::try_from(config.layers)?,
        kv_heads: u32::try_from(config.kv_heads)?,
        head_dim: u32::try_from(config.head_dim)?,
        seq_len: tokens as u64,
        chunk_size,
    };
    Ok(kv::file::Writer::create(path, geometry)?)
}

fn to_candle(dtype: kv::DType) -> candle_core::Result<DType> {
    match dtype {
        kv::DType::F32 => Ok(DType::F32),
        kv::DType::F16 => Ok(DType::F16),
        kv::DType::Bf16 => Ok(DType::BF16),
        other => candle_core::bail!(
            "a cache of {other} needs scales, which this model does not have: use f32, f16 or bf16"
        ),
    }
}
