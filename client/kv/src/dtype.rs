// SPDX-License-Identifier: MIT OR Apache-2.0
//! The element types of a KV cache.

use serde::{Deserialize, Serialize};

/// The type of one element of K or V. Always little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
    /// 4 bits of exponent and 3 of mantissa; no infinity, and one bit pattern of each sign that is not a number (OCP's
    /// E4M3, `float8_e4m3fn`). Its scales are auxiliary tensors.
    #[serde(rename = "f8_e4m3")]
    F8E4M3,
    /// The upper half of a binary16. Its scales are auxiliary tensors.
    #[serde(rename = "f8_e5m2")]
    F8E5M2,
    /// Two's complement. Its scales are auxiliary tensors.
    I8,
    /// Unsigned, or a packed format that others interpret. Its scales are auxiliary tensors.
    U8,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::I8,
        Self::U8,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F8E4M3 => "f8_e4m3",
            Self::F8E5M2 => "f8_e5m2",
            Self::I8 => "i8",
            Self::U8 => "u8",
        }
    }

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4M3 | Self::F8E5M2 | Self::I8 | Self::U8 => 1,
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
            Self::F8E4M3 => Some(e4m3_to_f32(one(bytes)?)),
            Self::F8E5M2 => Some(half::f16::from_le_bytes([0, one(bytes)?]).to_f32()),
            Self::I8 => Some(f32::from(one(bytes)?.cast_signed())),
            Self::U8 => Some(f32::from(one(bytes)?)),
        }
    }

    /// The same type in the vocabulary of safetensors.
    pub const fn to_safetensors(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::F16 => safetensors::Dtype::F16,
            Self::Bf16 => safetensors::Dtype::BF16,
            Self::F8E4M3 => safetensors::Dtype::F8_E4M3,
            Self::F8E5M2 => safetensors::Dtype::F8_E5M2,
            Self::I8 => safetensors::Dtype::I8,
            Self::U8 => safetensors::Dtype::U8,
        }
    }
}

/// The only byte.
fn one(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [byte] => Some(*byte),
        _ => None,
    }
}

fn e4m3_to_f32(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (0xf, 7) => f32::NAN,
        // Subnormal.
        (0, _) => mantissa / 8.0 * f32::powi(2.0, -6),
        _ => (1.0 + mantissa / 8.0) * f32::powi(2.0, exponent - 7),
    };
    if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for DType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == text);
        found.ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is not one of {known}")
        })
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
    fn values_of_one_byte() {
        let e4m3 = |byte| DType::F8E4M3.to_f32(&[byte]).unwrap();
        // Of the OCP specification: one, the largest, the smallest, and what is not a number.
        assert_eq!((e4m3(0x38), e4m3(0x7e), e4m3(0xb8)), (1.0, 448.0, -1.0));
        assert_eq!((e4m3(0x01), e4m3(0x08)), (0.001_953_125, 0.015_625));
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        assert!(e4m3(0x80) == 0.0 && e4m3(0x80).is_sign_negative());
        let e5m2 = |byte| DType::F8E5M2.to_f32(&[byte]).unwrap();
        assert_eq!((e5m2(0x3c), e5m2(0x7b), e5m2(0xc0)), (1.0, 57344.0, -2.0));
        assert!(e5m2(0x7c).is_infinite());
        assert_eq!(DType::I8.to_f32(&[0x80]), Some(-128.0));
        assert_eq!(DType::U8.to_f32(&[0x80]), Some(128.0));
        assert_eq!(DType::U8.to_f32(&[1, 2]), None);
    }

    #[test]
    fn names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
            let json = serde_json::to_string(&dtype).unwrap();
            assert_eq!(json, format!("\"{dtype}\""));
            assert_eq!(dtype.size() * 8, dtype.to_safetensors().bitsize());
        }
        assert!("f64".parse::<DType>().is_err());
    }
}
