// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exit codes, one for each cause, so that CI and scripts can distinguish them.

use std::fmt;
use std::process::ExitCode;

/// Something the user asked for failed: a lint, a host test, a build, the demo.
pub const FAILED: u8 = 1;
/// The command line asks for something impossible.
pub const USAGE: u8 = 2;
/// The environment lacks something: a tool, the network, a file with the right checksum.
pub const ENVIRONMENT: u8 = 3;
/// The guests ran and at least one test failed.
pub const GUEST_TESTS: u8 = 10;
/// A guest's console holds a line of the deny list.
pub const GUEST_SPLAT: u8 = 11;
/// A gauge, an object or a reference was left behind in a guest.
pub const GUEST_LEAK: u8 = 12;
/// A guest did not finish within its time limit.
pub const GUEST_HANG: u8 = 13;
/// A guest did not boot, or could not be prepared: nothing is known about the code under test.
pub const GUEST_INFRASTRUCTURE: u8 = 14;
/// Interrupted by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// What `--help` says about exit codes.
pub const HELP: &str = "\
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
/// An `anyhow::Context` would put the code into the message; this type carries it instead.
#[derive(Debug)]
pub struct Coded {
    /// One of the codes above.
    pub code: u8,
    /// The message, complete: cause and remedy.
    pub message: String,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// An error that ends the process with [`ENVIRONMENT`].
pub fn environment(message: impl Into<String>) -> anyhow::Error {
    coded(ENVIRONMENT, message)
}

/// An error that ends the process with `code`.
pub fn coded(code: u8, message: impl Into<String>) -> anyhow::Error {
    Coded {
        code,
        message: message.into(),
    }
    .into()
}

/// The exit code of an error: that of the [`Coded`] error in its chain, else [`FAILED`].
pub fn code_of(err: &anyhow::Error) -> ExitCode {
    ExitCode::from(number_of(err))
}

/// As [`code_of`], as a number.
pub fn number_of(err: &anyhow::Error) -> u8 {
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
