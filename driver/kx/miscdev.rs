// SPDX-License-Identifier: GPL-2.0-only

//! A misc device whose files can be polled.
//!
//! Extends `kernel::miscdevice`, whose registration has no poll.

use core::marker::PhantomData;
use kernel::{
    bindings,
    error::to_result,
    ffi,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions},
    prelude::*,
    types::{ForeignOwnable, Opaque},
};

pub(crate) use kernel::sync::poll::PollTable;

/// What a file is ready for: `EPOLL*` bits.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ready(bindings::__poll_t);

impl Ready {
    /// There is something to take from it.
    pub(crate) const READABLE: Self = Self(bindings::POLLIN | bindings::POLLRDNORM);
    /// Something is broken. The next call reports it.
    pub(crate) const BROKEN: Self = Self(bindings::POLLERR);

    /// Ready for both.
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A misc device whose files can be polled.
pub(crate) trait Polled: MiscDevice {
    /// What the file is ready for. Registers the caller first, so that it misses nothing that comes later. May sleep.
    fn poll(
        device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        table: PollTable<'_>,
    ) -> Ready;
}

/// The registration of such a device. `kernel::miscdevice::MiscDeviceRegistration` is its counterpart without poll.
///
/// # Invariants
///
/// `inner` was registered by `misc_register()` and is deregistered on drop. Its file operations are those of the
/// kernel crate for `T`, with [`poll`] added.
#[repr(transparent)]
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T> {
    #[pin]
    inner: Opaque<bindings::miscdevice>,
    _device: PhantomData<T>,
}

// SAFETY: `misc_deregister()` may be called from any thread.
unsafe impl<T> Send for Registration<T> {}
// SAFETY: There are no methods.
unsafe impl<T> Sync for Registration<T> {}

struct Operations<T>(PhantomData<T>);

impl<T: Polled> Operations<T> {
    const TABLE: bindings::file_operations = {
        let options = MiscDeviceOptions { name: c"" };
        // SAFETY: The kernel crate points to a constant that lives for ever.
        let of_crate = unsafe { core::ptr::read(options.into_raw::<T>().fops) };
        bindings::file_operations {
            poll: Some(poll::<T>),
            ..of_crate
        }
    };
}

impl<T: Polled> Registration<T> {
    /// Registers the device.
    pub(crate) fn register(options: MiscDeviceOptions) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(move |slot: *mut bindings::miscdevice| {
                let mut device = options.into_raw::<T>();
                device.fops = &Operations::<T>::TABLE;
                // SAFETY: The slot is valid for writing. It is pinned from here on, and deregistered before it goes.
                // The open function of the crate casts a pointer to it to its own registration, a transparent wrapper
                // of the same structure.
                unsafe {
                    slot.write(device);
                    to_result(bindings::misc_register(slot))
                }
            }),
            _device: PhantomData,
        })
    }
}

#[pinned_drop]
impl<T> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant it is registered.
        unsafe { bindings::misc_deregister(self.inner.get()) };
    }
}

/// # Safety
///
/// `file` must be an open file of a [`Registration<T>`], and `table` null or a valid table, for the call.
unsafe extern "C" fn poll<T: Polled>(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: The crate's open function has stored the device there, and its release takes it away after the last call.
    let device =
        unsafe { <T::Ptr as ForeignOwnable>::borrow((*file).private_data.cast::<ffi::c_void>()) };
    // SAFETY: The file is alive during the call, without an `fdget_pos` of this thread.
    let file = unsafe { File::from_raw_file(file) };
    // SAFETY: By this function's contract.
    let table = unsafe { PollTable::from_raw(table) };
    T::poll(device, file, table).0
}
