// SPDX-License-Identifier: GPL-2.0-only

//! The module's attributes in sysfs: /sys/module/dmaplane/abi_version, counts/ and limits/.
//!
//! Would become `kernel::sysfs`.

use super::raw;
use kernel::{error::to_result, ffi, prelude::*, sync::SetOnce};

/// The value of an attribute by its number in the table of `sysfs.c`; 0 for a number that is not there.
pub(crate) type Value = fn(u32) -> u64;

/// Who knows the values. A module's statics are fresh at each load.
static VALUE: SetOnce<Value> = SetOnce::new();

/// The attributes, as long as this lives.
///
/// # Invariants
///
/// The groups of `sysfs.c` are registered on the module's kobject.
pub(crate) struct Attributes(());

impl Attributes {
    /// Shows them, with the values that `value` returns. The module must be there, which its initialisation proves.
    pub(crate) fn new(_proof: &'static ThisModule, value: Value) -> Result<Self> {
        let _first = VALUE.populate(value);
        // SAFETY: The module's kobject is there before its initialisation runs.
        to_result(unsafe { raw::dmaplane_sysfs_begin() })?;
        // INVARIANT: Just registered.
        Ok(Self(()))
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: By the type invariant they are registered. Waits for whoever reads one.
        unsafe { raw::dmaplane_sysfs_end() };
    }
}

/// The value of an attribute, for `sysfs.c`.
///
/// Only called between the two functions above.
#[no_mangle]
extern "C" fn dmaplane_sysfs_value(which: ffi::c_uint) -> u64 {
    VALUE.copy().map_or(0, |value| value(which))
}
