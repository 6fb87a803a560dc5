// SPDX-License-Identifier: MIT OR Apache-2.0
//! The runner's lines in the kernel log, where they have their place among the kernel's own.

use std::fs::OpenOptions;
use std::io::Write as _;

use dmaplane_vmtest_plan::RUNNER_MARK;

/// Writes one line. A log that cannot be written must not stop the guest, so errors are dropped:
/// the host misses the line and says so.
pub(crate) fn say(text: &str) {
    for line in text.lines() {
        let _ = OpenOptions::new()
            .write(true)
            .open("/dev/kmsg")
            .and_then(|mut file| file.write_all(format!("<5>{RUNNER_MARK} {line}\n").as_bytes()));
    }
}
