// SPDX-License-Identifier: MIT OR Apache-2.0

//! Streams of writes and receives, used by tests and by the peer alike. Each operation must have
//! exactly one completion; the streams count.

mod receive;
mod send;
mod write_loop;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dmaplane::{Channel, Completion, State};
use serde::{Deserialize, Serialize};

pub use receive::{Receive, Received};
pub use send::{Send, chunk_count};
pub use write_loop::{STOP, WriteLoop, Written};

/// How the operations of a stream ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Operations by their terminal state, in the words of `dmaplane::State`.
    pub states: BTreeMap<String, u64>,
    /// Bytes of those that ended well.
    pub bytes: u64,
    /// The first that did not end well, in words.
    pub first_error: Option<String>,
}

impl Tally {
    /// Operations that ended well.
    pub fn ok(&self) -> u64 {
        self.count(State::Ok)
    }

    /// Operations that ended in `state`.
    pub fn count(&self, state: State) -> u64 {
        self.states.get(&format!("{state:?}")).copied().unwrap_or(0)
    }

    /// All operations.
    pub fn total(&self) -> u64 {
        self.states.values().sum()
    }

    /// Fails unless all ended well.
    ///
    /// # Errors
    /// Names the first that did not.
    pub fn all_ok(&self) -> Result<()> {
        let first = self.first_error.as_deref().unwrap_or("none failed");
        ensure!(self.ok() == self.total(), "{:?}: {first}", self.states);
        Ok(())
    }

    fn add(&mut self, completion: &Completion) {
        *self
            .states
            .entry(format!("{:?}", completion.state()))
            .or_default() += 1;
        match completion.result() {
            Ok(bytes) => self.bytes += bytes,
            Err(error) => {
                self.first_error.get_or_insert_with(|| error.to_string());
            }
        }
    }
}

/// Operations in flight by number, to find lost and duplicate completions.
#[derive(Debug, Default)]
struct InFlight {
    open: std::collections::HashSet<u64>,
    next: u64,
}

impl InFlight {
    /// A number for the next operation.
    fn enter(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        number
    }

    /// Takes the operation back that a completion names.
    fn leave(&mut self, completion: &Completion) -> Result<()> {
        let number = completion.user_data();
        ensure!(
            self.open.remove(&number),
            "operation {number} is not in flight: a second completion, or a wrong one"
        );
        Ok(())
    }

    fn len(&self) -> usize {
        self.open.len()
    }
}

/// Submits what was pushed and waits for at least one completion.
///
/// # Errors
/// When none comes before `deadline`.
fn step(channel: &mut Channel, in_flight: &InFlight, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let done = channel.submit_and_wait(1, left.min(Duration::from_secs(1)))?;
    ensure!(
        done.available > 0 || Instant::now() < deadline,
        "{} operations have no completion at the time limit",
        in_flight.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use dmaplane_uapi as abi;

    use super::*;

    fn completion(user_data: u64, state: u8) -> Completion {
        Completion::from_raw(abi::Cqe {
            user_data,
            state,
            length: 10,
            ..Default::default()
        })
    }

    #[test]
    fn a_tally_counts_states_and_keeps_the_first_error() {
        let mut tally = Tally::default();
        tally.add(&completion(0, abi::STATE_OK));
        tally.add(&completion(1, abi::STATE_PEER_DEAD));
        tally.add(&completion(2, abi::STATE_CANCELED));
        assert_eq!((tally.ok(), tally.total(), tally.bytes), (1, 3, 10));
        assert_eq!(tally.count(State::PeerDead), 1);
        let error = tally.all_ok().expect_err("two failed").to_string();
        assert!(error.contains("operation 1"), "{error}");
    }

    #[test]
    fn a_second_completion_is_an_error() {
        let mut in_flight = InFlight::default();
        let number = in_flight.enter();
        assert!(in_flight.leave(&completion(number, abi::STATE_OK)).is_ok());
        assert!(in_flight.leave(&completion(number, abi::STATE_OK)).is_err());
        assert!(in_flight.leave(&completion(77, abi::STATE_OK)).is_err());
        assert_eq!(in_flight.len(), 0);
    }
}
