// SPDX-License-Identifier: GPL-2.0-only

//! RDMA: devices, protection domains, listeners, endpoints and grants.

mod domain;
mod endpoint;
mod grant;
mod listener;

pub(crate) use domain::{Domain, Domains};
pub(crate) use endpoint::{
    connect, window_of, Between, Direction, Endpoint, Op, Selector, Target, Terms, Watched,
    MAX_TTL_NS,
};
pub(crate) use grant::{Grant, PeerGrant};
pub(crate) use listener::Listener;

use crate::{
    faults::{FAULTS, SLOW_MS},
    kx::{
        global::REGISTRY,
        nodes::DeviceName,
        rdma::client::{self, Device},
        vec::retain,
    },
    logic::outcome::Down,
    windows::WINDOWS,
};
use kernel::{prelude::*, sync::Arc};

/// A device and what its removal must end.
struct Entry {
    device: Device,
    domains: KVec<Arc<Domain>>,
}

/// The devices that are there, and all listeners. Lock: the global mutex `REGISTRY`.
pub(crate) struct Registry {
    entries: KVec<Entry>,
    listeners: KVec<(u64, Arc<Listener>)>,
    /// Serial of the next listener.
    next: u64,
}

impl Registry {
    /// No devices yet.
    pub(crate) const fn new() -> Self {
        Self {
            entries: KVec::new(),
            listeners: KVec::new(),
            next: 1,
        }
    }

    /// How many devices there are.
    pub(crate) fn devices(&self) -> usize {
        self.entries.len()
    }

    /// The node of the device of this name, -1 for unknown. `ENODEV` when the calling process has no such device.
    pub(crate) fn node_of(&self, name: &DeviceName<'_>) -> Result<i32> {
        let mut devices = self.entries.iter().map(|entry| entry.device);
        let found = devices.find(|device| device.is_called(name) && device.is_accessible());
        Ok(found.ok_or(ENODEV)?.node())
    }

    fn entry(&mut self, device: Device) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.device == device)
    }

    /// Whether a device is there, its removal not begun.
    fn has(&self, device: Device) -> bool {
        self.entries.iter().any(|entry| entry.device == device)
    }

    /// A new domain on a device, which ends with it. `ENODEV` when the device is gone.
    fn add_domain(&mut self, device: Device) -> Result<Arc<Domain>> {
        let entry = self.entry(device).ok_or(ENODEV)?;
        entry.domains.reserve(1, GFP_KERNEL)?;
        let domain = Domain::new(device)?;
        entry.domains.push(domain.clone(), GFP_KERNEL)?;
        Ok(domain)
    }

    fn forget_domain(&mut self, domain: &Arc<Domain>) {
        for entry in self.entries.iter_mut() {
            retain(&mut entry.domains, |other| !Arc::ptr_eq(other, domain));
        }
    }

    /// The first domain on a device behind a serial. The list is in the order of serials.
    fn domain_after(&mut self, device: Device, serial: u64) -> Option<Arc<Domain>> {
        let domains = &self.entry(device)?.domains;
        let mut behind = domains.iter().filter(|domain| domain.serial() > serial);
        behind.next().cloned()
    }

    /// Lists a listener. `ENODEV` when the device it is bound to is gone: its removal would not find it any more.
    fn add_listener(&mut self, listener: &Arc<Listener>, device: Option<Device>) -> Result {
        if device.is_some_and(|device| !self.has(device)) {
            return Err(ENODEV);
        }
        let serial = self.next;
        self.listeners
            .push((serial, listener.clone()), GFP_KERNEL)?;
        self.next += 1;
        Ok(())
    }

    fn forget_listener(&mut self, listener: &Listener) {
        retain(&mut self.listeners, |(_, other)| {
            !core::ptr::eq(&**other, listener)
        });
    }

    /// The first listener behind a serial. The list is in the order of serials.
    fn listener_after(&self, serial: u64) -> Option<(u64, Arc<Listener>)> {
        let mut behind = self.listeners.iter().filter(|(other, _)| *other > serial);
        behind.next().cloned()
    }
}

/// A peer had the provider of a device invalidate a key, by a message that no honest kernel sends. By the specification it
/// can only be one of the domain of the peer's own connection; rxe looks at no domain. Ends what the key was of, whosever it
/// is, so that nobody relies on access that is gone.
fn end_invalidated(device: Device, key: u32) {
    let mut last = 0;
    loop {
        let next = REGISTRY.lock().domain_after(device, last);
        let Some(domain) = next else { return };
        domain.end_invalidated(key);
        last = domain.serial();
    }
}

/// What the driver does when RDMA devices come and go.
pub(crate) struct Client;

impl client::Ops for Client {
    fn add(device: Device) -> Result {
        let entry = Entry {
            device,
            domains: KVec::new(),
        };
        FAULTS.alloc_device.fail(ENOMEM)?;
        Ok(REGISTRY.lock().entries.push(entry, GFP_KERNEL)?)
    }

    fn remove(device: Device) {
        // From here on nobody starts anything on the device: each start asks the registry.
        let entry = {
            let mut registry = REGISTRY.lock();
            let at = registry
                .entries
                .iter()
                .position(|entry| entry.device == device);
            at.and_then(|at| registry.entries.remove(at).ok())
        };
        WINDOWS.removing.pass();
        FAULTS.remove_slow.stall(SLOW_MS);
        // Listeners made meanwhile find the device gone; those that end meanwhile do not shift the others.
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
