// SPDX-License-Identifier: MIT OR Apache-2.0

//! The manual pages, made from the command line's own help.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Writes a page for the tool and one for each of its commands into `dir`.
///
/// # Errors
/// When a page cannot be written.
pub(crate) fn write(command: clap::Command, dir: &Path) -> Result<()> {
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("cannot write the manual pages into {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn each_command_has_a_page_but_the_hidden_one() {
        let dir = tempfile::tempdir().expect("a folder");
        write(crate::Args::command(), dir.path()).expect("pages");
        let has = |name: &str| dir.path().join(name).is_file();
        for name in ["dmaplane.1", "dmaplane-info.1", "dmaplane-kv-send.1"] {
            assert!(has(name), "{name}");
        }
        assert!(!has("dmaplane-man.1"));
        let page = std::fs::read_to_string(dir.path().join("dmaplane-kv-send.1")).expect("a page");
        assert!(page.contains("dmaplane"), "{page}");
    }
}
