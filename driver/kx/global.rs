// SPDX-License-Identifier: GPL-2.0-only

//! Global locks, whose initialisation is `unsafe`.
//!
//! Extends `kernel::sync::global_lock`.

/// Makes a global mutex, and a type for its lifetime: a value of that type, made first thing in the module's
/// initialisation, makes the lock usable. A module's statics are not dropped when the module goes, so its drop drops
/// what the lock holds. It is the last of the module's fields that use the lock.
///
/// The value must be a `const` expression, which the drop puts back.
macro_rules! global_mutex {
    ($(#[$meta:meta])* static $name:ident: Mutex<$held:ty> = $value:expr; life $life:ident;) => {
        kernel::sync::global_lock! {
            $(#[$meta])*
            // SAFETY: `begin()` of its life runs first thing in the module's initialisation, before anything can lock it.
            pub(crate) unsafe(uninit) static $name: Mutex<$held> = $value;
        }

        #[doc = concat!("The lifetime of [`", stringify!($name), "`](static@", stringify!($name), ").")]
        pub(crate) struct $life(());

        impl $life {
            /// Makes the lock usable.
            ///
            /// A module's initialisation runs once for each load, and its statics are fresh each time.
            pub(crate) fn begin(_proof: &'static kernel::prelude::ThisModule) -> Self {
                // SAFETY: Called once for each load, as described above.
                unsafe { $name.init() };
                Self(())
            }
        }

        impl Drop for $life {
            fn drop(&mut self) {
                let held = core::mem::replace(&mut *$name.lock(), $value);
                drop(held);
            }
        }
    };
}
pub(crate) use global_mutex;
