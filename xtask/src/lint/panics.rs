// SPDX-License-Identifier: MIT OR Apache-2.0
//! The module for the stock kernel must not be able to panic: no call of `core`'s panic functions may be left in it.
//! What the optimiser proved impossible is gone by then; what is left can happen. The module is inspected without the
//! overflow checks that Debian's configuration adds: they leave a panic at each sum whose bounds the optimiser does not
//! know.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Verdict;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::driver;
use dmaplane_vmtest::kernel::Profile;
use dmaplane_vmtest::setup::Tools;

/// Parts of mangled names: `core::panicking` and the cold functions that only panic.
const PANICS: &[&str] = &[
    "4core9panicking",
    "4core6option13",
    "4core6result13",
    "_fail",
];

/// The kernel's own assertion in `Instant + Delta`, if its configuration checks for overflow: the instant is not
/// negative. All limits that come from outside are bounded before they are added.
const OF_KERNEL: &str = "assertion failed: res >= 0";

/// Functions that can panic, each with what it calls for that, from a disassembly with relocations. A function that
/// only passes a panic on does not count: its callers do.
fn panics(disassembly: &str) -> Vec<(&str, &str)> {
    let mut function = "";
    let mut found = Vec::new();
    for line in disassembly.lines() {
        if let Some(name) = line
            .strip_suffix(">:")
            .and_then(|line| line.split_once(" <"))
        {
            function = name.1;
            continue;
        }
        let target = line
            .split([' ', '<', '>', '\t'])
            .find(|word| word.starts_with("_R") && PANICS.iter().any(|part| word.contains(part)));
        if let (Some(target), false) = (target, function.contains(PANICS[0])) {
            found.push((function, target));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether all assertions of a module are the kernel's own.
fn asserts_nothing_else(module: &[u8]) -> bool {
    let any = b"assertion failed: ";
    module
        .windows(any.len())
        .enumerate()
        .filter(|(_, window)| window == any)
        .all(|(at, _)| module[at..].starts_with(OF_KERNEL.as_bytes()))
}

pub(super) fn check(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let ko = driver::ensure_unchecked(ctx, Profile::Stock)?;
    let module = fs::read(&ko).with_context(|| format!("cannot read {}", ko.display()))?;
    let out = Command::new("llvm-objdump-19")
        .args(["-dr", "--no-show-raw-insn"])
        .arg(&ko)
        .output()
        .context("cannot start llvm-objdump-19")?;
    ensure!(
        out.status.success(),
        "llvm-objdump-19 cannot read {}: {}",
        ko.display(),
        String::from_utf8_lossy(&out.stderr)
    );
    let disassembly = String::from_utf8_lossy(&out.stdout);
    let mut found = panics(&disassembly);
    if asserts_nothing_else(&module) {
        found.retain(|(_, target)| !target.contains("4core9panicking5panic-"));
    }
    Ok(if found.is_empty() {
        Verdict::Clean
    } else {
        let list: Vec<_> = found
            .iter()
            .map(|(function, target)| format!("{function} calls {target}"))
            .collect();
        Verdict::Dirty(format!(
            "the module can panic:\n  {}\nUse checked arithmetic, get() instead of an index, NonZero for divisors.",
            list.join("\n  ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_panics_are_found_and_where() {
        let text = "\
0000000000000010 <_RNvNtC5dmaplane4wait5after>:
     14: callq 0x19 <_RNvNtC5dmaplane4wait5after+0x9>
\t\t0000000000000015:  R_X86_64_PLT32\t_RNvNtCs1_4core9panicking5panic-0x4
     20: callq 0x19 <_RNvNtCs1_4core6option13unwrap_failed>
0000000000000030 <_RINvNtCs1_4core9panicking13assert_failedjE>:
\t\t0000000000000035:  R_X86_64_PLT32\t_RNvNtCs1_4core9panicking19assert_failed_inner-0x4
0000000000000040 <_RNvC5dmaplane5clean>:
\t\t0000000000000045:  R_X86_64_PLT32\t__list_add_valid_or_report_fail-0x4
\t\t0000000000000055:  R_X86_64_PLT32\t_RNvMs_NtCs1_6kernel5error-0x4
";
        let after = "_RNvNtC5dmaplane4wait5after";
        assert_eq!(
            panics(text),
            [
                (after, "_RNvNtCs1_4core6option13unwrap_failed"),
                (after, "_RNvNtCs1_4core9panicking5panic-0x4"),
            ]
        );
        assert!(panics("").is_empty());
    }

    #[test]
    fn the_kernels_assertion_is_distinguished_from_ours() {
        let own = [OF_KERNEL, "/src/time.rs"].concat();
        assert!(asserts_nothing_else(own.as_bytes()));
        let other = [OF_KERNEL, "x", "assertion failed: a < b"].concat();
        assert!(!asserts_nothing_else(other.as_bytes()));
    }
}
