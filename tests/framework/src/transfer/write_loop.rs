// SPDX-License-Identifier: MIT OR Apache-2.0

//! Writing through one grant after the other, each until the other side takes it back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use dmaplane::{Buffer, Channel, Endpoint, Entry, State};
use serde::{Deserialize, Serialize};

use super::{InFlight, Tally, send::deadline, step};

/// Label of the grant that ends the loop instead of being written.
pub const STOP: u64 = u64::MAX;

/// What to write, and how.
#[derive(Clone, Copy, Debug)]
pub struct WriteLoop<'a> {
    /// Whose grants.
    pub endpoint: &'a Endpoint,
    /// What is written into each of them, again and again.
    pub buffer: &'a Buffer,
    /// Bytes of one operation.
    pub chunk: u32,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Grants that were written.
    pub grants: u64,
    /// Those of them whose writing ended because they were taken back.
    pub revoked: u64,
    /// How the operations ended.
    pub tally: Tally,
}

impl WriteLoop<'_> {
    /// Runs until a grant with the label [`STOP`] comes. `progress` counts the grants.
    ///
    /// # Errors
    /// When a call fails, a completion is lost or comes twice, or the time limit of a grant passes. Failed
    /// operations are no error: they are in the tally.
    pub fn run(
        &self,
        channel: &mut Channel,
        progress: &AtomicU64,
        limit: Duration,
    ) -> Result<Written> {
        let mut written = Written::default();
        let mut in_flight = InFlight::default();
        loop {
            let grant = self.endpoint.wait_grant(limit)?;
            if grant.label() == STOP {
                return Ok(written);
            }
            let chunks = grant.length() / u64::from(self.chunk);
            ensure!(chunks > 0, "a grant of {} bytes", grant.length());
            let deadline = deadline(limit);
            let mut next = 0;
            let mut end = None;
            loop {
                while end.is_none() && channel.pending() < channel.sq_entries() {
                    let offset = next % chunks * u64::from(self.chunk);
                    let source = self.buffer.range(offset, self.chunk);
                    let entry = Entry::write(source, grant.at(offset));
                    channel.push(entry.user_data(in_flight.enter()))?;
                    next += 1;
                }
                if in_flight.len() == 0 {
                    break;
                }
                step(channel, &in_flight, deadline)?;
                for completion in channel.completions() {
                    in_flight.leave(&completion)?;
                    written.tally.add(&completion);
                    if !completion.is_ok() {
                        end.get_or_insert(completion.state());
                    }
                }
            }
            written.grants += 1;
            written.revoked += u64::from(end == Some(State::Revoked));
            progress.fetch_add(1, Ordering::Relaxed);
        }
    }
}
