// SPDX-License-Identifier: MIT OR Apache-2.0

//! Waiting for a condition that has no event: always with a limit, never as synchronisation.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(2);

/// Looks until `look` finds something or `limit` passes, which gives `None`. Looks at least once.
///
/// # Errors
/// The first that `look` gives.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_at_least_once_and_stops_at_the_limit() {
        let mut looks = 0;
        let found = until(Duration::ZERO, || {
            looks += 1;
            Ok(None::<()>)
        });
        assert_eq!(found.expect("no error"), None);
        assert_eq!(looks, 1);
        assert_eq!(
            until(Duration::ZERO, || Ok(Some(7))).expect("no error"),
            Some(7)
        );
    }

    #[test]
    fn an_error_ends_it() {
        let result = until(Duration::MAX, || -> Result<Option<()>> {
            anyhow::bail!("broken")
        });
        assert!(result.is_err());
    }
}
