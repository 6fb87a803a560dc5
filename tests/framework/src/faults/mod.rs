// SPDX-License-Identifier: MIT OR Apache-2.0

//! Injecting faults: the driver's own points, the kernel's points for all allocations, and the sweep that fails the
//! n-th fallible step of a system call.

mod nth;
mod points;
mod record;

pub use nth::{CAP, Nth, Swept, sweep};
pub use points::{Counts, Point, counts, names, quiet};
pub use record::{Record, record};

use std::path::Path;

use anyhow::{Result, bail};

use crate::guest::{Guest, Profile};
use crate::run::Skip;

/// Whether the runs have their full length (`cargo xtask vm-test --faults`) or that of everyday tests.
pub fn full() -> bool {
    std::env::var("DMAPLANE_FAULTS").is_ok_and(|value| value == "full")
}

/// Makes sure that this kernel can inject faults and that the driver has its points.
///
/// # Errors
/// Names the option that is missing: a [`Skip`] on Debian's stock kernel, which has none of them, else a failure.
pub fn require() -> Result<()> {
    let stock = Guest::from_env()?.profile == Profile::Stock;
    let needed = [
        ("/sys/kernel/debug/failslab", "CONFIG_FAILSLAB"),
        (
            "/sys/kernel/debug/fail_page_alloc",
            "CONFIG_FAIL_PAGE_ALLOC",
        ),
        (
            "/sys/kernel/debug/fail_usercopy",
            "CONFIG_FAULT_INJECTION_USERCOPY",
        ),
        ("/proc/thread-self/fail-nth", "CONFIG_FAULT_INJECTION"),
        (points::FOLDER, "CONFIG_FAULT_INJECTION_DEBUG_FS"),
    ];
    for (path, option) in needed {
        if !Path::new(path).exists() {
            if stock {
                let why = format!("needs {option}, which Debian's kernel lacks");
                return Err(Skip::new(why).into());
            }
            bail!(
                "this kernel has no {path}: it lacks {option}, which the profiles base and debug have \
                 (vm/kernel/base.config), or the driver was built with DMAPLANE_FAULTS=n"
            );
        }
    }
    Ok(())
}
