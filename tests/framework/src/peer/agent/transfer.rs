// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a peer transfers and receives.

use anyhow::{Context as _, Result};
use dmaplane::Entry;

use super::{Agent, ms};
use crate::peer::protocol::{Reply, Request};
use crate::transfer::{Receive, Received, Send, WriteLoop};

impl Agent<'_> {
    pub(super) fn transfer(&mut self, request: &Request) -> Result<Reply> {
        match *request {
            Request::PostReceives { endpoint, count } => {
                let entry = Entry::recv(self.endpoint(endpoint)?);
                self.submit(&vec![entry; count as usize])
            }
            Request::PostReceivesInto {
                endpoint,
                buffer,
                count,
                bytes,
            } => {
                let (endpoint, buffer) = (self.endpoint(endpoint)?, self.buffer(buffer)?);
                let place = |index: u32| buffer.range(u64::from(index) * u64::from(bytes), bytes);
                let entry = |index| Entry::recv_into(endpoint, place(index));
                let entries: Vec<_> = (0..count).map(entry).collect();
                self.submit(&entries)
            }
            Request::BeginRead {
                buffer,
                grant,
                bytes,
            } => {
                let target = self.buffer(buffer)?.range(0, bytes);
                let source = self.remote_grant(grant)?.at(0);
                self.submit(&[Entry::read(target, source)])
            }
            Request::WaitReceives { count, limit_ms } => {
                let channel = self.channel.as_mut().context("no receives were posted")?;
                channel.wait(count, ms(limit_ms))?;
                let received = Received::of(channel.completions().take(count as usize));
                Ok(Reply::Received(received))
            }
            Request::Send {
                buffer,
                grant,
                length,
                chunk,
                order_seed,
                immediates,
                rounds,
                depth,
                limit_ms,
            } => {
                let send = Send {
                    buffer: self.buffer(buffer)?,
                    grant: self.remote_grant(grant)?,
                    length,
                    chunk,
                    order_seed,
                    immediates,
                    rounds,
                };
                let mut channel = self.stream_channel(depth)?;
                Ok(Reply::Sent(send.run(
                    &mut channel,
                    self.counter()?,
                    ms(limit_ms),
                )?))
            }
            Request::Receive {
                endpoint,
                count,
                depth,
                limit_ms,
            } => {
                let receive = Receive {
                    endpoint: self.endpoint(endpoint)?,
                    count,
                    depth,
                };
                let mut channel = self.stream_channel(depth)?;
                let received = receive.run(&mut channel, self.counter()?, ms(limit_ms))?;
                Ok(Reply::Received(received))
            }
            Request::WriteLoop {
                endpoint,
                buffer,
                chunk,
                depth,
                limit_ms,
            } => {
                let writes = WriteLoop {
                    endpoint: self.endpoint(endpoint)?,
                    buffer: self.buffer(buffer)?,
                    chunk,
                };
                let mut channel = self.stream_channel(depth)?;
                let written = writes.run(&mut channel, self.counter()?, ms(limit_ms))?;
                Ok(Reply::Written(written))
            }
            _ => anyhow::bail!("{request:?} is answered by the reading thread"),
        }
    }

    /// Submits on the channel that lives as long as the process.
    fn submit(&mut self, entries: &[Entry]) -> Result<Reply> {
        let mut channel = self.take_channel()?;
        for entry in entries {
            channel.push(*entry)?;
        }
        let submitted = channel.submit()?;
        self.channel = Some(channel);
        let all = submitted.entries as usize == entries.len();
        anyhow::ensure!(all, "{submitted:?} of {}", entries.len());
        Ok(Reply::Done)
    }
}
