// SPDX-License-Identifier: GPL-2.0-only

//! The limits of one open file, as the administrator set them when the module was loaded.

use crate::{kx::charged::GFP_CHARGED, module_parameters};
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
    /// Listeners.
    Listeners,
    /// Bytes that providers take for endpoints and registrations, which they charge to nobody; an estimate.
    Provider,
    /// Polling threads of channels, which also have a limit for the machine.
    Pollers,
}

impl Kind {
    /// The administrator's limit.
    pub(crate) fn limit(self) -> u64 {
        let mib: u64 = module_parameters::max_context_mib.value();
        let provider_mib: u32 = module_parameters::max_provider_mib.value();
        let endpoints: u32 = module_parameters::max_endpoints.value();
        let channels: u32 = module_parameters::max_channels.value();
        let listeners: u32 = module_parameters::max_listeners.value();
        let pollers: u32 = module_parameters::max_context_pollers.value();
        match self {
            Kind::Bytes => mib.saturating_mul(1 << 20),
            Kind::Endpoints => endpoints.into(),
            Kind::Channels => channels.into(),
            Kind::Listeners => listeners.into(),
            Kind::Provider => u64::from(provider_mib) << 20,
            Kind::Pollers => pollers.into(),
        }
    }
}

/// What one open file uses. Kept alive by what is charged to it.
#[derive(Default)]
pub(crate) struct Quota {
    bytes: Count,
    endpoints: Count,
    channels: Count,
    listeners: Count,
    provider: Count,
    pollers: Count,
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
        Ok(Arc::new(Self::default(), GFP_CHARGED)?)
    }

    fn count(&self, kind: Kind) -> &Count {
        match kind {
            Kind::Bytes => &self.bytes,
            Kind::Endpoints => &self.endpoints,
            Kind::Channels => &self.channels,
            Kind::Listeners => &self.listeners,
            Kind::Provider => &self.provider,
            Kind::Pollers => &self.pollers,
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

/// What an endpoint is charged.
pub(crate) struct EndpointCharge {
    _endpoint: Charge,
    provider: Charge,
}

impl EndpointCharge {
    /// Charges for what a provider takes in addition, such as registrations. `EDQUOT` beyond the limit.
    pub(crate) fn charge_provider(&self, bytes: u64) -> Result<Charge> {
        self.provider.quota.charge(Kind::Provider, bytes)
    }
}

impl Quota {
    /// Charges for an endpoint and for about `provider_bytes` bytes, which the provider takes for its queues and
    /// charges to nobody. `EDQUOT` beyond one of the limits.
    pub(crate) fn charge_endpoint(self: &Arc<Self>, provider_bytes: u64) -> Result<EndpointCharge> {
        Ok(EndpointCharge {
            _endpoint: self.charge(Kind::Endpoints, 1)?,
            provider: self.charge(Kind::Provider, provider_bytes)?,
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let count = &self.quota.count(self.kind).0;
        let _ = count.fetch_sub(self.amount, Relaxed);
    }
}
