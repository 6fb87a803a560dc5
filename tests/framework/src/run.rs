// SPDX-License-Identifier: MIT OR Apache-2.0

//! Running one test: alone, marked in the kernel's log, and with nothing left behind.

use std::any::type_name_of_val;
use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::gauges::{self, Gauges};
use crate::guest::Guest;
use crate::peer;

/// Seconds until everything that a test made must be gone, before scaling.
const SETTLE_SECONDS: u64 = 5;

/// Why a test cannot run here. Passed on as an error, it ends the test as passed and prints
/// `SKIP: reason`, which the report keeps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Skip(String);

impl Skip {
    /// Skips for `reason`.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Runs the body of a test.
///
/// Tests of one guest share a driver, so only one runs at a time. The kernel's log gets a line
/// before and after it. When the body has ended, the gauges must return to where they were, and those of a
/// second guest to 0.
///
/// # Panics
/// When the body fails or panics, or when the gauges do not return.
pub fn test(body: impl FnOnce(&Guest) -> Result<()>) {
    frame(type_name_of_val(&body), |guest| {
        let before = Gauges::read()?;
        let result = caught(|| body(guest));
        // After a failure too: a leak beside it is worth knowing.
        with_leak(result, gauges::settle(&before, settling(guest)))
    });
}

/// Where a test's random choices start: `DMAPLANE_SEED`, which `cargo xtask vm-test --seed` sets and which is
/// random otherwise. Printed, so that a failure can be replayed.
///
/// # Errors
/// When the variable is no number.
pub fn seed() -> Result<u64> {
    let text = env::var("DMAPLANE_SEED").unwrap_or_else(|_| "1".to_owned());
    let seed = text
        .parse()
        .with_context(|| format!("DMAPLANE_SEED={text} is no number"))?;
    println!("seed {seed}; `cargo xtask vm-test --seed {seed}` starts from it again");
    Ok(seed)
}

/// Runs the body of a test that loads and unloads the driver itself, so without this guest's gauges.
///
/// # Panics
/// When the body fails or panics, or when a second guest's gauges do not return to 0.
pub fn test_without_gauges(body: impl FnOnce(&Guest) -> Result<()>) {
    frame(type_name_of_val(&body), |guest| caught(|| body(guest)));
}

fn frame(closure: &str, body: impl FnOnce(&Guest) -> Result<()>) {
    let name = test_name(closure);
    let _alone = alone().expect("the lock of the tests");
    mark(&format!("begin {name}"));
    let outcome = Guest::from_env().and_then(|guest| {
        let result = body(&guest);
        with_leak(result, peer::client::settle(&guest, settling(&guest)))
    });
    let word = if outcome.is_ok() { "ok" } else { "failed" };
    mark(&format!("end {name} {word}"));
    if let Err(error) = outcome {
        panic!("{name}: {error:#}");
    }
}

fn settling(guest: &Guest) -> Duration {
    guest.limit(SETTLE_SECONDS)
}

fn with_leak(result: Result<()>, settled: Result<()>) -> Result<()> {
    match (result, settled) {
        (Ok(()), settled) => settled,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(leak)) => Err(error.context(format!("and afterwards: {leak:#}"))),
    }
}

/// Turns a panic into an error and a skip into success.
fn caught(body: impl FnOnce() -> Result<()>) -> Result<()> {
    let result = panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        Err(anyhow::anyhow!(
            "panicked: {}",
            text.unwrap_or("without a text")
        ))
    });
    match result {
        Err(error) => match error.downcast::<Skip>() {
            Ok(skip) => {
                println!("SKIP: {skip}");
                Ok(())
            }
            Err(error) => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

/// `suite::name` out of the type of the test's closure, `suite::name::{{closure}}`.
fn test_name(closure: &str) -> &str {
    closure.trim_end_matches("::{{closure}}")
}

/// A lock that all tests of this guest share.
fn alone() -> Result<File> {
    let path = env::temp_dir().join("dmaplane-tests.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Writes a line into the kernel's log. Its scanner misses lines that could not be written.
fn mark(text: &str) {
    let line = format!("<5>dmaplane-test: {text}\n");
    let written = OpenOptions::new()
        .write(true)
        .open("/dev/kmsg")
        .and_then(|mut log| log.write_all(line.as_bytes()));
    if let Err(error) = written {
        eprintln!("cannot mark the kernel's log with {text:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_that_of_the_function_around_the_closure() {
        let body = || ();
        let name = test_name(type_name_of_val(&body));
        assert!(
            name.ends_with("the_name_is_that_of_the_function_around_the_closure"),
            "{name}"
        );
    }

    #[test]
    fn a_skip_passes_and_other_errors_do_not() {
        assert!(caught(|| Err(Skip::new("no second guest").into())).is_ok());
        let error = caught(|| anyhow::bail!("wrong byte")).expect_err("a failure");
        assert_eq!(error.to_string(), "wrong byte");
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_text() {
        let error = caught(|| panic!("index {}", 7)).expect_err("a panic");
        assert_eq!(error.to_string(), "panicked: index 7");
    }
}
