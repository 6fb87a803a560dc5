// SPDX-License-Identifier: MIT OR Apache-2.0

//! Races, with and without delay points that widen their windows, and what must hold whoever wins.

use std::collections::HashMap;
use std::time::Duration;

use dmaplane::{Buffer, Completion, State};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::{ErrorContext as _, Guest, Result, anyhow, ensure};

/// Runs a race without a delay point and with each of them, so many rounds each.
///
/// # Errors
/// The first error of a round, with its delay point and number.
pub fn at_delay_points(
    guest: &Guest,
    delay_points: &[&str],
    rounds: u64,
    race: impl Fn(u64) -> Result<()>,
) -> Result<()> {
    let length = Duration::from_micros(guest.pick(2_000, 20_000));
    for name in [None].into_iter().chain(delay_points.iter().map(Some)) {
        let _delay = name
            .map(|name| DelayPoint::open(name, length))
            .transpose()?;
        for round in 0..rounds {
            race(round).with_context(|| format!("delay point {name:?}, round {round}"))?;
        }
    }
    Ok(())
}

/// Runs `work` while another thread revokes the buffer.
///
/// # Errors
/// When the revocation fails or the work does.
pub fn against<T: Send>(buffer: &Buffer, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(work);
        buffer.revoke()?;
        let joined = worker.join();
        joined.map_err(|_| anyhow!("the other thread panicked"))?
    })
}

/// Fails unless the names `0..count` each have exactly one completion, all in `states`.
///
/// # Errors
/// The first completion in another state, or the names with their numbers.
pub fn once_each(done: &[Completion], count: u64, states: &[State]) -> Result<()> {
    let mut seen = HashMap::new();
    for completion in done {
        ensure!(states.contains(&completion.state()), "{completion:?}");
        *seen.entry(completion.user_data()).or_insert(0) += 1;
    }
    let right = (0..count).all(|name| seen.get(&name) == Some(&1)) && seen.len() as u64 == count;
    ensure!(right, "{seen:?}");
    Ok(())
}
