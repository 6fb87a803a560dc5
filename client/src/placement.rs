// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where a buffer's memory comes from, and where it is.

use std::fmt;
use std::str::FromStr;

use dmaplane_uapi as abi;
use serde::{Serialize, Serializer};

/// Where a buffer's memory comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case", tag = "policy", content = "node")]
#[non_exhaustive]
pub enum Placement {
    /// Wherever the kernel finds memory.
    #[default]
    Any,
    /// On this NUMA node first, elsewhere when it is full; [`Residency::misplaced_pages`] counts.
    Preferred(u32),
    /// On this NUMA node only; creation fails with `ENOMEM` when it is full.
    Strict(u32),
    /// All nodes with memory take turns, by units of at most 2 MiB; elsewhere when one is full.
    Interleave,
    /// As [`Placement::Preferred`] on the node of an RDMA device, such as `mlx5_0`. Where that node has no memory, on the
    /// nearest that has; [`Residency::node`] returns which it was.
    NearRdma(DeviceName),
    /// The same for a PCI device by its address, such as `0000:41:00.0`.
    NearPci(DeviceName),
}

impl Placement {
    /// Policy, node and device as the driver takes them.
    pub(crate) fn to_abi(self) -> (u32, i32, [u8; 64]) {
        // A node beyond `i32` becomes one that cannot exist, which the driver refuses.
        let id = |node| i32::try_from(node).unwrap_or(i32::MAX);
        let nothing = [0; 64];
        match self {
            Self::Any => (abi::PLACE_ANY, -1, nothing),
            Self::Preferred(node) => (abi::PLACE_PREFERRED, id(node), nothing),
            Self::Strict(node) => (abi::PLACE_STRICT, id(node), nothing),
            Self::Interleave => (abi::PLACE_INTERLEAVE, -1, nothing),
            Self::NearRdma(name) => (abi::PLACE_NEAR_RDMA, -1, name.0),
            Self::NearPci(name) => (abi::PLACE_NEAR_PCI, -1, name.0),
        }
    }
}

/// The error of a text that is not a placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is any, interleave, preferred:NODE, strict:NODE, near-rdma:DEVICE or near-pci:ADDRESS")]
pub struct PlacementError;

impl FromStr for Placement {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let node = |digits: &str| digits.parse().map_err(|_| PlacementError);
        let device = |name: &str| name.parse().map_err(|_| PlacementError);
        Ok(match text.split_once(':') {
            None if text == "any" => Self::Any,
            None if text == "interleave" => Self::Interleave,
            Some(("preferred", digits)) => Self::Preferred(node(digits)?),
            Some(("strict", digits)) => Self::Strict(node(digits)?),
            Some(("near-rdma", name)) => Self::NearRdma(device(name)?),
            Some(("near-pci", address)) => Self::NearPci(device(address)?),
            _ => return Err(PlacementError),
        })
    }
}

/// A device's name, at most 63 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceName([u8; 64]);

/// The error of a text that is not a device's name: empty, longer than 63 bytes, or with a zero in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device's name has 1 to 63 bytes, and no zero among them")]
pub struct DeviceNameError;

impl DeviceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        let length = self.0.iter().position(|byte| *byte == 0);
        let bytes = &self.0[..length.unwrap_or(self.0.len())];
        // It was made from a text.
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl FromStr for DeviceName {
    type Err = DeviceNameError;

    fn from_str(text: &str) -> Result<Self, DeviceNameError> {
        let mut name = [0; 64];
        if text.is_empty() || text.len() >= name.len() || text.contains('\0') {
            return Err(DeviceNameError);
        }
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Where a buffer's pages are, and who holds them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Residency {
    /// Bytes of the buffer.
    pub bytes: u64,
    /// The node that the placement asked for, for `near` the one that was found; `None` when it asked for none or several.
    pub node: Option<u32>,
    /// Pages on each NUMA node, by node id.
    pub pages_by_node: Vec<u64>,
    /// Pages that are not on the node that the placement asked for.
    pub misplaced_pages: u64,
    /// Live user mappings of the memory.
    pub mappings: u32,
    /// RDMA devices on which the memory is registered.
    pub regions: u32,
}

/// How a buffer's pages on one node were allocated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Folios {
    /// The node.
    pub node: u32,
    /// Pages on the node by the order of their folio: order n is 2^n pages in a row. As many as there are orders.
    pub pages_by_order: Vec<u64>,
    /// Pages on the node that were wanted on another.
    pub misplaced_pages: u64,
    /// Pages on the node in smaller folios than there was room for.
    pub small_pages: u64,
    /// Node of the device that the buffer is near to, where there is one and its node is known.
    pub device_node: Option<u32>,
}

impl From<abi::BufferFolios> for Folios {
    fn from(query: abi::BufferFolios) -> Self {
        let orders = query.pages_by_order.len().min(query.orders as usize);
        Self {
            node: u32::try_from(query.node).unwrap_or_default(),
            pages_by_order: query.pages_by_order[..orders].to_vec(),
            misplaced_pages: query.misplaced_pages,
            small_pages: query.small_pages,
            device_node: u32::try_from(query.device_node).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_have_their_numbers() {
        let numbers = |placement: Placement| {
            let (policy, node, near) = placement.to_abi();
            assert_eq!(near, [0; 64]);
            (policy, node)
        };
        assert_eq!(numbers(Placement::Any), (abi::PLACE_ANY, -1));
        assert_eq!(numbers(Placement::Preferred(1)), (abi::PLACE_PREFERRED, 1));
        assert_eq!(numbers(Placement::Strict(3)), (abi::PLACE_STRICT, 3));
        assert_eq!(
            numbers(Placement::Strict(u32::MAX)),
            (abi::PLACE_STRICT, i32::MAX)
        );
        assert_eq!(numbers(Placement::Interleave), (abi::PLACE_INTERLEAVE, -1));
        let near = Placement::NearRdma("rxe0".parse().expect("a name"));
        let (policy, node, name) = near.to_abi();
        assert_eq!((policy, node), (abi::PLACE_NEAR_RDMA, -1));
        assert_eq!(&name[..5], b"rxe0\0");
    }

    #[test]
    fn placements_are_read_from_text() {
        let near = Placement::NearPci("0000:41:00.0".parse().expect("a name"));
        assert_eq!("near-pci:0000:41:00.0".parse(), Ok(near));
        assert_eq!("strict:1".parse(), Ok(Placement::Strict(1)));
        for wrong in ["near", "near-rdma:", "strict:x", "interleave:1", ""] {
            assert_eq!(wrong.parse::<Placement>(), Err(PlacementError), "{wrong}");
        }
    }

    #[test]
    fn names_are_texts_of_a_length() {
        for bad in ["", "a\0b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<DeviceName>(), Err(DeviceNameError), "{bad:?}");
        }
        let longest = "x".repeat(63);
        assert_eq!(
            longest.parse::<DeviceName>().expect("fits").as_str(),
            longest
        );
        let near = Placement::NearPci("0000:41:00.0".parse().expect("a name"));
        let json = serde_json::to_string(&near).expect("JSON");
        assert_eq!(json, r#"{"policy":"near-pci","node":"0000:41:00.0"}"#);
    }
}
