// SPDX-License-Identifier: MIT OR Apache-2.0

//! RDMA devices as the driver sees them.

use std::fmt;

use dmaplane_uapi as abi;
use serde::Serialize;

use crate::error::Call;
use crate::{Context, Result};

/// How an RDMA device talks to its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RdmaProtocol {
    /// InfiniBand.
    InfiniBand,
    /// RDMA over Converged Ethernet.
    Roce,
    /// iWARP: RDMA over TCP.
    Iwarp,
    /// One that the driver or this library does not know.
    Other,
}

/// What an RDMA device lacks and the driver cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RdmaLack {
    /// Connections by the kernel's connection manager.
    Connections,
    /// Registration of memory by work requests.
    Registration,
    /// Immediates with RDMA WRITEs.
    Immediates,
    /// Queues that are long enough.
    Queues,
    /// Something that this library does not know.
    Other,
}

impl fmt::Display for RdmaLack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "the connection manager makes no connections on it",
            Self::Registration => "work requests cannot register memory on it",
            Self::Immediates => "an RDMA WRITE can have no immediate on it",
            Self::Queues => "its queues are too short",
            Self::Other => "it lacks something that this library does not know",
        })
    }
}

/// An RDMA device of this network namespace, as the driver sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RdmaInfo {
    /// Its number, which never repeats as long as the driver is loaded.
    pub number: u64,
    /// Its name, as `rdma link` shows it.
    pub name: String,
    /// NUMA node of the adapter, or of the device under its first port, where it is known.
    pub node: Option<u32>,
    /// How it talks to its peers.
    pub protocol: RdmaProtocol,
    /// Why the driver cannot use it, so that listening and connecting on it give `EOPNOTSUPP` (`EADDRNOTAVAIL` for
    /// [`RdmaLack::Connections`]); `None` when it can.
    pub lack: Option<RdmaLack>,
    /// The device's limit for the pages of one memory region of a grant; larger grants have several regions.
    pub region_pages: u32,
    /// Work requests that one of its queues holds, which bounds the receives of an endpoint.
    pub queue_entries: u32,
}

impl RdmaInfo {
    /// Lists the RDMA devices that are there. Needs [`CAP_RDMA_QUERY`](abi::CAP_RDMA_QUERY).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn list(context: &Context) -> Result<Vec<Self>> {
        let query = |after| abi::RdmaQuery {
            after,
            ..Default::default()
        };
        let found = context.list(Call::RdmaQuery, query, |query| query.device)?;
        Ok(found.iter().map(Self::from).collect())
    }
}

impl From<&abi::RdmaQuery> for RdmaInfo {
    fn from(query: &abi::RdmaQuery) -> Self {
        let name: Vec<u8> = query.name.iter().copied().take_while(|b| *b != 0).collect();
        Self {
            number: query.device,
            name: String::from_utf8_lossy(&name).into_owned(),
            node: u32::try_from(query.node).ok(),
            protocol: match query.protocol {
                abi::RDMA_PROTOCOL_INFINIBAND => RdmaProtocol::InfiniBand,
                abi::RDMA_PROTOCOL_ROCE => RdmaProtocol::Roce,
                abi::RDMA_PROTOCOL_IWARP => RdmaProtocol::Iwarp,
                _ => RdmaProtocol::Other,
            },
            lack: match query.lack {
                abi::RDMA_LACK_NONE => None,
                abi::RDMA_LACK_CONNECTIONS => Some(RdmaLack::Connections),
                abi::RDMA_LACK_REGISTRATION => Some(RdmaLack::Registration),
                abi::RDMA_LACK_IMMEDIATES => Some(RdmaLack::Immediates),
                abi::RDMA_LACK_QUEUES => Some(RdmaLack::Queues),
                _ => Some(RdmaLack::Other),
            },
            region_pages: query.region_pages,
            queue_entries: query.queue_entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_of_a_newer_driver_is_still_listed() {
        let mut query = abi::RdmaQuery {
            device: 3,
            node: -1,
            protocol: 9,
            lack: 9,
            ..Default::default()
        };
        query.name[..4].copy_from_slice(b"siw0");
        let info = RdmaInfo::from(&query);
        assert_eq!((info.name.as_str(), info.node), ("siw0", None));
        assert_eq!(info.protocol, RdmaProtocol::Other);
        assert_eq!(info.lack, Some(RdmaLack::Other));
    }
}
