// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit codes, one for each cause, so that CI and scripts can tell them apart.

use std::fmt;
use std::process::ExitCode;

/// Something the user asked for failed: a lint, a host test, a build, the demo.
pub(crate) const FAILED: u8 = 1;
/// The command line asks for what cannot be.
pub(crate) const USAGE: u8 = 2;
/// The environment lacks something: a tool, the network, a file with the right checksum.
pub(crate) const ENVIRONMENT: u8 = 3;
/// The guests ran and at least one test failed.
pub(crate) const GUEST_TESTS: u8 = 10;
/// A guest's console holds a line of the deny list.
pub(crate) const GUEST_SPLAT: u8 = 11;
/// A gauge, an object or a reference was left behind in a guest.
pub(crate) const GUEST_LEAK: u8 = 12;
/// A guest did not come to its end within its time limit.
pub(crate) const GUEST_HANG: u8 = 13;
/// A guest did not boot, or could not be prepared: nothing is known about the code under test.
pub(crate) const GUEST_INFRASTRUCTURE: u8 = 14;
/// Interrupted by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// What `--help` says about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0    everything asked for succeeded
  1    a check, a build, a host test or the demo failed
  2    wrong usage
  3    the environment lacks something: a tool, the network, a file with the right checksum
  10   a test inside a guest failed
  11   a guest's console holds a kernel warning, bug or sanitizer report
  12   a test left an object, a reference or memory behind
  13   a guest hung: its time limit ran out
  14   a guest did not boot or could not be prepared; no test result at all
  130  interrupted

Files go to $DMAPLANE_CACHE, else $XDG_CACHE_HOME/dmaplane, else ~/.cache/dmaplane.";

/// Marks an error with the exit code that it ends the process with.
///
/// Attach it with `anyhow::Context`: `err.context(Exit(ENVIRONMENT))` is not wanted in the message,
/// so it is carried by [`Coded`] instead.
#[derive(Debug)]
pub(crate) struct Coded {
    /// One of the codes above.
    pub(crate) code: u8,
    /// The message, complete: cause and remedy.
    pub(crate) message: String,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// An error that ends the process with [`ENVIRONMENT`].
pub(crate) fn environment(message: impl Into<String>) -> anyhow::Error {
    coded(ENVIRONMENT, message)
}

/// An error that ends the process with `code`.
pub(crate) fn coded(code: u8, message: impl Into<String>) -> anyhow::Error {
    Coded {
        code,
        message: message.into(),
    }
    .into()
}

/// The exit code of an error: that of the [`Coded`] error in its chain, else [`FAILED`].
pub(crate) fn code_of(err: &anyhow::Error) -> ExitCode {
    ExitCode::from(number_of(err))
}

/// As [`code_of`], as a number.
pub(crate) fn number_of(err: &anyhow::Error) -> u8 {
    err.chain()
        .find_map(|e| e.downcast_ref::<Coded>())
        .map_or(FAILED, |c| c.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_code_survives_context() {
        let err = Err::<(), _>(environment("no network"))
            .context("fetching")
            .unwrap_err();
        assert_eq!(number_of(&err), ENVIRONMENT);
        assert_eq!(format!("{err:#}"), "fetching: no network");
        assert_eq!(number_of(&anyhow::anyhow!("plain")), FAILED);
    }
}
