// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a buffer's memory is, and how it is taken away.

use dmaplane_uapi as abi;

use crate::buffer::Buffer;
use crate::device::{RdmaPath, Tier};
use crate::error::{Call, Error, Result};

/// Whether memory is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Standing {
    /// In use.
    Live,
    /// Being revoked at this moment.
    Revoking,
    /// Revoked: nobody uses it, nobody will.
    Revoked,
}

/// Why memory was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RevokeCause {
    /// By [`Buffer::revoke`].
    Owner,
    /// The device that it belongs to went away.
    Device,
    /// The exporter that it was imported from invalidated it.
    Exporter,
    /// Something that this library does not know.
    Other(u32),
}

impl RevokeCause {
    /// From a number of the interface, as a watch's completion has it in `imm`; `None` for 0.
    pub fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => None,
            abi::REVOKE_OWNER => Some(Self::Owner),
            abi::REVOKE_DEVICE => Some(Self::Device),
            abi::REVOKE_EXPORTER => Some(Self::Exporter),
            other => Some(Self::Other(other)),
        }
    }
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemoryKind {
    /// The host's.
    Host,
    /// A device's.
    Device {
        /// The device's number.
        device: u64,
        /// How it is mapped.
        tier: Tier,
        /// Start in the tier's zone, in bytes.
        offset: u64,
    },
    /// Something that this library does not know.
    Other(u32),
}

/// What a buffer's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MemoryInfo {
    /// Whether it is in use.
    pub standing: Standing,
    /// Why it is not, if it was revoked.
    pub cause: Option<RevokeCause>,
    /// Whose it is.
    pub kind: MemoryKind,
    /// How RDMA reaches it.
    pub rdma: RdmaPath,
}

impl Buffer {
    /// What the memory is, and whether it was revoked.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn memory(&self) -> Result<MemoryInfo> {
        let mut query = abi::MemoryQuery {
            handle: self.raw_handle(),
            ..Default::default()
        };
        let asked = self.context().call(&mut query);
        asked.map_err(|errno| Error::call(Call::MemoryQuery, errno, ""))?;
        Ok(MemoryInfo {
            standing: match query.state {
                abi::MEMORY_LIVE => Standing::Live,
                abi::MEMORY_REVOKING => Standing::Revoking,
                _ => Standing::Revoked,
            },
            cause: RevokeCause::from_raw(query.cause),
            kind: match (query.kind, Tier::ALL.get(query.tier as usize)) {
                (abi::MEMORY_KIND_HOST, _) => MemoryKind::Host,
                (abi::MEMORY_KIND_DEVICE, Some(tier)) => MemoryKind::Device {
                    device: query.device,
                    tier: *tier,
                    offset: query.offset,
                },
                (other, _) => MemoryKind::Other(other),
            },
            rdma: RdmaPath::from_raw(query.rdma, query.reason),
        })
    }

    /// Takes the memory away from everybody: operations end, grants end, no device reaches it, watches complete. From
    /// then on every touch of a mapping of it, this buffer's own included, gives SIGBUS. Revoking twice does nothing.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn revoke(&self) -> Result<()> {
        let mut revoke = abi::BufferRevoke {
            handle: self.raw_handle(),
            ..Default::default()
        };
        let revoked = self.context().call(&mut revoke);
        revoked.map_err(|errno| Error::call(Call::BufferRevoke, errno, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_their_numbers() {
        assert_eq!(RevokeCause::from_raw(0), None);
        for (raw, cause) in [
            (abi::REVOKE_OWNER, RevokeCause::Owner),
            (abi::REVOKE_DEVICE, RevokeCause::Device),
            (abi::REVOKE_EXPORTER, RevokeCause::Exporter),
            (77, RevokeCause::Other(77)),
        ] {
            assert_eq!(RevokeCause::from_raw(raw), Some(cause));
        }
    }
}
