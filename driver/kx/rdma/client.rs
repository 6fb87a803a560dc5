// SPDX-License-Identifier: GPL-2.0-only

//! A client of `ib_core`, which is notified when RDMA devices come and go.
//!
//! Would become part of `kernel::rdma`.

use super::{capabilities::Capabilities, raw, NAME};
use crate::kx::nodes::DeviceName;
use core::{marker::PhantomData, ptr, ptr::NonNull};
use kernel::{
    error::to_result,
    ffi::{c_int, c_void},
    prelude::*,
};

/// An RDMA device between its addition and the end of its removal.
///
/// # Invariants
///
/// The pointer is a device that `ib_core` has announced and whose removal has not ended. Holders drop their
/// copies and everything made from them before they let [`Ops::remove`] return.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device(NonNull<raw::ib_device>);

// SAFETY: `ib_core` locks its devices; the pointer may be used from any thread.
unsafe impl Send for Device {}
// SAFETY: `ib_core` locks its devices; the pointer may be used from any thread.
unsafe impl Sync for Device {}

impl Device {
    /// Wraps a pointer from `ib_core` or the connection manager; `None` for null.
    ///
    /// # Safety
    ///
    /// The device's removal has not ended, and the caller keeps the type's invariant.
    pub(super) unsafe fn from_raw(device: *mut raw::ib_device) -> Option<Self> {
        NonNull::new(device).map(Self)
    }

    /// The raw device.
    pub(super) fn as_ptr(self) -> *mut raw::ib_device {
        self.0.as_ptr()
    }

    /// Its name, padded with zeroes.
    pub(crate) fn name(self) -> [u8; 64] {
        // SAFETY: By the type invariant the device is alive. A concurrent rename may tear the copy,
        // which is only ever shown to people; the bytes are initialised either way.
        let name = unsafe { ptr::addr_of!((*self.as_ptr()).name).read_volatile() };
        let mut bytes = [0u8; 64];
        for (to, from) in bytes.iter_mut().zip(name.iter().take(63)) {
            *to = *from;
        }
        bytes
    }

    /// Whether this is its name.
    pub(crate) fn is_called(self, name: &DeviceName<'_>) -> bool {
        let own = self.name();
        let length = own.iter().position(|byte| *byte == 0);
        length.and_then(|length| own.get(..length)) == Some(name.as_bytes())
    }

    /// Whether the calling process may use it from its network namespace.
    pub(crate) fn is_accessible(self) -> bool {
        // SAFETY: By the type invariant the device is alive; the namespace is the caller's, alive as long as this runs.
        unsafe { raw::rdma_dev_access_netns(self.as_ptr(), raw::dmaplane_current_net()) }
    }

    /// The NUMA node that it sits on, -1 for unknown.
    pub(crate) fn node(self) -> i32 {
        // SAFETY: By the type invariant the device is alive.
        unsafe { raw::dmaplane_ib_device_node(self.as_ptr()) }
    }

    /// What it can do.
    pub(crate) fn capabilities(self) -> Capabilities {
        Capabilities::of(self)
    }
}

/// The callbacks of the client's user for devices that come and go. Both run in process context and may sleep.
pub(crate) trait Ops: 'static {
    /// A device came, or was there when the client registered. On an error the device is ignored.
    fn add(device: Device) -> Result;
    /// A device goes. When this returns, nothing that was made on it may be left.
    fn remove(device: Device);
}

/// A registration with `ib_core`. Dropping it removes every device.
///
/// # Invariants
///
/// The client is registered, and its memory does not move until drop.
pub(crate) struct Registration<T: Ops> {
    client: KBox<raw::ib_client>,
    _ops: PhantomData<T>,
}

// SAFETY: The client is only registered and unregistered, both of which `ib_core` locks.
unsafe impl<T: Ops> Send for Registration<T> {}
// SAFETY: There is nothing to do with a shared reference.
unsafe impl<T: Ops> Sync for Registration<T> {}

impl<T: Ops> Registration<T> {
    /// Registers; `T::add` runs for every device that is there already.
    pub(crate) fn new() -> Result<Self> {
        let mut client = KBox::new(
            raw::ib_client {
                name: NAME.as_char_ptr(),
                add: Some(Self::add),
                remove: Some(Self::remove),
                ..Default::default()
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The client is initialised, and lives in its box until `drop` has unregistered it.
        to_result(unsafe { raw::ib_register_client(&mut *client) })?;
        Ok(Self {
            client,
            _ops: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Called by `ib_core` with a device that is being added.
    unsafe extern "C" fn add(device: *mut raw::ib_device) -> c_int {
        // SAFETY: `ib_core` keeps the device until `remove` returned; `T` keeps the invariant.
        match unsafe { Device::from_raw(device) }.map(T::add) {
            Some(Ok(())) => 0,
            Some(Err(error)) => error.to_errno(),
            None => EINVAL.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by `ib_core` with a device whose `add` succeeded.
    unsafe extern "C" fn remove(device: *mut raw::ib_device, _data: *mut c_void) {
        // SAFETY: `ib_core` keeps the device until `remove` returned; `T` keeps the invariant.
        if let Some(device) = unsafe { Device::from_raw(device) } {
            T::remove(device);
        }
    }
}

impl<T: Ops> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered, and it is unregistered once.
        unsafe { raw::ib_unregister_client(&mut *self.client) };
    }
}
