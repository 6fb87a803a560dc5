// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fault points must cost nothing where the kernel cannot inject faults: the module for the stock kernel may contain
//! nothing of the kernel's fault injection, and no name of a fault point.

use std::fs;

use anyhow::{Context as _, Result};

use super::Verdict;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::driver;
use dmaplane_vmtest::kernel::Profile;
use dmaplane_vmtest::setup::Tools;

/// What a module with fault points refers to or holds.
const TRACES: &[&str] = &["should_fail", "fault_create_debugfs_attr", "fail_dmaplane_"];

/// Those that a file contains.
fn found(bytes: &[u8]) -> Vec<&'static str> {
    let holds = |text: &&&str| {
        let text = text.as_bytes();
        bytes.windows(text.len()).any(|window| window == text)
    };
    TRACES.iter().filter(holds).copied().collect()
}

pub(super) fn check(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let read = |path: std::path::PathBuf| {
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    // The control: without it, a changed name would pass unseen.
    let with = found(&read(driver::ensure(ctx, Profile::Debug)?.ko)?);
    if with.len() != TRACES.len() {
        return Ok(Verdict::Dirty(format!(
            "the module with fault points has only {with:?} of {TRACES:?}"
        )));
    }
    let without = found(&read(driver::ensure(ctx, Profile::Stock)?.ko)?);
    Ok(if without.is_empty() {
        Verdict::Clean
    } else {
        Verdict::Dirty(format!(
            "the module for a kernel without fault injection still has {}",
            without.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_found_anywhere() {
        let file = b"\x7fELF fail_dmaplane_freeze\0should_fail\0";
        assert_eq!(found(file), ["should_fail", "fail_dmaplane_"]);
        assert!(found(b"ELF").is_empty());
    }
}
