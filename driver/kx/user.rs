// SPDX-License-Identifier: GPL-2.0-only

//! Extensible structures from and to user space, as `copy_struct_from_user()` has them.

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
pub(crate) unsafe trait Abi: Copy + Default {}

/// A wrapper that the orphan rule lets us implement the kernel's traits for.
#[repr(transparent)]
#[derive(Clone, Copy, Default)]
struct Bytes<T: Abi>(T);

// SAFETY: By `Abi`'s contract any bytes are a valid value.
unsafe impl<T: Abi> FromBytes for Bytes<T> {}
// SAFETY: By `Abi`'s contract there is no padding.
unsafe impl<T: Abi> AsBytes for Bytes<T> {}

macro_rules! abi {
    ($($name:ident),* $(,)?) => {$(
        // SAFETY: `repr(C)` of integers and arrays of integers only; `uapi` asserts its size, which is the
        // sum of its members' sizes.
        unsafe impl Abi for uapi::$name {}
        const _: () = assert!(offset_of!(uapi::$name, size) == 0 && offset_of!(uapi::$name, flags) == 4);
    )*};
}

abi!(
    Query,
    Destroy,
    BufferCreate,
    BufferQuery,
    BufferExport,
    BufferImport,
    BufferFolios,
    PoolCreate,
    PoolCarve,
    PoolQuery,
    ChannelCreate,
    Enter,
    Listen,
    Accept,
    Connect,
    EndpointQuery,
    GrantCreate,
    GrantWait,
    BufferRevoke,
    MemoryQuery,
    DeviceQuery,
    DeviceAlloc,
    StatsQuery,
);

/// An ioctl's argument: where it is, how long the caller says it is, and the kernel's copy.
pub(crate) struct Arg<T: Abi> {
    address: usize,
    size: usize,
    /// The kernel's copy, which nobody else can change.
    pub(crate) value: T,
}

impl<T: Abi> Arg<T> {
    /// Copies the structure at `address`. Shorter ones are extended with zeroes, longer ones accepted when
    /// the rest is zero.
    pub(crate) fn read(address: usize) -> Result<Self> {
        let size = UserSlice::new(UserPtr::from_addr(address), size_of::<u32>())
            .reader()
            .read::<u32>()? as usize;
        if size < 2 * size_of::<u32>() {
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
        Ok(Self {
            address,
            size: known,
            value: copy.0,
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
