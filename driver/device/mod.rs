// SPDX-License-Identifier: GPL-2.0-only

//! Devices whose memory can be buffers' memory.
//!
//! A provider says which PCI devices it knows and in which BAR their memory is; everything else is the same for all of
//! them. The device's removal, by unbinding, unplugging or unloading the module, revokes what was taken of its memory
//! and only then gives the BAR back.

mod ivshmem;
mod range;

pub(crate) use ivshmem::Ivshmem;

use crate::{
    base::{delay_points::DELAY_POINTS, faults::FAULTS, quota::Kind},
    kx::{
        bar::{Bar, Tier, TIERS},
        charged::GFP_CHARGED,
        global::global_mutex,
        pages::PAGE_BYTES,
        vec::retain,
    },
    logic::extents::{words, Extents, Refused},
    memory::{rdma_path, rdma_reason, Cause, Memory, MemoryLifetime, MemoryOwner},
    module_parameters, uapi,
};
use kernel::{
    device::Core,
    new_mutex, pci,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};
use range::Range;

/// A kind of PCI device with memory.
pub(crate) trait Provider {
    /// The BAR that the memory is in.
    const BAR: u32;
}

/// Which pages of a tier's zone are taken.
type Zone = Extents<KVVec<u64>>;

/// The state of a device. The device's lock protects it.
struct Holdings {
    /// `None` from the end of the removal on.
    bar: Option<Bar>,
    /// The device is being removed: nothing is taken any more.
    leaving: bool,
    zones: [Option<Zone>; 3],
    /// Memory that was taken, which the removal revokes.
    lifetimes: KVec<Arc<MemoryLifetime>>,
}

/// A device. Kept by the list of devices until its removal, and by the ranges that were taken of it. Lock: `holdings`,
/// held while memory is made of a range; never while memory is zeroed or revoked.
#[pin_data]
pub(crate) struct Device {
    serial: u64,
    node: i32,
    address: u32,
    #[pin]
    holdings: Mutex<Holdings>,
}

/// The present devices. Lock: the global mutex `DEVICES`.
pub(crate) struct Devices(KVec<Arc<Device>>);

impl Devices {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// The first device behind a serial. Devices that were probed side by side are in no order.
    fn behind(&self, serial: u64) -> Option<Arc<Device>> {
        let behind = self.0.iter().filter(|device| device.serial > serial);
        behind.min_by_key(|device| device.serial).cloned()
    }
}

global_mutex! {
    /// The present devices.
    static DEVICES: Mutex<Devices> = Devices::new();
    life DevicesLife;
}

/// Serial of the next device. Serials never repeat as long as the module is loaded.
static SERIALS: Atomic<u64> = Atomic::new(1);

/// A range that a user wants.
pub(crate) struct Want {
    /// How it is mapped.
    pub(crate) tier: Tier,
    /// Whole pages, in bytes.
    pub(crate) bytes: u64,
    /// Where in the tier's zone it begins, in bytes; `None` for wherever there is room.
    pub(crate) at: Option<u64>,
}

/// The tier with a number of the user-space interface.
pub(crate) fn tier(number: u32) -> Result<Tier> {
    TIERS.get(number as usize).copied().ok_or(EINVAL)
}

/// The device with a serial. `ENODEV` when there is none, or none any more.
pub(crate) fn find(serial: u64) -> Result<Arc<Device>> {
    let before = serial.checked_sub(1).ok_or(ENODEV)?;
    let device = DEVICES.lock().behind(before);
    device
        .filter(|device| device.serial == serial)
        .ok_or(ENODEV)
}

/// The first device behind a serial, for listing. `ENODEV` at the end.
pub(crate) fn after(serial: u64) -> Result<Arc<Device>> {
    DEVICES.lock().behind(serial).ok_or(ENODEV)
}

impl Device {
    /// The device whose memory this BAR is, while it is being probed.
    fn new(bar: Bar) -> Result<Arc<Self>> {
        let zone = |tier| {
            let pages = bar.pages(tier);
            let bits = KVVec::from_elem(0u64, words(pages), GFP_KERNEL)?;
            Ok::<_, Error>(Extents::new(bits, pages).filter(|_| pages != 0))
        };
        let [uncached, combined, cached] = TIERS;
        let zones = [zone(uncached)?, zone(combined)?, zone(cached)?];
        let (node, address) = (bar.node(), bar.address());
        Arc::pin_init(
            pin_init!(Self {
                serial: SERIALS.fetch_add(1, Relaxed),
                node,
                address,
                holdings <- new_mutex!(Holdings {
                    bar: Some(bar),
                    leaving: false,
                    zones,
                    lifetimes: KVec::new(),
                }, "Device::holdings"),
            }),
            GFP_KERNEL,
        )
    }

    /// Its number.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Its node, -1 when it has none.
    pub(crate) fn node(&self) -> i32 {
        self.node
    }

