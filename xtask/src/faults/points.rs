// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of the driver's fault points, for runs of some of them only.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// The file that defines them.
const TABLE: &str = "driver/base/faults.rs";

/// The names in the driver's table.
fn named(table: &str) -> Vec<String> {
    let entries = table.lines().map(str::trim);
    let names = entries.filter_map(|line| {
        let name = line.strip_suffix(',')?;
        name.strip_prefix("fails ").or(name.strip_prefix("acts "))
    });
    names.map(str::to_owned).collect()
}

/// Fails unless all of these are fault points; the error lists those that exist.
pub(crate) fn check(root: &Path, wanted: &[String]) -> Result<()> {
    let path = root.join(TABLE);
    let table =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let there = named(&table);
    for name in wanted {
        ensure!(
            there.contains(name),
            "no fault point {name}; there are: {}",
            there.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_drivers_table() {
        let table =
            "points! {\n    /// No memory.\n    fails alloc_arrival,\n    acts freeze,\n}\n";
        assert_eq!(named(table), ["alloc_arrival", "freeze"]);
    }

    #[test]
    fn an_unknown_name_gets_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        check(&root, &["freeze".to_owned(), "post_send".to_owned()]).unwrap();
        let error = check(&root, &["freze".to_owned()]).unwrap_err().to_string();
        assert!(
            error.starts_with("no fault point freze; there are: "),
            "{error}"
        );
        assert!(
            error.contains("alloc_arrival") && error.contains("freeze"),
            "{error}"
        );
    }
}
