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
                let mut channel = self.take_channel()?;
                let endpoint = self.endpoint(endpoint)?;
                for _ in 0..count {
                    channel.push(Entry::recv(endpoint))?;
                }
                let submitted = channel.submit()?;
                self.channel = Some(channel);
                anyhow::ensure!(submitted.entries == count, "{submitted:?} of {count}");
                Ok(Reply::Done)
            }
            Request::PostReceivesInto {
                endpoint,
                buffer,
                count,
                bytes,
            } => {
                let mut channel = self.take_channel()?;
                let endpoint = self.endpoint(endpoint)?;
                let buffer = self.buffer(buffer)?;
                for index in 0..count {
                    let place = buffer.range(u64::from(index) * u64::from(bytes), bytes);
                    channel.push(Entry::recv_into(endpoint, place))?;
                }
                let submitted = channel.submit()?;
                self.channel = Some(channel);
                anyhow::ensure!(submitted.entries == count, "{submitted:?} of {count}");
                Ok(Reply::Done)
            }
            Request::BeginRead {
                buffer,
                grant,
                bytes,
            } => {
                let mut channel = self.take_channel()?;
                let target = self.buffer(buffer)?.range(0, bytes);
                channel.push(Entry::read(target, self.remote_grant(grant)?.at(0)))?;
                let submitted = channel.submit()?;
                self.channel = Some(channel);
                anyhow::ensure!(submitted.entries == 1, "{submitted:?}");
                Ok(Reply::Done)
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
}
