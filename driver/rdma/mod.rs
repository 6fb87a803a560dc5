// SPDX-License-Identifier: GPL-2.0-only

//! RDMA: devices, protection domains, listeners, endpoints and grants.

mod bell;
mod domain;
mod endpoint;
mod grant;
mod handshakes;
mod hooks;
mod listener;
mod region;
mod requirements;

pub(crate) use domain::{Domain, Domains};
pub(crate) use endpoint::{
    connect, window_of, Direction, Endpoint, Op, Selector, Target, Terms, TransferOp, Watched,
    MAX_TTL_NS,
};
pub(crate) use grant::{Grant, PeerGrant};
pub(crate) use listener::Listener;
pub(crate) use region::{Region, Registering};

pub(crate) use crate::kx::rdma::connection::queue_bytes;

use crate::{
    base::{
        delay_points::DELAY_POINTS,
        faults::{FAULTS, SLOW_MS},
    },
    kx::{
        charged::GFP_CHARGED,
        global::global_mutex,
        nodes::DeviceName,
        rdma::{
            capabilities::{Capabilities, Protocol},
            client::{self, Device},
        },
        vec::retain,
    },
    logic::outcome::Down,
    uapi,
};
use kernel::{prelude::*, sync::Arc};

/// A device and what its removal must end.
struct Entry {
    /// Its number, in the order of the list.
    number: u64,
    device: Device,
    capabilities: Capabilities,
    domains: KVec<Arc<Domain>>,
}

impl Entry {
    /// Whether the driver can use the device.
    fn is_usable(&self) -> bool {
        requirements::lack(&self.capabilities) == uapi::RDMA_LACK_NONE
    }
}

/// The registered devices, and all listeners. Lock: the global mutex `REGISTRY`.
pub(crate) struct Registry {
    entries: KVec<Entry>,
    listeners: KVec<(u64, Arc<Listener>)>,
    /// Number of the next device or listener.
    next: u64,
}

impl Registry {
    /// An empty registry.
    pub(crate) const fn new() -> Self {
        Self {
            entries: KVec::new(),
            listeners: KVec::new(),
            next: 1,
        }
    }

    /// Whether somebody can listen. `ENODEV` without a device, `EOPNOTSUPP` when each lacks something.
    fn check_usable(&self) -> Result {
        match (self.entries.is_empty(), self.devices()) {
            (true, _) => Err(ENODEV),
            (false, 0) => Err(EOPNOTSUPP),
            _ => Ok(()),
        }
    }

    /// Number of devices that the driver can use.
    pub(crate) fn devices(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.is_usable())
            .count()
    }

    /// Fills in a query's results: the first device after a number that the calling process may see. `ENODEV` at the
    /// end.
    pub(crate) fn describe(&self, query: &mut uapi::RdmaQuery) -> Result {
        let seen = |entry: &&Entry| entry.number > query.after && entry.device.is_accessible();
        let entry = self.entries.iter().find(seen).ok_or(ENODEV)?;
        query.device = entry.number;
        query.name = entry.device.name();
        query.node = entry.device.node();
        query.protocol = match entry.capabilities.protocol {
            Protocol::InfiniBand => uapi::RDMA_PROTOCOL_INFINIBAND,
            Protocol::Roce => uapi::RDMA_PROTOCOL_ROCE,
            Protocol::Iwarp => uapi::RDMA_PROTOCOL_IWARP,
            Protocol::Other => uapi::RDMA_PROTOCOL_OTHER,
        };
        query.lack = requirements::lack(&entry.capabilities);
        query.region_pages = entry.capabilities.region_pages;
        query.queue_entries = entry.capabilities.queue_entries;
        Ok(())
    }

    fn entry(&mut self, device: Device) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.device == device)
    }

    /// The entry of a device that the driver can use. `ENODEV` when the device is gone, `EOPNOTSUPP` when it lacks
    /// something.
    fn usable(&mut self, device: Device) -> Result<&mut Entry> {
        let entry = self.entry(device).ok_or(ENODEV)?;
        match entry.is_usable() {
            true => Ok(entry),
            false => Err(EOPNOTSUPP),
        }
    }

    /// Makes a domain on a device. It ends with the device. Errors as of [`Self::usable`].
    fn add_domain(&mut self, device: Device) -> Result<Arc<Domain>> {
        let entry = self.usable(device)?;
        entry.domains.reserve(1, GFP_CHARGED)?;
        let domain = Domain::new(device)?;
        entry.domains.push(domain.clone(), GFP_CHARGED)?;
        Ok(domain)
    }

    fn forget_domain(&mut self, domain: &Arc<Domain>) {
        for entry in self.entries.iter_mut() {
            retain(&mut entry.domains, |other| !Arc::ptr_eq(other, domain));
        }
    }

    /// The first domain on a device after a serial. The list is in the order of serials.
    fn domain_after(&mut self, device: Device, serial: u64) -> Option<Arc<Domain>> {
        let domains = &self.entry(device)?.domains;
        let mut behind = domains.iter().filter(|domain| domain.serial() > serial);
        behind.next().cloned()
    }

    /// Lists a listener. `ENODEV` when the device that it is bound to is gone, because the removal would not find the
    /// listener any more; `EOPNOTSUPP` when the device lacks something.
    fn add_listener(&mut self, listener: &Arc<Listener>, device: Option<Device>) -> Result {
        if let Some(device) = device {
            self.usable(device)?;
        }
        let serial = self.next;
        self.listeners
            .push((serial, listener.clone()), GFP_CHARGED)?;
        self.next += 1;
        Ok(())
    }

    fn forget_listener(&mut self, listener: &Listener) {
        retain(&mut self.listeners, |(_, other)| {
            !core::ptr::eq(&**other, listener)
        });
    }

    /// The first listener after a serial. The list is in the order of serials.
    fn listener_after(&self, serial: u64) -> Option<(u64, Arc<Listener>)> {
        let mut behind = self.listeners.iter().filter(|(other, _)| *other > serial);
        behind.next().cloned()
    }
}

