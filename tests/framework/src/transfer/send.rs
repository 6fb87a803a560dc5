// SPDX-License-Identifier: MIT OR Apache-2.0

//! A stream of writes out of a buffer into a peer's grant.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dmaplane::{Buffer, Channel, Entry, RemoteGrant};

use super::{InFlight, Tally, step};
use crate::pattern::Numbers;

/// What to write, and how.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// The local side; its first `length` bytes go.
    pub buffer: &'a Buffer,
    /// The peer's side.
    pub grant: &'a RemoteGrant,
    /// Bytes in all.
    pub length: u64,
    /// Bytes of a chunk; the last one may be shorter.
    pub chunk: u32,
    /// Seed of the chunks' order.
    pub order_seed: u64,
    /// Whether each chunk carries its number as an immediate and takes a receive of the peer.
    pub immediates: bool,
    /// How many times the whole is sent.
    pub rounds: u64,
}

impl Send<'_> {
    /// Runs the stream until everything is sent or an operation fails, then waits for whatever is
    /// in flight. `progress` counts completions while it runs.
    ///
    /// # Errors
    /// When a call fails, a completion is lost or comes twice, or the time limit passes. Failed
    /// operations are no error: they are in the tally.
    pub fn run(
        &self,
        channel: &mut Channel,
        progress: &AtomicU64,
        limit: Duration,
    ) -> Result<Tally> {
        let deadline = deadline(limit);
        let chunks = chunk_count(self.length, self.chunk)?;
        let mut numbers = Numbers::new(self.order_seed);
        let mut rounds = 0;
        let mut order = Vec::new();
        let mut in_flight = InFlight::default();
        let mut tally = Tally::default();
        loop {
            while tally.first_error.is_none() && channel.pending() < channel.sq_entries() {
                if order.is_empty() {
                    if rounds == self.rounds {
                        break;
                    }
                    order = numbers.shuffled(chunks);
                    rounds += 1;
                }
                let Some(chunk) = order.pop() else { break };
                let number = in_flight.enter();
                channel.push(
                    self.entry(chunk)
                        .user_data(number)
                        .trace_id(u64::from(chunk)),
                )?;
            }
            if in_flight.len() == 0 {
                return Ok(tally);
            }
            step(channel, &in_flight, deadline)?;
            for completion in channel.completions() {
                in_flight.leave(&completion)?;
                tally.add(&completion);
                progress.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn entry(&self, chunk: u32) -> Entry {
        let offset = u64::from(chunk) * u64::from(self.chunk);
        let left = self.length - offset;
        let length = u32::try_from(left).map_or(self.chunk, |left| left.min(self.chunk));
        let source = self.buffer.range(offset, length);
        let target = self.grant.at(offset);
        if self.immediates {
            Entry::write_imm(source, target, chunk)
        } else {
            Entry::write(source, target)
        }
    }
}

/// Chunks that a stream has.
///
/// # Errors
/// When there are none, or more than an immediate can number.
pub fn chunk_count(length: u64, chunk: u32) -> Result<u32> {
    anyhow::ensure!(
        length > 0 && chunk > 0,
        "{length} bytes in chunks of {chunk}"
    );
    u32::try_from(length.div_ceil(u64::from(chunk))).context("too many chunks")
}

/// Now and `limit`, or as good as never.
pub(super) fn deadline(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit)
        .unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_chunk_counts_even_when_it_is_short() {
        assert_eq!(chunk_count(64, 64).expect("chunks"), 1);
        assert_eq!(chunk_count(65, 64).expect("chunks"), 2);
        assert!(chunk_count(0, 64).is_err());
        assert!(chunk_count(64, 0).is_err());
        assert!(chunk_count(1 << 40, 1).is_err());
    }

    #[test]
    fn a_limit_without_end_does_not_overflow() {
        assert!(deadline(Duration::MAX) > Instant::now() + Duration::from_secs(1 << 20));
    }
}
