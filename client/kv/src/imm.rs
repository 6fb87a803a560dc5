// SPDX-License-Identifier: MIT OR Apache-2.0
//! The 32-bit immediate that comes with each RDMA WRITE.
//!
//! ```text
//!  31            20 19                                 0
//! +----------------+------------------------------------+
//! |     layer      |         chunk in the layer         |
//! +----------------+------------------------------------+
//! ```
//!
//! | layer | chunk | meaning |
//! |---|---|---|
//! | 0 to 4094 | 0 to 1048575 | this chunk of this layer has been written |
//! | 4095 | 0 | the manifest has been written, to the buffer granted for it |
//! | 4095 | 1 | the sender has sent everything and will write no more |
//! | 4095 | 2 | the receiver's verdict has been written, to the buffer granted for it |
//! | 4095 | 3 | the receiver is at work: it verifies, prepares memory or writes the cache to where it is kept |
//! | 4095 | other | reserved; the receiver refuses it |

use super::{Error, Result};

/// Bits that name the chunk within its layer.
pub const CHUNK_BITS: u32 = 20;
/// Chunks that one layer can have at most.
pub const MAX_CHUNKS: u32 = 1 << CHUNK_BITS;
/// Layers that a cache can have at most; the last value of the 12 bits is for control messages.
pub const MAX_LAYERS: u32 = CONTROL_LAYER;

const CONTROL_LAYER: u32 = (1 << (32 - CHUNK_BITS)) - 1;
const MANIFEST: u32 = CONTROL_LAYER << CHUNK_BITS;
const END: u32 = MANIFEST + 1;
const VERDICT: u32 = MANIFEST + 2;
const WORKING: u32 = MANIFEST + 3;

/// What an immediate value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Imm {
    /// One chunk of one layer has been written.
    Chunk {
        /// The layer, below [`MAX_LAYERS`].
        layer: u32,
        /// The chunk within the layer, below [`MAX_CHUNKS`].
        chunk: u32,
    },
    /// The manifest has been written.
    Manifest,
    /// The sender has sent everything.
    End,
    /// The receiver's verdict has been written.
    Verdict,
    /// The receiver is at work. Nothing was written that matters.
    Working,
}

impl Imm {
    /// Names a chunk.
    ///
    /// # Errors
    /// [`Error::ImmediateRange`] when the layer or the chunk does not fit.
    pub fn chunk(layer: u32, chunk: u32) -> Result<Self> {
        if layer < MAX_LAYERS && chunk < MAX_CHUNKS {
            Ok(Self::Chunk { layer, chunk })
        } else {
            Err(Error::ImmediateRange { layer, chunk })
        }
    }

    /// The value that goes over the wire.
    pub fn encode(self) -> u32 {
        match self {
            Self::Chunk { layer, chunk } => layer << CHUNK_BITS | chunk,
            Self::Manifest => MANIFEST,
            Self::End => END,
            Self::Verdict => VERDICT,
            Self::Working => WORKING,
        }
    }

    /// Reads a value that came over the wire.
    ///
    /// # Errors
    /// [`Error::ImmediateReserved`] for a control value without a meaning.
    pub fn decode(value: u32) -> Result<Self> {
        let (layer, chunk) = (value >> CHUNK_BITS, value & (MAX_CHUNKS - 1));
        match value {
            MANIFEST => Ok(Self::Manifest),
            END => Ok(Self::End),
            VERDICT => Ok(Self::Verdict),
            WORKING => Ok(Self::Working),
            _ if layer == CONTROL_LAYER => Err(Error::ImmediateReserved(value)),
            _ => Ok(Self::Chunk { layer, chunk }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn layout_is_fixed() {
        assert_eq!(Imm::chunk(1, 2).unwrap().encode(), 0x0010_0002);
        assert_eq!(Imm::chunk(4094, 1_048_575).unwrap().encode(), 0xffef_ffff);
        assert_eq!(Imm::Manifest.encode(), 0xfff0_0000);
        assert_eq!(Imm::End.encode(), 0xfff0_0001);
        assert_eq!(Imm::Verdict.encode(), 0xfff0_0002);
        assert_eq!(Imm::Working.encode(), 0xfff0_0003);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(matches!(
            Imm::chunk(4095, 0),
            Err(Error::ImmediateRange { .. })
        ));
        assert!(matches!(
            Imm::chunk(0, 1 << 20),
            Err(Error::ImmediateRange { .. })
        ));
        assert!(matches!(
            Imm::decode(0xfff0_0004),
            Err(Error::ImmediateReserved(_))
        ));
        assert!(matches!(
            Imm::decode(u32::MAX),
            Err(Error::ImmediateReserved(_))
        ));
    }

    proptest! {
        #[test]
        fn every_value_is_refused_or_round_trips(value: u32) {
            match Imm::decode(value) {
                Ok(imm) => prop_assert_eq!(imm.encode(), value),
                Err(_) => prop_assert!(value > Imm::Working.encode()),
            }
        }
    }
}
