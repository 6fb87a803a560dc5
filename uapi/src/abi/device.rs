// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Buffers of a device's memory.

use super::*;

/// Reports a device whose memory can be buffers' memory ([`DeviceQuery`]): the first one with a number above
/// [`DeviceQuery::after`]. Errors: `ENODEV` (there is none).
pub const IOC_DEVICE_QUERY: u32 = (IOC_TYPE << 8) | 0x52;
/// Makes a buffer of a device's memory ([`DeviceAlloc`]), zeroed and charged to [`Query::max_context_bytes`]. When the
/// device is removed, by unbinding, unplugging or unloading, the memory is revoked with [`REVOKE_DEVICE`], as by
/// [`IOC_BUFFER_REVOKE`]. Errors: `ENODEV` (no such device, or it is being removed), `EINVAL` (no bytes, an unknown
/// tier, an offset that is not whole pages), `EOPNOTSUPP` (the device has no memory of this tier), `ERANGE` (beyond the
/// tier's zone), `EBUSY` (some of the chosen range is taken), `ENOMEM` (no free range of this size), `E2BIG`, `EDQUOT`,
/// `EMFILE`.
pub const IOC_DEVICE_ALLOC: u32 = (IOC_TYPE << 8) | 0x53;

/// Mapping tier of a device's memory: each access goes to the device by itself.
pub const TIER_UNCACHED: u32 = 0;
/// Mapping tier: writes are gathered on their way to the device, reads are as slow as uncached ones. A device lacks it
/// where the processor has no such mappings (x86: no PAT).
pub const TIER_WRITE_COMBINED: u32 = 1;
/// Mapping tier: cached as host memory is. Only for devices whose memory is coherent with the processors' caches. A
/// device lacks it where the machine keeps the memory uncached whatever the mapping says (x86: MTRRs).
pub const TIER_CACHED: u32 = 2;

/// One tier of a device, in [`DeviceQuery`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceTier {
    /// Bytes of the tier's zone; 0 when the device does not have the tier.
    pub bytes: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// One of `RDMA_*`: [`RDMA_DIRECT`] or [`RDMA_STAGED`].
    pub rdma: u32,
    /// One of `RDMA_REASON_*`.
    pub reason: u32,
}

/// Argument of [`IOC_DEVICE_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// The device is the first one with a higher number than this; 0 for the first of all.
    pub after: u64,
    /// Out: the device's number, which never repeats as long as the driver is loaded.
    pub device: u64,
    /// Out: its NUMA node, -1 when it has none.
    pub node: i32,
    /// Out: PCI domain in the upper half; bus, device and function in the lower.
    pub address: u32,
    /// Out: its tiers, by `TIER_*`.
    pub tiers: [DeviceTier; 3],
}

/// Flag of [`DeviceAlloc`]: the range begins at `offset`.
pub const DEVICE_ALLOC_AT: u32 = 1 << 0;

/// Argument of [`IOC_DEVICE_ALLOC`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAlloc {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `DEVICE_ALLOC_*` bits.
    pub flags: u32,
    /// The device's number.
    pub device: u64,
    /// Wanted bytes; on return rounded up to whole pages.
    pub bytes: u64,
    /// Start in the tier's zone in bytes, with [`DEVICE_ALLOC_AT`], else 0; on return where it begins.
    pub offset: u64,
    /// One of `TIER_*`.
    pub tier: u32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
}

const _: () = {
    assert!(size_of::<DeviceTier>() == 24);
    assert!(size_of::<DeviceQuery>() == 104);
    assert!(size_of::<DeviceAlloc>() == 48);
};
