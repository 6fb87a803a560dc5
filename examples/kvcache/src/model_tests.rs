// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the forward pass with a tiny model of random weights.

use dmaplane_kv::{DType, file::KvFile};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::cache;
use crate::generate;

/// A model of the right kind, small enough for a test.
pub(crate) fn tiny() -> Config {
    Config {
        name: "tiny".into(),
        layers: 3,
        heads: 6,
        kv_heads: 2,
        head_dim: 4,
        hidden: 24,
        context: 64,
        rope_base: 10_000.0,
        norm_eps: 1e-5,
    }
}

const VOCABULARY: usize = 50;

struct Random(SmallRng);

impl Random {
    fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| self.0.random_range(-0.5..0.5)).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

impl Weights for Random {
    fn matrix(&mut self, name: &str) -> Result<QMatMul> {
        let shape = match name.split('.').rev().nth(1) {
            Some("token_embd") => [VOCABULARY, 24],
            Some("attn_k" | "attn_v") => [8, 24],
            Some("ffn_gate" | "ffn_up") => [40, 24],
            Some("ffn_down") => [24, 40],
            _ => [24, 24],
        };
        Ok(QMatMul::Tensor(self.tensor(&shape)?))
    }

    fn vector(&mut self, _: &str) -> Result<Tensor> {
        self.tensor(&[24])
    }

    fn has(&self, _: &str) -> bool {
        false
    }
}

pub(crate) fn model(config: Config) -> Model {
    Model::build(config, &mut Random(SmallRng::seed_from_u64(7)), Device::Cpu).unwrap()
}

const PROMPT: [u32; 7] = [3, 1, 4, 1, 5, 9, 2];

fn logits(model: &Model, parts: &[&[u32]]) -> Vec<f32> {
    let mut cache = Cache::new(model.config(), DType::F32);
    let mut last = None;
    for part in parts {
        last = Some(model.forward(part, &mut cache, |_, _| Ok(())).unwrap());
    }
    assert_eq!(cache.tokens(), parts.concat().len());
    last.unwrap().to_vec1().unwrap()
}

#[test]
fn a_continued_cache_gives_the_logits_of_the_whole() {
    let model = model(tiny());
    let whole = logits(&model, &[&PROMPT]);
    assert_eq!(whole.len(), VOCABULARY);
    for parts in [
        &[&PROMPT[..3], &PROMPT[3..]][..],
        &[&PROMPT[..6], &PROMPT[6..]],
    ] {
        for (a, b) in whole.iter().zip(logits(&model, parts)) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }
    // The order of tokens matters, so position and mask have an effect.
    let mut swapped = PROMPT;
    swapped.swap(0, 2);
    assert!(
        whole
            .iter()
            .zip(logits(&model, &[&swapped]))
            .any(|(a, b)| (a - b).abs() > 1e-3)
    );
}

/// Attention by its definition, with each query head beside the KV head it belongs to.
#[test]
fn grouped_attention_agrees_with_the_definition() {
    let model = model(tiny());
    let Config {
        heads,
        kv_heads,
        head_dim,
        hidden,
        ..
    } = tiny();
    let x = Random(SmallRng::seed_from_u64(9))
        .tensor(&[1, 5, hidden])
        .unwrap();
    let mut cache = Cache::new(model.config(), DType::F32);
    let mask = model.mask(5, 0).unwrap();
    let layer = &model.layers[0];
    let got = model
        .attention(0, layer, &x, &mut cache, mask.as_ref(), 0)
        .unwrap();

    let split = |w: &QMatMul, n| w.forward(&x).unwrap().reshape((1, 5, n, head_dim)).unwrap();
    let rotated = |w, n| {
        let by_head = split(w, n).transpose(1, 2).unwrap();
        model
            .rope
            .rotate(&by_head, 0)
            .unwrap()
            .squeeze(0)
            .unwrap()
            .to_vec3::<f32>()
            .unwrap()
    };
    let (q, k) = (rotated(&layer.q, heads), rotated(&layer.k, kv_heads));
    let v = split(&layer.v, kv_heads)
        .squeeze(0)
        .unwrap()
        .to_vec3::<f32>()
        .unwrap();
    let weight = |token: usize, head: usize, key: usize| {
        let (q, k) = (&q[head][token], &k[head / (heads / kv_heads)][key]);
        let dot: f32 = q.iter().zip(k).map(|(a, b)| a * b).sum();
        (dot / (head_dim as f32).sqrt()).exp()
    };
    let mut mixed = Vec::new();
    for (token, head) in (0..5).flat_map(|token| (0..heads).map(move |head| (token, head))) {
        let sum: f32 = (0..=token).map(|key| weight(token, head, key)).sum();
        mixed.extend((0..head_dim).map(|d| {
            let value = |key: usize| v[key][head / (heads / kv_heads)][d];
            (0..=token)
                .map(|key| weight(token, head, key) / sum * value(key))
                .sum::<f32>()
        }));
    }
    let expected = layer
        .o
        .forward(&Tensor::from_vec(mixed, (1, 5, hidden), &Device::Cpu).unwrap());
    let difference = (got - expected.unwrap())
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-5);
}

#[test]
fn decode_from_a_file_equals_the_reference_run() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(tiny());
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let mut whole = Cache::new(model.config(), dtype);
        let first = generate::prefill(&model, &PROMPT, &mut whole, |_, _| Ok(())).unwrap();
        let expected = generate::decode(&model, first, 20, None, &mut whole, |_| Ok(())).unwrap();

        let path = folder.path().join(dtype.to_string());
        let mut writer =
            cache::create_file(&path, model.config(), dtype, PROMPT.len(), 64).unwrap();
        let mut divided = Cache::new(model.config(), dtype);
        let write = |layer, cache: &Cache| cache.write_layer(layer, &mut writer);
        assert_eq!(
            generate::prefill(&model, &PROMPT, &mut divided, write).unwrap(),
            first
        );
        writer.finish().unwrap();
        let file = KvFile::read(&path).unwrap();
        let mut received = Cache::from_file(model.config(), &file, model.device()).unwrap();
        assert_eq!(received.tokens(), PROMPT.len());
        let tokens = generate::decode(&model, first, 20, None, &mut received, |_| Ok(())).unwrap();
        assert_eq!(tokens, expected);

        let other = Config {
            name: "other".into(),
            ..tiny()
        };
        assert!(Cache::from_file(&other, &file, model.device()).is_err());
    }
}

#[test]
fn a_changed_cache_changes_the_logits() {
    let model = model(tiny());
    let mut cache = Cache::new(model.config(), DType::F32);
    generate::prefill(&model, &PROMPT, &mut cache, |_, _| Ok(())).unwrap();
    let mut other = cache.clone();
    let zeros = Tensor::zeros((1, 2, 1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    other.append(1, &zeros, &zeros).unwrap();
    let a = model
        .forward(&[8], &mut cache, |_, _| Ok(()))
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let b = model
        .forward(&[8], &mut other, |_, _| Ok(()))
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    assert_ne!(a, b);
}

#[test]
fn the_context_has_an_end() {
    let model = model(tiny());
    let mut cache = Cache::new(model.config(), DType::F32);
    let error = model
        .forward(&[1; 65], &mut cache, |_, _| Ok(()))
        .unwrap_err();
    assert!(error.to_string().contains("context of 64"), "{error}");
    assert!(model.forward(&[], &mut cache, |_, _| Ok(())).is_err());
}
