// SPDX-License-Identifier: MIT OR Apache-2.0

//! Kernel lockdown, which Secure Boot turns on: why root may be refused a file of debugfs or tracefs.

use std::fs;
use std::io;
use std::path::Path;

/// Where the kernel reports its mode, as `none [integrity] confidentiality`.
const MODE: &str = "/sys/kernel/security/lockdown";
/// `EPERM`. Missing rights give another error, `EACCES`; lockdown refuses even those who have the rights.
const REFUSED: i32 = rustix::io::Errno::PERM.raw_os_error();

/// Why the kernel refused `path`, and what works all the same; `None` if lockdown is not the reason.
///
/// The text is a clause that follows the error: `: Operation not permitted` + `; ...`.
pub fn explain(path: &Path, error: &io::Error) -> Option<String> {
    if error.raw_os_error() != Some(REFUSED) {
        return None;
    }
    why(path, &fs::read_to_string(MODE).ok()?)
}

/// As [`explain`], for what the kernel reports of its mode.
fn why(path: &Path, modes: &str) -> Option<String> {
    let mode = modes.split_whitespace().find_map(|word| {
        let word = word.strip_prefix('[')?;
        word.strip_suffix(']')
    })?;
    let works = match mode {
        "none" => return None,
        "integrity" => "files of mode 0400, as all of the driver's state is, and trace events work",
        // tracefs as a whole is refused in this mode.
        _ => {
            "files of mode 0400, as all of the driver's state is, work; trace events do not, as they could show the \
             kernel's memory"
        }
    };
    Some(format!(
        "the kernel is locked down ({MODE}: {mode}; Secure Boot does that) and refuses {}, even to root; {works}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/sys/kernel/debug/dmaplane/delay_points/freeze";

    #[test]
    fn lockdown_is_named_with_the_file_and_what_works() {
        let text = why(Path::new(FILE), "none [integrity] confidentiality\n");
        let text = text.expect("locked down");
        for word in [FILE, MODE, ": integrity", "0400", "trace events work"] {
            assert!(text.contains(word), "{text}");
        }
        let text = why(Path::new(FILE), "none integrity [confidentiality]\n");
        let text = text.expect("locked down");
        assert!(text.contains("trace events do not"), "{text}");
    }

    #[test]
    fn a_kernel_that_is_not_locked_down_is_not_blamed() {
        for modes in ["[none] integrity confidentiality\n", "", "none integrity"] {
            assert_eq!(why(Path::new(FILE), modes), None, "{modes}");
        }
    }

    #[test]
    fn missing_rights_are_not_lockdown() {
        let denied = io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error());
        assert_eq!(explain(Path::new(FILE), &denied), None);
    }
}
