// SPDX-License-Identifier: MIT OR Apache-2.0

//! Forms of output that the commands share.

use anyhow::{Context as _, Result};
use dmaplane::terminal;
use serde::Serialize;

/// Writes a value as JSON with a newline.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    text(&crate::json::text(value)?)
}

/// Writes text as it is.
pub(crate) fn text(text: &str) -> Result<()> {
    terminal::print(text).context("cannot write to standard output")
}

/// Bytes for people: the largest unit that keeps at least one digit before the point.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value.fract() != 0.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(3 << 19), "1.5 MiB");
        assert_eq!(bytes(64 << 30), "64 GiB");
    }
}
