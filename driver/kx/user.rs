// SPDX-License-Identifier: GPL-2.0-only

//! Extensible structures from and to user space, like those of `copy_struct_from_user()`.
//!
//! Extends `kernel::uaccess`.

use crate::uapi;
use core::mem::offset_of;
use kernel::{
    prelude::*,
    transmute::{AsBytes, FromBytes},
    uaccess::{UserPtr, UserSlice},
};

/// A structure of the user-space interface: its first member is its size, its second its flags.
///
/// # Safety
///
/// The type is `repr(C)`, has no padding, and any bytes are a valid value of it.
pub(crate) unsafe trait Abi: Copy + Default {
    /// Bytes of the structure in the first version of the interface. They include the results of a call, so that
    /// nothing is made whose handle the caller has no room for.
    const FIRST: usize;

    /// Clears the members that are only results: what the caller left in them is never returned as a result.
    fn clear_results(&mut self);
}

/// A wrapper that the orphan rule lets us implement the kernel's traits for.
#[repr(transparent)]
#[derive(Clone, Copy, Default)]
struct Bytes<T: Abi>(T);

// SAFETY: By `Abi`'s contract any bytes are a valid value.
unsafe impl<T: Abi> FromBytes for Bytes<T> {}
// SAFETY: By `Abi`'s contract there is no padding.
unsafe impl<T: Abi> AsBytes for Bytes<T> {}

/// Each structure, its bytes in the first version, and the members that are only results.
macro_rules! abi {
    ($($name:ident: $first:literal [$($result:ident),* $(,)?]),* $(,)?) => {$(
        // SAFETY: `repr(C)` of integers and arrays of integers only; `uapi` asserts its size, which is the
        // sum of its members' sizes.
        unsafe impl Abi for uapi::$name {
            const FIRST: usize = $first;

            fn clear_results(&mut self) {
                $(self.$result = Self::default().$result;)*
            }
        }
        const _: () = assert!(offset_of!(uapi::$name, size) == 0 && offset_of!(uapi::$name, flags) == 4);
        const _: () = assert!($first <= size_of::<uapi::$name>());
        $(const _: () = assert!(offset_of!(uapi::$name, $result) < $first);)*
    )*};
}

abi!(
    Query: 80 [
        abi_version, node_ids, capabilities, max_buffer_bytes, max_op_bytes, max_ring_entries, max_recv_depth,
        max_handles, page_bytes, rdma_devices, max_send_bytes, max_context_bytes, max_endpoints, max_channels,
    ],
    Destroy: 16 [],
    BufferCreate: 104 [handle, mmap_offset],
    BufferQuery: 56 [bytes, placement, node, misplaced_pages, mappings, regions],
    BufferExport: 32 [fd],
    BufferImport: 40 [handle, bytes, mmap_offset, access, lack],
    BufferFolios: 168 [pages_by_order, misplaced_pages, small_pages, orders, device_node],
    PoolCreate: 96 [handle],
    PoolCarve: 40 [handle, mmap_offset, offset],
    PoolQuery: 72 [carved, bytes, free_bytes, longest_bytes, carves, refusals, regions, placement, node],
    ChannelCreate: 64 [handle, mmap_offset, mmap_bytes, sq_offset, cq_offset],
    Enter: 40 [submitted, available],
    Listen: 40 [handle],
    Accept: 64 [endpoint, peer],
    Connect: 80 [endpoint],
    EndpointQuery: 184 [
        state, error, send_credits, recv_posted, in_flight, local, peer, device, peer_end, posted, stalls, stalled_ns,
        not_ready, violations,
    ],
    GrantCreate: 80 [handle, generation],
    GrantWait: 56 [handle, length, label, rights, generation, max_uses],
    BufferRevoke: 16 [],
    MemoryQuery: 64 [kind, state, cause, tier, rdma, reason, node, device, offset, held, reserved],
    DeviceQuery: 104 [device, node, address, tiers],
    DeviceAlloc: 48 [handle, mmap_offset],
    RdmaQuery: 112 [device, name, node, protocol, lack, region_pages, queue_entries, reserved],
    StatsQuery: 80 [count, p50_ns, p99_ns, p999_ns, max_ns, lost],
);

/// An ioctl's argument: its address, the size that the caller gave, and the kernel's copy.
pub(crate) struct Arg<T: Abi> {
    address: usize,
    size: usize,
    /// The kernel's copy, which nobody else can change.
    pub(crate) value: T,
}

impl<T: Abi> Arg<T> {
    /// Copies the structure at `address`, without what the caller left in the results. A structure that is shorter than
    /// in the interface's first version is refused (`EINVAL`), another short one is extended with zeroes, and a longer
    /// one is accepted when the rest is zero, and otherwise refused (`E2BIG`).
    pub(crate) fn read(address: usize) -> Result<Self> {
        let size = UserSlice::new(UserPtr::from_addr(address), size_of::<u32>())
            .reader()
            .read::<u32>()? as usize;
        if size < T::FIRST {
            return Err(EINVAL);
        }
        if size > PAGE_BYTES {
            return Err(E2BIG);
        }
        let mut reader = UserSlice::new(UserPtr::from_addr(address), size).reader();
        let mut copy = Bytes::<T>::default();
        let known = size.min(size_of::<T>());
        let bytes = <Bytes<T> as AsBytes>::as_bytes_mut(&mut copy);
        reader.read_slice(bytes.get_mut(..known).ok_or(EINVAL)?)?;
        let mut rest = [0u8; 64];
        while !reader.is_empty() {
            let step = reader.len().min(rest.len());
            let part = rest.get_mut(..step).ok_or(EINVAL)?;
            reader.read_slice(part)?;
            if part.iter().any(|byte| *byte != 0) {
                return Err(E2BIG);
            }
        }
        let mut value = copy.0;
        value.clear_results();
        Ok(Self {
            address,
            size: known,
            value,
        })
    }

    /// Writes the kernel's copy back, as much of it as the caller has room for.
    pub(crate) fn write(&self) -> Result {
        let copy = Bytes(self.value);
        let bytes = copy.as_bytes().get(..self.size).ok_or(EINVAL)?;
        UserSlice::new(UserPtr::from_addr(self.address), self.size)
            .writer()
            .write_slice(bytes)
    }
}

/// Bytes of a page, the largest structure that is ever accepted.
pub(crate) const PAGE_BYTES: usize = kernel::page::PAGE_SIZE;

/// Writes an array of integers to user space.
pub(crate) fn write_u64s(address: u64, values: &[u64]) -> Result {
    let address = usize::try_from(address).map_err(|_| EFAULT)?;
    let mut writer = UserSlice::new(UserPtr::from_addr(address), size_of_val(values)).writer();
    values.iter().try_for_each(|value| writer.write(value))
}
