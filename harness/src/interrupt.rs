// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ctrl-C, for commands that report what they have done before they end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, Result};
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::exit;

/// Whether the user pressed Ctrl-C.
static WANTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on [`check`] notices the first Ctrl-C, which ends nothing else. The second one ends the process at once.
pub fn notice() -> Result<()> {
    set_by_signal(&WANTED)
}

/// Fails once the user has pressed Ctrl-C.
///
/// # Errors
/// With the exit code of an interruption.
pub fn check() -> Result<()> {
    not_yet(&WANTED)
}

fn set_by_signal(wanted: &Arc<AtomicBool>) -> Result<()> {
    // In this order: only the second signal finds what the first one has set.
    flag::register_conditional_shutdown(SIGINT, exit::INTERRUPTED.into(), Arc::clone(wanted))
        .and_then(|_| flag::register(SIGINT, Arc::clone(wanted)))
        .context("cannot handle Ctrl-C")?;
    Ok(())
}

fn not_yet(wanted: &AtomicBool) -> Result<()> {
    if wanted.load(Ordering::Relaxed) {
        return Err(exit::coded(exit::INTERRUPTED, "interrupted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_is_noticed_and_ends_nothing() {
        // A flag of its own: other tests of this process go on.
        let wanted = Arc::new(AtomicBool::new(false));
        set_by_signal(&wanted).unwrap();
        not_yet(&wanted).unwrap();
        signal_hook::low_level::raise(SIGINT).unwrap();
        let err = not_yet(&wanted).unwrap_err();
        assert_eq!(exit::number_of(&err), exit::INTERRUPTED);
        check().unwrap();
    }
}
