// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rotary position embedding.
//!
//! GGUF files of llama models have the rows of the query and key weights permuted so that the two
//! elements that rotate together are neighbours: the *interleaved* form.

use candle_core::{Device, Result, Tensor};

use crate::config::Config;

/// Cosines and sines for every position of the context.
#[derive(Debug)]
pub(crate) struct Rope {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// Computes the tables of a model.
    pub(crate) fn new(config: &Config, device: &Device) -> Result<Self> {
        let half = config.head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|n| {
                config
                    .rope_base
                    .powf(-((2 * n) as f32) / config.head_dim as f32)
            })
            .collect();
        let frequencies = Tensor::from_vec(frequencies, (1, half), device)?;
        let positions: Vec<f32> = (0..config.context).map(|n| n as f32).collect();
        let positions = Tensor::from_vec(positions, (config.context, 1), device)?;
        let angles = positions.matmul(&frequencies)?;
        Ok(Self {
            cos: angles.cos()?,
            sin: angles.sin()?,
        })
    }

    /// Rotates `x` of shape `[1, heads, tokens, head_dim]`, whose first token has the given
    /// position.
    pub(crate) fn rotate(&self, x: &Tensor, position: usize) -> Result<Tensor> {
        let tokens = x.dim(2)?;
        let cos = self.cos.narrow(0, position, tokens)?;
        let sin = self.sin.narrow(0, position, tokens)?;
        candle_nn::rotary_emb::rope_i(&x.contiguous()?, &cos, &sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::tiny;

    /// The definition: the pair (2n, 2n+1) is turned by position * base^(-2n/dim).
    fn naive(x: &[f32], position: usize, base: f32) -> Vec<f32> {
        let dim = x.len();
        let mut out = vec![0.0; dim];
        for n in 0..dim / 2 {
            let angle = position as f32 * base.powf(-((2 * n) as f32) / dim as f32);
            let (sin, cos) = angle.sin_cos();
            out[2 * n] = x[2 * n] * cos - x[2 * n + 1] * sin;
            out[2 * n + 1] = x[2 * n] * sin + x[2 * n + 1] * cos;
        }
        out
    }

    #[test]
    fn agrees_with_the_definition_at_any_position() {
        let config = tiny();
        let rope = Rope::new(&config, &Device::Cpu).unwrap();
        let (heads, tokens, dim) = (2, 3, config.head_dim);
        let x: Vec<f32> = (0..heads * tokens * dim)
            .map(|n| (n as f32 * 0.37).sin())
            .collect();
        let tensor = Tensor::from_slice(&x, (1, heads, tokens, dim), &Device::Cpu).unwrap();
        for start in [0, 1, config.context - tokens] {
            let rotated = rope.rotate(&tensor, start).unwrap();
            let rotated = rotated.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (n, (got, from)) in rotated.chunks(dim).zip(x.chunks(dim)).enumerate() {
                let expected = naive(from, start + n % tokens, config.rope_base);
                for (a, b) in got.iter().zip(expected) {
                    assert!(
                        (a - b).abs() < 1e-5,
                        "{a} instead of {b} at token {n} from {start}"
                    );
                }
            }
        }
        assert!(
            rope.rotate(&tensor, config.context).is_err(),
            "beyond the context"
        );
    }
}
