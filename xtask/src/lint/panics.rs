// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module for the stock kernel must not be able to panic: no reference to `core`'s panic functions
//! may be left in it. What the optimiser proved impossible is gone by then; what is left can happen.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Verdict;
use crate::ctx::Ctx;
use crate::driver;
use crate::kernel::Profile;
use crate::setup::Tools;

/// Parts of mangled names: `core::panicking` and the cold functions that only panic.
const PANICS: &[&str] = &[
    "4core9panicking",
    "4core6option13",
    "4core6result13",
    "_fail",
];

/// Undefined symbols of Rust's that only serve to panic.
fn panics(symbols: &str) -> Vec<&str> {
    symbols
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .filter(|name| name.starts_with("_R") && PANICS.iter().any(|part| name.contains(part)))
        .collect()
}

pub(super) fn check(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let module = driver::ensure(ctx, Profile::Stock)?;
    let out = Command::new("llvm-nm-19")
        .arg("--undefined-only")
        .arg(&module.ko)
        .output()
        .context("cannot start llvm-nm-19")?;
    ensure!(
        out.status.success(),
        "llvm-nm-19 cannot read {}: {}",
        module.ko.display(),
        String::from_utf8_lossy(&out.stderr)
    );
    let symbols = String::from_utf8_lossy(&out.stdout);
    let found = panics(&symbols);
    Ok(if found.is_empty() {
        Verdict::Clean
    } else {
        Verdict::Dirty(format!(
            "the module can panic; it refers to\n  {}\nUse checked arithmetic, get() instead of an \
             index, NonZero for divisors; `llvm-objdump-19 -dr` on dmaplane_main.o shows where.",
            found.join("\n  ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_are_found() {
        let symbols = "\
                 U _RNvNtCs1peUGmbrgHn_4core9panicking18panic_bounds_check
                 U _RNvNtCs1peUGmbrgHn_4core6option13unwrap_failed
                 U _RNvNtNtCs1peUGmbrgHn_4core5slice5index16slice_index_fail
                 U _RNvMs_NtCs1EKtwoKEMO2_6kernel5error
                 U __list_add_valid_or_report_fail
                 U rdma_create_qp
";
        assert_eq!(panics(symbols).len(), 3);
        assert!(panics("").is_empty());
    }
}
