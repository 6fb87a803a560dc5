// SPDX-License-Identifier: MIT OR Apache-2.0

//! The peer's objects, and what it does with them.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dmaplane::{
    Buffer, Channel, ChannelBuilder, ConnectOptions, Context, Endpoint, EndpointState, Listener,
    LocalGrant, Placement, Polling, RemoteGrant, Rights,
};
use dmaplane_observe::tracefs::Recording;

mod transfer;

use super::protocol::{Id, Reply, Request};
use crate::gauges::Gauges;
use crate::pattern;
use crate::processors::Processors;
use crate::rdma::Link;

/// Places of the channel for posted receives.
const RECEIVE_ENTRIES: u32 = 128;

/// Everything that one peer process holds.
#[derive(Debug, Default)]
pub struct Agent<'a> {
    objects: BTreeMap<Id, Object>,
    last: Id,
    /// For posted receives.
    channel: Option<Channel>,
    context: Option<Context>,
    /// Of streams' channels.
    polling: Option<Polling>,
    exports: Vec<OwnedFd>,
    link: Option<Link>,
    recording: Option<Recording>,
    progress: Option<&'a AtomicU64>,
}

#[derive(Debug)]
enum Object {
    Listener(Listener),
    Endpoint(Endpoint),
    Buffer(Buffer),
    Channel(#[expect(dead_code, reason = "it is held until the process ends")] Channel),
    LocalGrant(#[expect(dead_code, reason = "it is held until it is closed")] LocalGrant),
    RemoteGrant(RemoteGrant),
}

impl<'a> Agent<'a> {
    /// A peer without objects whose streams count in `progress`.
    pub fn new(progress: &'a AtomicU64) -> Self {
        Self {
            progress: Some(progress),
            ..Default::default()
        }
    }

    /// Carries out one request.
    ///
    /// # Errors
    /// When it fails, or names an object that is not there.
    pub fn obey(&mut self, request: &Request) -> Result<Reply> {
        match *request {
            Request::Open => {
                self.context()?;
                Ok(Reply::Hello {
                    pid: std::process::id(),
                })
            }
            Request::Polling => {
                self.polling = Some(Polling::default());
                Ok(Reply::Done)
            }
            Request::Listen { address, backlog } => {
                let listener = Listener::bind(self.context()?, address, backlog)?;
                let address = listener.local();
                Ok(Reply::Listening {
                    id: self.add(Object::Listener(listener)),
                    address,
                })
            }
            Request::Accept {
                listener,
                recv_depth,
                limit_ms,
            } => {
                let endpoint = self.listener(listener)?.accept(recv_depth, ms(limit_ms))?;
                Ok(Reply::Id(self.add(Object::Endpoint(endpoint))))
            }
            Request::Connect {
                address,
                recv_depth,
                limit_ms,
            } => {
                let options = ConnectOptions {
                    local: None,
                    recv_depth,
                    timeout: ms(limit_ms),
                    ..ConnectOptions::default()
                };
                let endpoint = Endpoint::connect(self.context()?, address, &options)?;
                Ok(Reply::Id(self.add(Object::Endpoint(endpoint))))
            }
            Request::CreateBuffer { bytes } => {
                let buffer = Buffer::create(self.context()?, bytes, Placement::Any)?;
                Ok(Reply::Id(self.add(Object::Buffer(buffer))))
            }
            Request::CreateMany { buffers, channels } => {
                for _ in 0..buffers {
                    let buffer = Buffer::create(self.context()?, 1, Placement::Any)?;
                    self.add(Object::Buffer(buffer));
                }
                for _ in 0..channels {
                    let channel = Channel::builder().entries(8).build(self.context()?)?;
                    self.add(Object::Channel(channel));
                }
                Ok(Reply::Done)
            }
            Request::Close { id } => {
                self.objects
                    .remove(&id)
                    .with_context(|| format!("no object {id}"))?;
                Ok(Reply::Done)
            }
            Request::Gauges => Ok(Reply::Gauges(Gauges::read()?)),
            Request::Processors => Ok(Reply::Processors(Processors::read()?)),
            Request::RdmaLink { present } => self.set_link(present),
            Request::Record => {
                self.recording = Some(Recording::start(&[])?);
                Ok(Reply::Done)
            }
            Request::Recorded => {
                let recording = self.recording.take().context("nothing is recorded")?;
                Ok(Reply::Text(recording.text()?))
            }
            Request::Fill { .. }
            | Request::Verify { .. }
            | Request::Export { .. }
            | Request::Revoke { .. }
            | Request::Checksum { .. } => self.memory(request),
            Request::Grant { .. } | Request::WaitGrant { .. } | Request::Query { .. } => {
                self.connection(request)
            }
            _ => self.transfer(request),
        }
    }

    fn memory(&mut self, request: &Request) -> Result<Reply> {
        match *request {
            Request::Fill {
                buffer,
                offset,
                length,
                seed,
            } => {
                pattern::fill_memory(self.buffer(buffer)?, offset, length, seed, 0);
                Ok(Reply::Done)
            }
            Request::Verify {
                buffer,
                offset,
                length,
                seed,
            } => {
                let buffer = self.buffer(buffer)?;
                let wrong = pattern::mismatch_in_memory(buffer, offset, length, seed, 0);
                Ok(Reply::Mismatch(wrong))
            }
            Request::Export { buffer } => {
                let exported = self.buffer(buffer)?.export()?;
                let fd = exported.as_raw_fd();
                self.exports.push(exported);
                let pid = std::process::id();
                Ok(Reply::Exported { pid, fd })
            }
            Request::Revoke { buffer } => {
                self.buffer(buffer)?.revoke()?;
                Ok(Reply::Done)
            }
            Request::Checksum { buffer } => {
                let buffer = self.buffer(buffer)?;
                Ok(Reply::Checksum(fnv(&buffer.to_vec(0..buffer.len()))))
            }
            _ => anyhow::bail!("{request:?} is no request about memory"),
        }
    }

    fn connection(&mut self, request: &Request) -> Result<Reply> {
        match *request {
            Request::Grant {
                endpoint,
                buffer,
                offset,
                length,
                rights,
                label,
                limit_ms,
            } => {
                let rights = Rights::from_bits(rights);
                let endpoint = self.endpoint(endpoint)?;
                let range = offset..offset.saturating_add(length);
                let buffer = self.buffer(buffer)?;
                let grant = endpoint.grant(buffer, range, rights, label, ms(limit_ms))?;
                Ok(Reply::Id(self.add(Object::LocalGrant(grant))))
            }
            Request::WaitGrant { endpoint, limit_ms } => {
                let grant = self.endpoint(endpoint)?.wait_grant(ms(limit_ms))?;
                let (length, label) = (grant.length(), grant.label());
                let id = self.add(Object::RemoteGrant(grant));
                Ok(Reply::Granted { id, length, label })
            }
            Request::Query { endpoint } => {
                let info = self.endpoint(endpoint)?.query()?;
                let (up, error) = match info.state {
                    EndpointState::Up => (true, 0),
                    EndpointState::Down(errno) => (false, errno.raw_os_error()),
                };
                Ok(Reply::Endpoint {
                    up,
                    error,
                    send_credits: info.send_credits,
                    recv_posted: info.recv_posted,
                    in_flight: info.in_flight,
                })
            }
            _ => anyhow::bail!("{request:?} is no request about a connection"),
        }
    }

    fn set_link(&mut self, present: bool) -> Result<Reply> {
        if present {
            let link = self.link.take().context("no link was deleted")?;
            link.add()?;
        } else {
            let link = Link::only()?;
            link.delete()?;
            self.link = Some(link);
        }
        Ok(Reply::Done)
    }

    fn context(&mut self) -> Result<&Context> {
        if self.context.is_none() {
            self.context = Some(Context::open()?);
        }
        self.context.as_ref().context("the driver is not open")
    }

    fn counter(&self) -> Result<&AtomicU64> {
        let progress = self.progress.context("this agent has no counter")?;
        progress.store(0, Ordering::Relaxed);
        Ok(progress)
    }

    fn take_channel(&mut self) -> Result<Channel> {
        if let Some(channel) = self.channel.take() {
            return Ok(channel);
        }
        let builder = Channel::builder().entries(RECEIVE_ENTRIES);
        Ok(builder.build(self.context()?)?)
    }

    fn stream_channel(&self, depth: u32) -> Result<Channel> {
        let context = self.context.as_ref().context("the driver is not open")?;
        let builder = self.builder().entries(depth).completions(depth);
        Ok(builder.build(context)?)
    }

    fn builder(&self) -> ChannelBuilder {
        match self.polling {
            Some(polling) => Channel::builder().polling(polling),
            None => Channel::builder(),
        }
    }

    fn add(&mut self, object: Object) -> Id {
        self.last += 1;
        self.objects.insert(self.last, object);
        self.last
    }

    fn object(&self, id: Id) -> Result<&Object> {
        self.objects
            .get(&id)
            .with_context(|| format!("no object {id}"))
    }

    fn listener(&self, id: Id) -> Result<&Listener> {
        match self.object(id)? {
            Object::Listener(listener) => Ok(listener),
            other => anyhow::bail!("object {id} is no listener: {other:?}"),
        }
    }

    fn endpoint(&self, id: Id) -> Result<&Endpoint> {
        match self.object(id)? {
            Object::Endpoint(endpoint) => Ok(endpoint),
            other => anyhow::bail!("object {id} is no endpoint: {other:?}"),
        }
    }

    fn buffer(&self, id: Id) -> Result<&Buffer> {
        match self.object(id)? {
            Object::Buffer(buffer) => Ok(buffer),
            other => anyhow::bail!("object {id} is no buffer: {other:?}"),
        }
    }

    fn remote_grant(&self, id: Id) -> Result<&RemoteGrant> {
        match self.object(id)? {
            Object::RemoteGrant(grant) => Ok(grant),
            other => anyhow::bail!("object {id} is no grant of the other side: {other:?}"),
        }
    }
}

fn ms(limit: u64) -> Duration {
    Duration::from_millis(limit)
}

/// FNV-1a, 64 bits.
pub fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_objects_are_named() {
        let progress = AtomicU64::new(0);
        let mut agent = Agent::new(&progress);
        let error = agent
            .obey(&Request::Close { id: 9 })
            .expect_err("nothing there");
        assert_eq!(error.to_string(), "no object 9");
        let error = agent
            .obey(&Request::Checksum { buffer: 4 })
            .expect_err("nothing there");
        assert_eq!(error.to_string(), "no object 4");
    }

    #[test]
    fn the_sum_is_the_published_one() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
