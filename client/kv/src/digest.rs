// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digests that prove that a received cache is the sender's, bit for bit.
//!
//! A layer's digest is SHA-256 over the bytes of its K followed by those of its V. The digest of
//! the whole is SHA-256 over the layers' digests in order, so it is known as soon as the last layer
//! is, without reading the data a second time.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest; written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest that stands for "not computed yet" while a file is being written.
    pub const ZERO: Self = Self([0; 32]);

    /// The digest of one layer.
    pub fn of_layer(k: &[u8], v: &[u8]) -> Self {
        Self(
            Sha256::new()
                .chain_update(k)
                .chain_update(v)
                .finalize()
                .into(),
        )
    }

    /// The digest of the whole cache, from the digests of its layers in order.
    pub fn of_whole(layers: impl IntoIterator<Item = Self>) -> Self {
        let hash = layers
            .into_iter()
            .fold(Sha256::new(), |hash, layer| hash.chain_update(layer.0));
        Self(hash.finalize().into())
    }
}

/// Computes a digest of bytes that come in pieces.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const WRONG: &str = "a digest is 64 lower-case hexadecimal digits";
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(WRONG),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(WRONG);
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_junk_is_refused() {
        let digest = Digest::of_layer(b"abc", b"");
        // The SHA-256 test vector of FIPS 180 for "abc".
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(Digest::try_from(text.to_owned()), Ok(digest));
        for junk in [
            "",
            "ba",
            &text[1..],
            &text.to_uppercase(),
            &format!("{text}00"),
        ] {
            assert!(Digest::try_from(junk.to_owned()).is_err(), "{junk}");
        }
    }

    #[test]
    fn pieces_have_the_digest_of_the_whole() {
        let mut hasher = Hasher::new();
        for piece in [&b"a"[..], b"", b"bc"] {
            hasher.update(piece);
        }
        assert_eq!(hasher.finish(), Digest::of_layer(b"ab", b"c"));
    }

    #[test]
    fn order_of_layers_matters() {
        let (a, b) = (Digest::of_layer(b"a", b"b"), Digest::of_layer(b"b", b"a"));
        assert_ne!(a, b);
        assert_ne!(Digest::of_whole([a, b]), Digest::of_whole([b, a]));
    }
}
