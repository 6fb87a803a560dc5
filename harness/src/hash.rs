// SPDX-License-Identifier: MIT OR Apache-2.0
//! SHA-256: of files, to check what was downloaded; of texts, to name what is built from them.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::exit;

/// The SHA-256 of a file in hexadecimal digits.
///
/// # Errors
/// When the file cannot be read.
pub fn file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file
            .read(&mut buffer)
            .with_context(|| format!("reading {}", path.display()))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// The SHA-256 of several texts, each of which counts with its length so that none can flow into
/// the next.
pub fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.len().to_le_bytes());
        hash.update(text.as_bytes());
    }
    hex(&hash.finalize())
}

/// Refuses a file whose SHA-256 is not `expected`.
///
/// # Errors
/// The message names the file, both sums and what to do.
pub fn verify(path: &Path, expected: &str) -> Result<()> {
    let actual = file(path)?;
    if actual == expected {
        return Ok(());
    }
    Err(mismatch(path, expected, &actual))
}

fn mismatch(path: &Path, expected: &str, actual: &str) -> anyhow::Error {
    exit::environment(format!(
        "{} has the wrong SHA-256 and is not used\n  expected {expected}\n  found    {actual}\n\
         It is damaged or another version. Get it again, or, if the change is wanted, edit \
         vm/kernel/pin.toml.",
        path.display()
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_is_hashed_and_verified() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(file(&path).unwrap(), ABC);
        verify(&path, ABC).unwrap();
    }

    #[test]
    fn a_mismatch_names_both_sums_and_ends_as_an_environment_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abd");
        std::fs::write(&path, "abd").unwrap();
        let err = verify(&path, ABC).unwrap_err();
        let text = err.to_string();
        let found = file(&path).unwrap();
        assert!(text.contains(&format!("expected {ABC}")), "{text}");
        assert!(text.contains(&format!("found    {found}")), "{text}");
        assert!(text.contains("is not used"), "{text}");
        assert_eq!(exit::number_of(&err), exit::ENVIRONMENT);
    }

    #[test]
    fn texts_do_not_flow_into_each_other() {
        assert_ne!(texts(["ab", "c"]), texts(["a", "bc"]));
        assert_ne!(texts(["abc"]), texts(["abc", ""]));
        assert_eq!(texts(["a", "b"]), texts(["a", "b"]));
    }
}
