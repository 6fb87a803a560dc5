// SPDX-License-Identifier: GPL-2.0-only

//! What one open file may have, as the administrator set it when the module was loaded.

use crate::{kx::pages::at_will, module_parameters};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes of buffers, until the memory itself is gone, and of what is kept of peers' grants.
    Bytes,
    /// Endpoints.
    Endpoints,
    /// Channels.
    Channels,
}

impl Kind {
    /// The administrator's limit.
    pub(crate) fn limit(self) -> u64 {
        let mib: u64 = module_parameters::max_context_mib.value();
        let endpoints: u32 = module_parameters::max_endpoints.value();
        let channels: u32 = module_parameters::max_channels.value();
        match self {
            Kind::Bytes => mib.saturating_mul(1 << 20),
            Kind::Endpoints => endpoints.into(),
            Kind::Channels => channels.into(),
        }
    }
}

/// What one open file has. Kept alive by what is charged to it.
#[derive(Default)]
pub(crate) struct Quota {
    bytes: Count,
    endpoints: Count,
    channels: Count,
}

struct Count(Atomic<u64>);

impl Default for Count {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

/// A part of a quota, given back on drop.
pub(crate) struct Charge {
    quota: Arc<Quota>,
    kind: Kind,
    amount: u64,
}

impl Quota {
    /// Nothing is charged yet.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self::default(), at_will())?)
    }

    fn count(&self, kind: Kind) -> &Count {
        match kind {
            Kind::Bytes => &self.bytes,
            Kind::Endpoints => &self.endpoints,
            Kind::Channels => &self.channels,
        }
    }

    /// Charges an amount. `EDQUOT` beyond the limit.
    pub(crate) fn charge(self: &Arc<Self>, kind: Kind, amount: u64) -> Result<Charge> {
        let count = &self.count(kind).0;
        let mut used = count.load(Relaxed);
        loop {
            let after = used.checked_add(amount).ok_or(EDQUOT)?;
            if after > kind.limit() {
                return Err(EDQUOT);
            }
            match count.cmpxchg(used, after, Relaxed) {
                Ok(_) => break,
                Err(now) => used = now,
            }
        }
        Ok(Charge {
            quota: self.clone(),
            kind,
            amount,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let count = &self.quota.count(self.kind).0;
        let _ = count.fetch_sub(self.amount, Relaxed);
    }
}