    /// Fills in a query's results.
    pub(crate) fn describe(&self, query: &mut uapi::DeviceQuery) {
        query.device = self.serial;
        query.node = self.node;
        query.address = self.address;
        let holdings = self.holdings.lock();
        let zones = holdings.zones.iter().zip(TIERS);
        for ((zone, tier), info) in zones.zip(query.tiers.iter_mut()) {
            let Some(zone) = zone else { continue };
            info.bytes = (zone.pages() * PAGE_BYTES) as u64;
            info.free = (zone.free() * PAGE_BYTES) as u64;
            let bar = holdings.bar.as_ref();
            let direct = bar.is_some_and(|bar| bar.has_pages(tier));
            info.rdma = rdma_path(direct);
            info.reason = rdma_reason(direct, tier);
        }
    }

    /// Takes a range and makes memory of a context of it, which is not zeroed yet: see [`Memory::clear`]. `EDQUOT`,
    /// `ENODEV` when the device is being removed, `EOPNOTSUPP` for a tier that it does not have, `ERANGE` for a range
    /// beyond the zone's end, `EBUSY` for one that is partly taken, `ENOMEM` when there is no room.
    pub(crate) fn take(self: &Arc<Self>, want: &Want, owner: MemoryOwner) -> Result<Arc<Memory>> {
        let count = usize::try_from(want.bytes).map_err(|_| ERANGE)?;
        let count = count.div_ceil(PAGE_BYTES);
        let whole = count.checked_mul(PAGE_BYTES).ok_or(ERANGE)?;
        let charge = owner.quota.charge(Kind::Bytes, whole as u64)?;
        let mut holdings = self.holdings.lock();
        let holdings = &mut *holdings;
        if holdings.leaving {
            return Err(ENODEV);
        }
        let bar = holdings.bar.as_ref().ok_or(ENODEV)?;
        let zone = holdings.zones.get_mut(want.tier as usize);
        let zone = zone.and_then(Option::as_mut).ok_or(EOPNOTSUPP)?;
        holdings.lifetimes.reserve(1, GFP_CHARGED)?;
        let first = match want.at {
            None => zone.take(count).ok_or(ENOMEM)?,
            Some(at) => {
                let first = usize::try_from(at).map_err(|_| ERANGE)? / PAGE_BYTES;
                let taken = zone.take_at(first, count);
                taken.map_err(|refused| match refused {
                    Refused::Range => ERANGE,
                    Refused::Taken => EBUSY,
                })?;
                first
            }
        };
        let made = (|| {
            let range = Range::new(self.clone(), want.tier, first, count)?;
            let (io, pages) = bar.range(want.tier, first, count, range.clone())?;
            let memory = Memory::of_device(range.clone(), io, pages, &owner, charge)?;
            Ok::<_, Error>((memory, range))
        })();
        match made {
            Ok((memory, range)) => {
                range.keep();
                // Cannot fail: the room was reserved above.
                let _ = holdings
                    .lifetimes
                    .push_within_capacity(memory.lifetime().clone());
                Ok(memory)
            }
            Err(error) => {
                zone.give_back(first, count);
                Err(error)
            }
        }
    }

    /// Gives a range back.
    fn give_back(&self, tier: Tier, first: usize, count: usize) {
        let mut holdings = self.holdings.lock();
        if let Some(Some(zone)) = holdings.zones.get_mut(tier as usize) {
            zone.give_back(first, count);
        }
    }

    /// Forgets memory that is being freed.
    fn forget(&self, lifetime: &Arc<MemoryLifetime>) {
        let mut holdings = self.holdings.lock();
        let place = holdings
            .lifetimes
            .iter()
            .position(|other| Arc::ptr_eq(other, lifetime));
        let gone = place.and_then(|place| holdings.lifetimes.remove(place).ok());
        drop(holdings);
        drop(gone);
    }

    /// Removes the device: revokes its memory from everybody who uses it. When this returns, nobody does.
    fn leave(&self) {
        retain(&mut DEVICES.lock().0, |other| other.serial != self.serial);
        if core::mem::replace(&mut self.holdings.lock().leaving, true) {
            return;
        }
        DELAY_POINTS.device_removal.pass();
        // Lifetimes leave the list here, or by themselves when their memory is freed. None is added any more.
        let lifetimes = core::mem::take(&mut self.holdings.lock().lifetimes);
        MemoryLifetime::revoke_all(&lifetimes, Cause::Device);
        let bar = self.holdings.lock().bar.take();
        drop(bar);
    }
}

/// A device that is bound. Unbinding removes the device, and so does a drop without it.
pub(crate) struct Attached(Arc<Device>);

impl Attached {
    /// Claims the memory of a device and lists it.
    fn new<P: Provider>(device: &pci::Device<Core<'_>>) -> Result<Self> {
        let percent: u32 = module_parameters::device_rdma_percent.value();
        let bar = Bar::new(device, P::BAR, percent, &FAULTS.probe_bar)?;
        FAULTS.probe_bar.fail(ENOMEM)?;
        let device = Device::new(bar)?;
        FAULTS.probe_bar.fail(ENOMEM)?;
        DEVICES.lock().0.push(device.clone(), GFP_KERNEL)?;
        Ok(Self(device))
    }

    /// Removes the device while it is still bound: the memory is used until nobody has it any more, and a device that is
    /// not bound may be put to sleep.
    fn unbind(&self) {
        self.0.leave();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.leave();
    }
}
