// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tensors of a cache beside those of its layers: scales of quantised elements, recurrent state, an index.
//!
//! They are carried as they are, of any type and shape, densely one behind the other after the layers. On the wire all of
//! them together are one more layer.

use std::collections::BTreeSet;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::geometry::{Geometry, MAX_BYTES, MAX_DIMENSION, invalid};
use super::{Digest, Result};
use dmaplane::terminal::escape;

/// Auxiliary tensors that a cache can have at most.
pub const MAX_TENSORS: usize = 2048;
/// Bytes of a tensor's name at most.
pub const MAX_NAME: usize = 256;
/// Axes of a tensor at most.
pub const MAX_AXES: usize = 8;

/// One auxiliary tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auxiliary {
    /// Its name in the file.
    pub name: String,
    /// Its type, by the name that safetensors has for it.
    pub dtype: Dtype,
    /// Its elements along each axis, in row-major order; none for a single element.
    pub shape: Vec<u64>,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

impl Auxiliary {
    /// Its length in bytes; `None` when it overflows, or is no whole number of bytes.
    pub fn bytes(&self) -> Option<u64> {
        let mut axes = self.shape.iter();
        let elements = axes.try_fold(1u64, |product, n| product.checked_mul(*n))?;
        let bits = elements.checked_mul(self.dtype.bitsize() as u64)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

/// The names of a layer's tensors in a file.
pub(super) fn layer_names(geometry: &Geometry, layer: usize) -> impl Iterator<Item = String> {
    let parts = geometry.layout.parts().iter();
    parts.map(move |part| format!("layers.{layer}.{part}"))
}

/// Checks tensors that came from elsewhere, and returns the bytes of all of them.
pub(super) fn total_bytes(geometry: &Geometry, tensors: &[Auxiliary]) -> Result<u64> {
    if tensors.len() > MAX_TENSORS {
        return invalid(format!(
            "{} auxiliary tensors, at most {MAX_TENSORS} are possible",
            tensors.len()
        ));
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut total = 0u64;
    for tensor in tensors {
        let name = escape(&tensor.name);
        let good = (1..=MAX_NAME).contains(&tensor.name.len())
            && !tensor.name.chars().any(char::is_control)
            && tensor.name != "__metadata__";
        if !good {
            return invalid(format!(
                "`{name}` is no name of a tensor: it is empty, has control characters or more than {MAX_NAME} bytes"
            ));
        }
        if !names.insert(&tensor.name) || is_of_a_layer(geometry, &tensor.name) {
            return invalid(format!("two tensors are called `{name}`"));
        }
        let axes = &tensor.shape;
        if axes.len() > MAX_AXES || axes.iter().any(|n| *n > MAX_DIMENSION) {
            return invalid(format!(
                "the tensor `{name}` has more than {MAX_AXES} axes, or one longer than {MAX_DIMENSION}"
            ));
        }
        let sum = tensor.bytes().and_then(|bytes| total.checked_add(bytes));
        let Some(sum) = sum.filter(|sum| *sum <= MAX_BYTES) else {
            return invalid(format!(
                "the tensor `{name}` is not a whole number of bytes, or the cache has more than {MAX_BYTES}"
            ));
        };
        total = sum;
    }
    Ok(total)
}

/// Whether a tensor of a layer has this name.
fn is_of_a_layer(geometry: &Geometry, name: &str) -> bool {
    let layer = name
        .strip_prefix("layers.")
        .and_then(|rest| rest.split_once('.')?.0.parse::<u32>().ok());
    layer.is_some_and(|layer| {
        layer < geometry.layers && layer_names(geometry, layer as usize).any(|taken| taken == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Layout, Manifest};

    fn geometry() -> Geometry {
        Geometry {
            model: String::new(),
            dtype: DType::F8E4M3,
            layout: Layout::KeysAndValues,
            layers: 2,
            kv_heads: 1,
            head_dim: 8,
            seq_len: 5,
            chunk_size: 64,
        }
    }

    fn tensor(name: &str, dtype: Dtype, shape: &[u64]) -> Auxiliary {
        Auxiliary {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            digest: Digest::ZERO,
        }
    }

    #[test]
    fn sizes_follow_from_type_and_shape() {
        assert_eq!(tensor("a", Dtype::F32, &[2, 3]).bytes(), Some(24));
        assert_eq!(tensor("a", Dtype::F32, &[]).bytes(), Some(4));
        assert_eq!(tensor("a", Dtype::I64, &[0, 9]).bytes(), Some(0));
        assert_eq!(tensor("a", Dtype::F4, &[6]).bytes(), Some(3));
        assert_eq!(tensor("a", Dtype::F4, &[7]).bytes(), None);
        assert_eq!(tensor("a", Dtype::U8, &[u64::MAX, 2]).bytes(), None);
        let both = [
            tensor("a", Dtype::F32, &[3]),
            tensor("layers.2.k", Dtype::U8, &[1]),
        ];
        assert_eq!(total_bytes(&geometry(), &both).unwrap(), 13);
    }

    #[test]
    fn what_cannot_be_carried_is_refused_by_name() {
        let wide = MAX_DIMENSION + 1;
        for (tensors, text) in [
            (vec![tensor("", Dtype::U8, &[1])], "no name"),
            (vec![tensor("a\nb", Dtype::U8, &[1])], "a\\u{a}b"),
            (vec![tensor("__metadata__", Dtype::U8, &[1])], "no name"),
            (vec![tensor(&"x".repeat(257), Dtype::U8, &[1])], "no name"),
            (vec![tensor("a", Dtype::U8, &[1]); 2], "two tensors"),
            (vec![tensor("layers.1.v", Dtype::U8, &[1])], "layers.1.v"),
            (vec![tensor("a", Dtype::U8, &[1; 9])], "axes"),
            (vec![tensor("a", Dtype::U8, &[wide])], "axes"),
            (vec![tensor("odd", Dtype::F4, &[7])], "odd"),
            (vec![tensor("a", Dtype::U8, &[1 << 20, 1 << 21])], "`a`"),
            (vec![tensor("a", Dtype::U8, &[1]); 2049], "2049"),
        ] {
            let error = total_bytes(&geometry(), &tensors).unwrap_err().to_string();
            assert!(error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn the_largest_manifest_fits_into_a_message() {
        let geometry = Geometry {
            model: "\"".repeat(256),
            layers: crate::imm::MAX_LAYERS - 1,
            kv_heads: 1,
            head_dim: 1 << 14,
            seq_len: 1 << 13,
            chunk_size: 1 << 30,
            ..geometry()
        };
        let manifest = Manifest::new(geometry).unwrap();
        assert_eq!(manifest.bytes().ilog2(), 39);
        let tensors = (0..MAX_TENSORS).map(|n| Auxiliary {
            name: format!("{n:04}{}", "\"".repeat(MAX_NAME - 4)),
            dtype: Dtype::F8_E4M3FNUZ,
            // As many digits as there can be.
            shape: vec![0, 1 << 32, 1, 1, 1, 1, 1, 1],
            digest: Digest::ZERO,
        });
        let manifest = manifest.with_auxiliary(tensors.collect()).unwrap();
        let json = manifest.to_json().unwrap();
        assert_eq!(Manifest::from_json(&json).unwrap(), manifest);
    }
}
