// SPDX-License-Identifier: GPL-2.0-only

//! QEMU's shared-memory device, whose memory stands in for a GPU's: BAR 2 is all of it.

use super::{Attached, Provider};
use kernel::{device::Core, pci, prelude::*};

/// The driver of such devices.
pub(crate) struct Ivshmem;

impl Provider for Ivshmem {
    const BAR: u32 = 2;
}

/// The device's number; the vendor's is Red Hat's for virtual devices.
const ID: u32 = 0x1110;

kernel::pci_device_table!(
    TABLE,
    <Ivshmem as pci::Driver>::IdInfo,
    [(pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, ID), ())]
);

impl pci::Driver for Ivshmem {
    type IdInfo = ();
    type Data<'bound> = Attached;
    const ID_TABLE: pci::IdTable<Self::IdInfo> = &TABLE;

    fn probe<'bound>(
        device: &'bound pci::Device<Core<'_>>,
        _info: Option<&'bound Self::IdInfo>,
    ) -> impl PinInit<Self::Data<'bound>, Error> + 'bound {
        Attached::new::<Self>(device)
    }

    fn unbind<'bound>(_device: &'bound pci::Device<Core<'_>>, this: Pin<&Self::Data<'bound>>) {
        this.unbind();
    }
}
