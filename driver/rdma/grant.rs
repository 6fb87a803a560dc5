// SPDX-License-Identifier: GPL-2.0-only

//! Grants: the right to access a range of the other side's memory.

use super::{Endpoint, Region};
use crate::kx::charged::GFP_CHARGED;
use crate::{
    base::{
        gauges::{Held, GAUGES},
        quota::{Charge, Kind, Quota},
    },
    logic::wire::GrantPart,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering, Atomic, Relaxed},
        Arc, SetOnce,
    },
};

/// Why a grant ended. Watchers read it, perhaps only after the end.
pub(super) struct EndReason(Atomic<u32>);

impl EndReason {
    /// The grant has not ended.
    pub(super) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self(Atomic::new(0)), GFP_CHARGED)?)
    }

    /// Records why nothing reaches the range any more: one of `GRANT_END_*`.
    pub(super) fn settle(&self, why: u32) {
        self.0.store(why, ordering::Release);
    }
}

/// A grant given to the peer. [`Self::end`] revokes it, and so does dropping it, for whatever reason.
pub(crate) struct Grant {
    endpoint: Arc<Endpoint>,
    number: u32,
    region: Arc<Region>,
    end_reason: Arc<EndReason>,
    /// Whether somebody has begun to revoke it through this object.
    ending: Atomic<u32>,
    _count: Held,
}

impl Grant {
    /// Most grants that one endpoint may have given, including those that are being revoked.
    pub(crate) const MAX_PER_ENDPOINT: usize = 1024;

    /// Most keys of all these grants: the other side keeps them in memory that none of its users is charged for. That
    /// is a megabyte of keys, for 512 GiB where a device takes 2 MiB into a region, as rxe does.
    pub(crate) const MAX_KEYS: usize = 1 << 18;

    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        number: u32,
        region: Arc<Region>,
        end_reason: Arc<EndReason>,
    ) -> Result<Arc<Self>> {
        let grant = Self {
            endpoint,
            number,
            region,
            end_reason,
            ending: Atomic::new(0),
            _count: GAUGES.grants.hold(1),
        };
        // On a failure the value is dropped, which revokes the grant.
        Ok(Arc::new(grant, GFP_CHARGED)?)
    }

    /// Whether this endpoint gave it.
    pub(crate) fn is_of(&self, endpoint: &Arc<Endpoint>) -> bool {
        Arc::ptr_eq(&self.endpoint, endpoint)
    }

    /// Why it ended, if it did.
    pub(crate) fn ended(&self) -> Option<u32> {
        let why = self.end_reason.0.load(ordering::Acquire);
        (why != 0).then_some(why)
    }

    /// Its generation, which never repeats on its endpoint.
    pub(crate) fn generation(&self) -> u32 {
        self.number
    }

    /// Revokes it, even if others still refer to this object. When this returns, nothing of the peer's reaches the range,
    /// unless the thread was killed: then the access ends when the peer has answered, or its time for that is over.
    pub(crate) fn end(&self) {
        if self.ending.xchg(1, ordering::Full) == 0 && self.endpoint.take_back(self.number) {
            // Another thread may be ending the access: the caller must wait for that, too.
            self.region.revoke();
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.end();
    }
}

/// A grant that a peer gave. The keys stay in here: user space has a handle.
pub(crate) struct PeerGrant {
    /// Serial of the endpoint whose peer gave it.
    serial: u64,
    number: u32,
    length: u64,
    label: u64,
    rights: u32,
    segment_shift: u8,
    max_uses: u32,
    keys: KVVec<u32>,
    /// Charged to the user that has taken it until the grant is dropped: the peer may revoke it, and grant again.
    charge: SetOnce<Charge>,
    /// Written under the endpoint's lock.
    revoked: Atomic<u32>,
    /// Operations that the provider has. Written under the endpoint's lock.
    under_way: Atomic<u32>,
    /// Operations on it that were posted. Written under the endpoint's lock.
    uses: Atomic<u32>,
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
            max_uses: head.max_uses,
            keys,
            charge: SetOnce::new(),
            revoked: Atomic::new(0),
            under_way: Atomic::new(0),
            uses: Atomic::new(0),
        }
    }

    /// Charges the memory that it takes, once. `EDQUOT` when that is too much.
    pub(crate) fn charge_to(&self, quota: &Arc<Quota>) -> Result {
        if self.charge.as_ref().is_none() {
            let bytes = size_of::<Self>() + size_of_val(self.keys());
            let charge = quota.charge(Kind::Bytes, bytes as u64)?;
            // A second caller's charge is given back.
            let _first = self.charge.populate(charge);
        }
        Ok(())
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

    /// Operations that it allows, 0 for no limit.
    pub(crate) fn max_uses(&self) -> u32 {
        self.max_uses
    }

    /// Whether all its uses are used up.
    pub(super) fn is_used_up(&self) -> bool {
        self.max_uses != 0 && self.uses.load(Relaxed) >= self.max_uses
    }

    /// Bytes of every segment but the last.
    pub(crate) fn segment_bytes(&self) -> u64 {
        1 << self.segment_shift
    }

    /// Keys of the segments.
    pub(crate) fn keys(&self) -> &[u32] {
        &self.keys
    }

    /// Marks it revoked by the peer: nothing is sent on it any more.
    pub(super) fn revoke(&self) {
        self.revoked.store(1, ordering::Release);
    }

    /// Records that an operation on it was posted. The caller holds the endpoint's lock.
    pub(super) fn begin(&self) {
        let _ = self.under_way.fetch_add(1, Relaxed);
        if self.max_uses != 0 {
            let _ = self.uses.fetch_add(1, Relaxed);
        }
    }

    /// Records that an operation on it is over; true when it was the last one of a grant that was revoked or used up.
    /// The caller holds the endpoint's lock.
    pub(super) fn finish(&self) -> bool {
        self.under_way.fetch_sub(1, Relaxed) == 1 && (self.is_revoked() || self.is_used_up())
    }

    /// Whether the provider has no operation on it. The caller holds the endpoint's lock.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.load(Relaxed) == 0
    }

    /// Whether the peer revoked it.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(ordering::Acquire) != 0
    }
}
