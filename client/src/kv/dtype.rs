// SPDX-License-Identifier: MIT OR Apache-2.0
//! The element types of a KV cache.

use serde::{Deserialize, Serialize};

/// The type of one element of K or V. Always little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The value of one element, widened to `f32` without loss.
    ///
    /// Returns `None` when `bytes` is not exactly one element long.
    pub fn to_f32(self, bytes: &[u8]) -> Option<f32> {
        match self {
            Self::F32 => Some(f32::from_le_bytes(bytes.try_into().ok()?)),
            Self::F16 => Some(half::f16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
            Self::Bf16 => Some(half::bf16::from_le_bytes(bytes.try_into().ok()?).to_f32()),
        }
    }

    /// The same type in the vocabulary of safetensors.
    pub const fn to_safetensors(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::F16 => safetensors::Dtype::F16,
            Self::Bf16 => safetensors::Dtype::BF16,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl std::str::FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("`{text}` is not one of f32, f16, bf16")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_a_half_in_every_type() {
        assert_eq!(DType::F32.to_f32(&1.5f32.to_le_bytes()), Some(1.5));
        assert_eq!(
            DType::F16.to_f32(&half::f16::from_f32(1.5).to_le_bytes()),
            Some(1.5)
        );
        assert_eq!(
            DType::Bf16.to_f32(&half::bf16::from_f32(1.5).to_le_bytes()),
            Some(1.5)
        );
        assert_eq!(DType::F32.to_f32(&[0; 2]), None);
    }

    #[test]
    fn names_round_trip() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
        }
        assert!("f64".parse::<DType>().is_err());
    }
}
