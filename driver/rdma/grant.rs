// SPDX-License-Identifier: GPL-2.0-only

//! Grants: the right to reach a range of the other side's memory.

use super::Endpoint;
use crate::{
    gauges::{Held, GAUGES},
    logic::wire::GrantPart,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic, Relaxed},
        Arc,
    },
};

/// A grant given to the peer. Its end, by whatever cause, takes it back.
pub(crate) struct Grant {
    endpoint: Arc<Endpoint>,
    number: u32,
    _count: Held,
}

impl Grant {
    /// Most grants that one endpoint may have given, those being revoked included.
    pub(crate) const MAX_PER_ENDPOINT: usize = 1024;

    pub(super) fn new(endpoint: Arc<Endpoint>, number: u32) -> Result<Arc<Self>> {
        let grant = Self {
            endpoint,
            number,
            _count: GAUGES.grants.hold(1),
        };
        // On a failure the value is dropped, which takes the grant back.
        Ok(Arc::new(grant, GFP_KERNEL)?)
    }

    /// Never repeats on its endpoint.
    pub(crate) fn generation(&self) -> u32 {
        self.number
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.endpoint.take_back(self.number);
    }
}

/// A grant that a peer gave. Keys stay in here: user space names the grant.
pub(crate) struct PeerGrant {
    /// Which endpoint's peer gave it.
    serial: u64,
    number: u32,
    length: u64,
    label: u64,
    rights: u32,
    segment_shift: u8,
    keys: KVVec<u32>,
    /// Written under the endpoint's lock.
    revoked: Atomic<u32>,
    /// Operations that the provider has. Written under the endpoint's lock.
    under_way: Atomic<u32>,
}

impl PeerGrant {
    /// `keys` has one key for each segment, which the caller has counted.
    pub(super) fn new(serial: u64, number: u32, head: &GrantPart, keys: KVVec<u32>) -> Self {
        Self {
            serial,
            number,
            length: head.length,
            label: head.label,
            rights: head.rights,
            segment_shift: head.segment_shift,
            keys,
            revoked: Atomic::new(0),
            under_way: Atomic::new(0),
        }
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// The peer's number and generation.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Bytes of the range.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The peer's label.
    pub(crate) fn label(&self) -> u64 {
        self.label
    }

    /// `RIGHT_*` bits.
    pub(crate) fn rights(&self) -> u32 {
        self.rights
    }

    /// Bytes of every segment but the last.
    pub(crate) fn segment_bytes(&self) -> u64 {
        1 << self.segment_shift
    }

    /// Keys of the segments.
    pub(crate) fn keys(&self) -> &[u32] {
        &self.keys
    }

    /// The peer took it back: nothing is sent on it any more.
    pub(super) fn revoke(&self) {
        self.revoked.store(1, ordering::Release);
    }

    /// An operation on it was posted. The caller holds the endpoint's lock.
    pub(super) fn begin(&self) {
        let _ = self.under_way.fetch_add(1, Relaxed);
    }

    /// An operation on it is over; true when it was the last one of a grant that was taken back. The caller holds the
    /// endpoint's lock.
    pub(super) fn finish(&self) -> bool {
        self.under_way.fetch_sub(1, Relaxed) == 1 && self.is_revoked()
    }

    /// Whether the provider has no operation on it. The caller holds the endpoint's lock.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.load(Relaxed) == 0
    }

    /// Whether the peer took it back.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(ordering::Acquire) != 0
    }
}
