// SPDX-License-Identifier: GPL-2.0-only

//! Devices whose memory can be buffers' memory.
//!
//! A provider says which PCI devices it knows and in which BAR their memory is; everything else is the same for all of
//! them. The device's removal, by unbinding, unplugging or unloading the module, revokes what was taken of its memory
//! and only then gives the BAR back.

mod ivshmem;
mod range;

pub(crate) use ivshmem::Ivshmem;
pub(crate) use range::Range;

use crate::{
    context::quota::Kind,
    faults::FAULTS,
    kx::{
        bar::{Bar, Tier, TIERS},
        global::DEVICES,
        pages::{at_will, PAGE_BYTES},
        vec::retain,
    },
    logic::extents::{words, Extents, Refused},
    memory::{Cause, Home, Memory, Tenure},
    module_parameters, uapi,
    windows::WINDOWS,
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

/// What tells one kind of PCI device with memory from another.
pub(crate) trait Provider {
    /// The BAR that the memory is in.
    const BAR: u32;
}

/// Which pages of a tier's zone are taken.
type Zone = Extents<KVVec<u64>>;

/// What a device has. Its lock protects it.
struct Holdings {
    /// `None` from the end of the removal on.
    bar: Option<Bar>,
    /// Nothing is taken any more.
    leaving: bool,
    zones: [Option<Zone>; 3],
    /// Memory that was taken, which the removal revokes.
    tenures: KVec<Arc<Tenure>>,
}

/// A device. Kept by the list of devices until its removal, and by the ranges that were taken of it. Lock: `holdings`,
/// held while a range is made memory; never while memory is zeroed or revoked.
#[pin_data]
pub(crate) struct Device {
    serial: u64,
    node: i32,
    address: u32,
    #[pin]
    holdings: Mutex<Holdings>,
}

/// The devices that are there, in the order in which they came. Lock: the global mutex `DEVICES`.
pub(crate) struct Devices(KVec<Arc<Device>>);

impl Devices {
    /// None yet.
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// The first device behind a serial.
    fn behind(&self, serial: u64) -> Option<Arc<Device>> {
        self.0.iter().find(|device| device.serial > serial).cloned()
    }
}

/// Serial of the next device: never repeats as long as the module is loaded.
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

/// The tier of a number of the user-space interface.
pub(crate) fn tier(number: u32) -> Result<Tier> {
    TIERS.get(number as usize).copied().ok_or(EINVAL)
}

/// The device of a serial. `ENODEV` when it is not there, or not any more.
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
    /// Takes over the memory of a device that is being probed.
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
                    tenures: KVec::new(),
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

    /// Fills in what a query tells.
    pub(crate) fn describe(&self, query: &mut uapi::DeviceQuery) {
        query.device = self.serial;
        query.node = self.node;
        query.address = self.address;
        let holdings = self.holdings.lock();
        let zones = holdings.zones.iter().zip(TIERS);
        for ((zone, tier), told) in zones.zip(query.tiers.iter_mut()) {
            let Some(zone) = zone else { continue };
            told.bytes = (zone.pages() * PAGE_BYTES) as u64;
            told.free = (zone.free() * PAGE_BYTES) as u64;
            let bar = holdings.bar.as_ref();
            let direct = bar.is_some_and(|bar| bar.has_pages(tier));
            told.rdma = rdma_path(direct);
            told.reason = rdma_reason(direct, tier);
        }
    }

    /// Takes a range and makes it memory of a context, not zeroed yet: see [`Memory::clear`]. `EDQUOT`, `ENODEV` when the
    /// device goes, `EOPNOTSUPP` for a tier that it does not have, `ERANGE` for a range beyond the zone's end, `EBUSY` for one that is taken in part, `ENOMEM` when
    /// there is no room.
    pub(crate) fn take(self: &Arc<Self>, want: &Want, home: Home) -> Result<Arc<Memory>> {
        let count = usize::try_from(want.bytes).map_err(|_| ERANGE)?;
        let count = count.div_ceil(PAGE_BYTES);
        let whole = count.checked_mul(PAGE_BYTES).ok_or(ERANGE)?;
        let charge = home.quota.charge(Kind::Bytes, whole as u64)?;
        let mut holdings = self.holdings.lock();
        let holdings = &mut *holdings;
        if holdings.leaving {
            return Err(ENODEV);
        }
        let bar = holdings.bar.as_ref().ok_or(ENODEV)?;
        let zone = holdings.zones.get_mut(want.tier as usize);
        let zone = zone.and_then(Option::as_mut).ok_or(EOPNOTSUPP)?;
        holdings.tenures.reserve(1, at_will())?;
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
            let memory = Memory::of_device(range.clone(), io, pages, &home, charge)?;
            Ok::<_, Error>((memory, range))
        })();
        match made {
            Ok((memory, range)) => {
                range.keep();
                // There is room, see above.
                let _ = holdings
                    .tenures
                    .push_within_capacity(memory.tenure().clone());
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

    /// Forgets memory that is gone.
    pub(crate) fn forget(&self, tenure: &Arc<Tenure>) {
        let mut holdings = self.holdings.lock();
        let place = holdings.tenures.iter().position(|other| Arc::ptr_eq(other, tenure));
        let gone = place.and_then(|place| holdings.tenures.remove(place).ok());
        drop(holdings);
        drop(gone);
    }

    /// The device goes: whoever uses its memory is told, and when this returns nobody does.
    fn leave(&self) {
        retain(&mut DEVICES.lock().0, |other| other.serial != self.serial);
        self.holdings.lock().leaving = true;
        WINDOWS.leaving.pass();
        loop {
            // Each leaves the list by itself when its memory goes, or here.
            let tenure = self.holdings.lock().tenures.pop();
            let Some(tenure) = tenure else { break };
            tenure.revoke(Cause::Device);
        }
        let bar = self.holdings.lock().bar.take();
        drop(bar);
    }
}

/// How RDMA reaches memory.
pub(crate) fn rdma_path(direct: bool) -> u32 {
    if direct {
        uapi::RDMA_DIRECT
    } else {
        uapi::RDMA_STAGED
    }
}

/// Why RDMA does not reach it directly.
pub(crate) fn rdma_reason(direct: bool, tier: Tier) -> u32 {
    match (direct, tier) {
        (true, _) => uapi::RDMA_REASON_NONE,
        (false, Tier::Uncached) => uapi::RDMA_REASON_NO_PAGES,
        (false, _) => uapi::RDMA_REASON_TIER,
    }
}

/// A device that is bound. Its end is the device's removal.
pub(crate) struct Attached(Arc<Device>);

impl Attached {
    /// Claims the memory of a device and lists it.
    fn new<P: Provider>(device: &pci::Device<Core<'_>>) -> Result<Self> {
        let percent: u32 = module_parameters::device_rdma_percent.value();
        let bar = Bar::new(device, P::BAR, percent)?;
        FAULTS.probe_bar.fail(ENOMEM)?;
        let device = Device::new(bar)?;
        FAULTS.probe_bar.fail(ENOMEM)?;
        DEVICES.lock().0.push(device.clone(), GFP_KERNEL)?;
        Ok(Self(device))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.leave();
    }
}
