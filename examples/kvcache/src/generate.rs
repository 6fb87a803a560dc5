// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prefill and greedy decode.

use anyhow::{Context as _, Result};
use candle_core::Tensor;

use crate::cache::Cache;
use crate::model::Model;

/// Runs a prompt and returns the first token that follows it.
pub(crate) fn prefill(
    model: &Model,
    prompt: &[u32],
    cache: &mut Cache,
    layer_done: impl FnMut(usize, &Cache) -> Result<()>,
) -> Result<u32> {
    greedy(&model.forward(prompt, cache, layer_done)?)
}

/// Continues from a cache: returns up to `count` tokens, of which `first` is the first, and stops
/// before the token that ends a turn.
pub(crate) fn decode(
    model: &Model,
    first: u32,
    count: usize,
    end: Option<u32>,
    cache: &mut Cache,
    mut token_done: impl FnMut(u32) -> Result<()>,
) -> Result<Vec<u32>> {
    let mut tokens = Vec::new();
    let mut next = first;
    while tokens.len() < count && Some(next) != end {
        tokens.push(next);
        token_done(next)?;
        // The last token's successor is not needed, so that token is not run.
        if tokens.len() < count {
            next = greedy(&model.forward(&[next], cache, |_, _| Ok(()))?)?;
        }
    }
    Ok(tokens)
}

/// The most likely token; the first one of equals.
fn greedy(logits: &Tensor) -> Result<u32> {
    let logits = logits.to_vec1::<f32>()?;
    let best = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| !logit.is_nan())
        .reduce(|best, other| if other.1 > best.1 { other } else { best });
    let (token, _) = best.context("the model gave no logits; its weights may be damaged")?;
    Ok(u32::try_from(token)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn greedy_takes_the_first_of_equals_and_no_nan() {
        let pick = |logits: &[f32]| greedy(&Tensor::new(logits, &Device::Cpu).unwrap());
        assert_eq!(pick(&[0.0, 2.0, 1.0, 2.0]).unwrap(), 1);
        assert_eq!(pick(&[f32::NAN, -3.0]).unwrap(), 1);
        assert!(pick(&[f32::NAN]).is_err());
    }
}
