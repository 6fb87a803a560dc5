// SPDX-License-Identifier: MIT OR Apache-2.0

//! Grants: a peer's access to a range of a buffer, from both sides.

use std::sync::Arc;
use std::time::Duration;

use dmaplane_uapi as abi;

use crate::context::Handle;

/// What a grant allows the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(u32);

impl Rights {
    /// The peer may write.
    pub const WRITE: Self = Self(abi::RIGHT_WRITE);
    /// The peer may read.
    pub const READ: Self = Self(abi::RIGHT_READ);

    /// Rights from `RIGHT_*` bits, unknown ones included.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The `RIGHT_*` bits.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a grant allows, and when it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantTerms {
    /// What the peer may do.
    pub rights: Rights,
    /// A number for the peer's user.
    pub label: u64,
    /// Ends the grant after this time.
    pub time_to_live: Option<Duration>,
    /// Operations of the peer after which the grant ends, 0 for no limit.
    pub max_uses: u32,
}

impl Default for GrantTerms {
    fn default() -> Self {
        Self {
            rights: Rights::WRITE,
            label: 0,
            time_to_live: None,
            max_uses: 0,
        }
    }
}

/// A grant that this side gave. Dropping it ends the peer's access.
///
/// Once the drop has returned, nothing from the peer arrives in the range any more.
#[derive(Debug)]
pub struct LocalGrant {
    /// Dropped before `_writer`, so that the access has ended when the buffer may be frozen.
    handle: Handle,
    _writer: Arc<()>,
    generation: u32,
}

impl LocalGrant {
    pub(crate) fn new(handle: Handle, generation: u32, writer: Arc<()>) -> Self {
        Self {
            handle,
            _writer: writer,
            generation,
        }
    }

    /// Number that never repeats on this endpoint.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The driver's name of the grant.
    pub fn raw_handle(&self) -> u32 {
        self.handle.raw()
    }

    /// Ends the peer's access, which dropping does as well.
    pub fn revoke(self) {}
}

/// A grant that the peer gave: where transfers can go.
#[derive(Debug)]
pub struct RemoteGrant {
    handle: Handle,
    endpoint: u32,
    length: u64,
    label: u64,
    rights: Rights,
    generation: u32,
}

impl RemoteGrant {
    pub(crate) fn new(handle: Handle, endpoint: u32, wait: &abi::GrantWait) -> Self {
        Self {
            handle,
            endpoint,
            length: wait.length,
            label: wait.label,
            rights: Rights(wait.rights),
            generation: wait.generation,
        }
    }

    /// Bytes of the range.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What the peer called it.
    pub fn label(&self) -> u64 {
        self.label
    }

    /// What it allows.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Number that never repeats on this endpoint.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The driver's name of the grant, for [`Entry::from_raw`](crate::Entry::from_raw).
    pub fn raw_handle(&self) -> u32 {
        self.handle.raw()
    }

    /// A place in the range as the target of a transfer; the driver checks its bounds.
    pub fn at(&self, offset: u64) -> Target<'_> {
        Target {
            grant: self,
            offset,
        }
    }
}

/// A place in a peer's grant.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    grant: &'a RemoteGrant,
    offset: u64,
}

impl Target<'_> {
    pub(crate) fn endpoint(&self) -> u32 {
        self.grant.endpoint
    }

    pub(crate) fn grant(&self) -> u32 {
        self.grant.handle.raw()
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_contain_each_other_bit_by_bit() {
        let all = Rights::from_bits(0b11);
        assert!(all.contains(Rights::WRITE));
        assert!(!Rights::WRITE.contains(all));
    }
}
