// SPDX-License-Identifier: MIT OR Apache-2.0

//! Devices whose memory can be buffers' memory, such as a GPU's behind a PCI BAR.

use std::fmt;

use dmaplane_uapi as abi;

use crate::context::Context;
use crate::error::{Call, Result};

/// How a device's memory is mapped, for COPY and for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Each access goes to the device by itself. The only tier that RDMA reaches.
    Uncached,
    /// Writes are gathered, reads are as slow as uncached ones.
    WriteCombined,
    /// As host memory is, for devices that are coherent with the processors' caches.
    Cached,
}

impl Tier {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Uncached, Self::WriteCombined, Self::Cached];

    /// The number of the interface.
    pub fn to_raw(self) -> u32 {
        match self {
            Self::Uncached => abi::TIER_UNCACHED,
            Self::WriteCombined => abi::TIER_WRITE_COMBINED,
            Self::Cached => abi::TIER_CACHED,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Uncached => "uncached",
            Self::WriteCombined => "write-combined",
            Self::Cached => "cached",
        })
    }
}

/// How RDMA reaches memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RdmaPath {
    /// As it is.
    Direct,
    /// Not at all, because the tier has no struct pages: by COPY through host memory.
    StagedByTier,
    /// Not at all, because the machine made no struct pages for the device: by COPY through host memory.
    StagedWithoutPages,
}

impl RdmaPath {
    pub(crate) fn from_raw(path: u32, reason: u32) -> Self {
        match (path, reason) {
            (abi::RDMA_DIRECT, _) => Self::Direct,
            (_, abi::RDMA_REASON_TIER) => Self::StagedByTier,
            _ => Self::StagedWithoutPages,
        }
    }
}

/// One tier of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TierInfo {
    /// The tier.
    pub tier: Tier,
    /// Bytes of its zone.
    pub bytes: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// How RDMA reaches it.
    pub rdma: RdmaPath,
}

/// A device whose memory can be buffers' memory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its number, which never repeats as long as the driver is loaded.
    pub number: u64,
    /// Its NUMA node, if it has one.
    pub node: Option<u32>,
    /// Its PCI address, as sysfs names it.
    pub address: String,
    /// The tiers that it has.
    pub tiers: Vec<TierInfo>,
}

impl DeviceInfo {
    /// Lists the devices that are there.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn list(context: &Context) -> Result<Vec<Self>> {
        let query = |after| abi::DeviceQuery {
            after,
            ..Default::default()
        };
        let found = context.list(Call::DeviceQuery, query, |query| query.device)?;
        Ok(found.iter().map(Self::from).collect())
    }

    /// One of its tiers, if it has it.
    pub fn tier(&self, tier: Tier) -> Option<&TierInfo> {
        self.tiers.iter().find(|info| info.tier == tier)
    }
}

impl From<&abi::DeviceQuery> for DeviceInfo {
    fn from(query: &abi::DeviceQuery) -> Self {
        let address = query.address;
        let (domain, bus) = (address >> 16, address >> 8 & 0xff);
        let (device, function) = (address >> 3 & 0x1f, address & 7);
        let tiers = Tier::ALL.iter().zip(&query.tiers);
        Self {
            number: query.device,
            node: u32::try_from(query.node).ok(),
            address: format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"),
            tiers: tiers
                .filter(|(_, info)| info.bytes > 0)
                .map(|(tier, info)| TierInfo {
                    tier: *tier,
                    bytes: info.bytes,
                    free: info.free,
                    rdma: RdmaPath::from_raw(info.rdma, info.reason),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_sysfs() {
        let query = abi::DeviceQuery {
            node: -1,
            address: 0x0001_41fb,
            ..Default::default()
        };
        let info = DeviceInfo::from(&query);
        assert_eq!(info.address, "0001:41:1f.3");
        assert_eq!((info.node, info.tiers.len()), (None, 0));
    }
}
