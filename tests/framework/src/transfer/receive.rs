// SPDX-License-Identifier: MIT OR Apache-2.0

//! A stream of receives, which the peer's immediates consume.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use dmaplane::{Channel, Completion, Endpoint, Entry};
use serde::{Deserialize, Serialize};

use super::{InFlight, Tally, send::deadline, step};

/// What to receive, and how.
#[derive(Clone, Copy, Debug)]
pub struct Receive<'a> {
    /// Whose immediates.
    pub endpoint: &'a Endpoint,
    /// Immediates in all.
    pub count: u64,
    /// Receives that are kept posted, and so the peer's credits.
    pub depth: u32,
}

/// What came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// How the receives ended.
    pub tally: Tally,
    /// The immediates in order of arrival.
    pub immediates: Vec<u32>,
}

impl Received {
    /// Counts completions of receives.
    pub fn of(completions: impl IntoIterator<Item = Completion>) -> Self {
        let mut received = Self::default();
        for completion in completions {
            received.add(&completion);
        }
        received
    }

    fn add(&mut self, completion: &Completion) {
        self.tally.add(completion);
        if completion.is_ok() {
            self.immediates.push(completion.imm());
        }
    }

    /// Fails unless the immediates are 0 to `count - 1`, each `times` times.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn complete(&self, count: u32, times: u64) -> Result<()> {
        self.tally.all_ok()?;
        let mut seen = vec![0; count as usize];
        for imm in &self.immediates {
            let place = seen.get_mut(*imm as usize);
            *place.ok_or_else(|| anyhow::anyhow!("immediate {imm} of {count} chunks"))? += 1;
        }
        if let Some(imm) = seen.iter().position(|seen| *seen != times) {
            anyhow::bail!(
                "immediate {imm} came {} times instead of {times}",
                seen[imm]
            );
        }
        Ok(())
    }
}

impl Receive<'_> {
    /// Runs the stream until everything has come or a receive fails, then waits for those that are
    /// still posted, if any. `progress` counts completions while it runs.
    ///
    /// # Errors
    /// When a call fails, a completion is lost or comes twice, or the time limit passes. Failed
    /// receives are no error: they are in the tally.
    pub fn run(
        &self,
        channel: &mut Channel,
        progress: &AtomicU64,
        limit: Duration,
    ) -> Result<Received> {
        ensure!(
            self.depth > 0 && self.depth <= channel.cq_entries(),
            "depth {}",
            self.depth
        );
        let deadline = deadline(limit);
        let mut in_flight = InFlight::default();
        let mut received = Received::default();
        let mut posted = 0;
        loop {
            while received.tally.first_error.is_none()
                && posted < self.count
                && in_flight.len() < self.depth as usize
                && channel.pending() < channel.sq_entries()
            {
                channel.push(Entry::recv(self.endpoint).user_data(in_flight.enter()))?;
                posted += 1;
            }
            if in_flight.len() == 0 {
                return Ok(received);
            }
            step(channel, &in_flight, deadline)?;
            for completion in channel.completions() {
                in_flight.leave(&completion)?;
                received.add(&completion);
                progress.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_double_and_strange_immediates_show() {
        let received = |immediates: &[u32]| Received {
            immediates: immediates.to_vec(),
            ..Default::default()
        };
        assert!(received(&[2, 0, 1]).complete(3, 1).is_ok());
        assert!(received(&[0, 1, 1, 0]).complete(2, 2).is_ok());
        assert!(received(&[0, 1]).complete(3, 1).is_err());
        assert!(received(&[0, 1, 1]).complete(2, 1).is_err());
        assert!(received(&[0, 5]).complete(2, 1).is_err());
    }
}