/// NUMA node of the device with this name, -1 for unknown. `ENODEV` when the calling process has no such device.
pub(crate) fn node_of(name: &DeviceName<'_>) -> Result<i32> {
    let registry = REGISTRY.lock();
    let mut devices = registry.entries.iter().map(|entry| entry.device);
    let found = devices.find(|device| device.is_called(name) && device.is_accessible());
    Ok(found.ok_or(ENODEV)?.node())
}

/// Ends what a key belongs to that a peer had the provider of a device invalidate, by a message that no honest kernel
/// sends. By the specification the key can only be of the domain of the peer's own connection, but rxe does not check
/// the domain. So all domains are searched, and nobody relies on access that is gone.
fn end_invalidated(device: Device, key: u32) {
    let mut last = 0;
    loop {
        let next = REGISTRY.lock().domain_after(device, last);
        let Some(domain) = next else { return };
        domain.end_invalidated(key);
        last = domain.serial();
    }
}

global_mutex! {
    /// The RDMA devices and all listeners.
    static REGISTRY: Mutex<Registry> = Registry::new();
    life RegistryLife;
}

/// The driver's reaction to RDMA devices that come and go.
pub(crate) struct Client;

impl client::Ops for Client {
    fn add(device: Device) -> Result {
        FAULTS.alloc_device.fail(ENOMEM)?;
        let capabilities = device.capabilities();
        let mut registry = REGISTRY.lock();
        let entry = Entry {
            number: registry.next,
            device,
            capabilities,
            domains: KVec::new(),
        };
        registry.entries.push(entry, GFP_KERNEL)?;
        registry.next += 1;
        Ok(())
    }

    fn remove(device: Device) {
        // From here on nothing starts on the device: each start asks the registry.
        let entry = {
            let mut registry = REGISTRY.lock();
            let at = registry
                .entries
                .iter()
                .position(|entry| entry.device == device);
            at.and_then(|at| registry.entries.remove(at).ok())
        };
        DELAY_POINTS.rdma_removal.pass();
        FAULTS.remove_slow.stall(SLOW_MS);
        // Listeners made meanwhile find the device gone; those that end meanwhile do not shift the position of others.
        let mut last = 0;
        loop {
            let next = REGISTRY.lock().listener_after(last);
            let Some((serial, listener)) = next else {
                break;
            };
            listener.device_gone(device);
            last = serial;
        }
        if let Some(entry) = entry {
            // All peers are notified before the first is waited for.
            for domain in entry.domains.iter() {
                domain.begin_close(Down::Device);
            }
            for domain in entry.domains.iter() {
                domain.close(Down::Device);
            }
        }
    }
}
