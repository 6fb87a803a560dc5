// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Rust symbols that two kernels export, compared by name.
//!
//! A symbol contains hashes of crates, which differ between any two kernels. The comparison uses the path that the
//! names in a symbol form. The path is good enough for people: generic arguments are part of it.

use std::collections::BTreeSet;

/// The paths that only one of two kernels has.
pub(super) struct Difference {
    /// How many the new kernel has.
    pub(super) all: usize,
    /// Those that only the old kernel has.
    pub(super) gone: Vec<String>,
    /// Those that only the new kernel has.
    pub(super) new: Vec<String>,
}

/// Compares lists of symbols, one in a line.
pub(super) fn compare(before: &str, after: &str) -> Difference {
    let (before, after) = (paths(before), paths(after));
    Difference {
        all: after.len(),
        gone: before.difference(&after).cloned().collect(),
        new: after.difference(&before).cloned().collect(),
    }
}

fn paths(list: &str) -> BTreeSet<String> {
    let symbols = list.lines().filter(|line| !line.is_empty());
    symbols.map(path).collect()
}

/// `kernel::error::to_result` of `_RNvNtCsfATHBUcknU9_6kernel5error9to_result`; other symbols stay as they are.
fn path(symbol: &str) -> String {
    let Some(mut rest) = symbol.strip_prefix("_R") else {
        return symbol.to_owned();
    };
    let mut names = Vec::new();
    while let Some(first) = rest.chars().next() {
        // A hash, a reference to what was named before, a lifetime or a binder: a number in base 62 to its underscore.
        if matches!(first, 's' | 'B' | 'L' | 'G') {
            let number = rest[1..].trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            if let Some(after) = number.strip_prefix('_') {
                rest = after;
                continue;
            }
        }
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let length: usize = rest[..digits].parse().unwrap_or(0);
        let name = &rest[digits..];
        let name = name.strip_prefix('_').unwrap_or(name);
        // Closures have no name.
        let Some((name, after)) = name.split_at_checked(length) else {
            break;
        };
        if !name.is_empty() {
            names.push(name);
        }
        rest = after;
    }
    names.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_without_hashes() {
        for (symbol, wanted) in [
            (
                "_RNvNtCsfATHBUcknU9_6kernel5error9to_result",
                "kernel::error::to_result",
            ),
            (
                "_RNvMs_NtCs9xY_6kernel3strNtB4_4CStr8from_ptr",
                "kernel::str::CStr::from_ptr",
            ),
            ("rust_helper_BUG", "rust_helper_BUG"),
            ("_RNCNvCsa_4core4main0", "core::main"),
            // Cut off in the middle of a name: read as far as it goes.
            ("_RNvCsa_6kernel90short", "kernel"),
        ] {
            assert_eq!(path(symbol), wanted, "{symbol}");
        }
    }

    #[test]
    fn hashes_make_no_difference_and_names_do() {
        let before = "_RNvCsa1_6kernel3oldE\n_RNvCsa1_6kernel4bothE\n";
        let after = "_RNvCsz9_6kernel4bothE\n_RNvCsz9_6kernel3newE\n";
        let difference = compare(before, after);
        assert_eq!(difference.all, 2);
        assert_eq!(difference.gone, ["kernel::old"]);
        assert_eq!(difference.new, ["kernel::new"]);
    }
}
