// SPDX-License-Identifier: GPL-2.0-only

//! What a context shows of itself in debugfs and fdinfo. No address, no key.

use super::{Context, Object};
use crate::rdma::Endpoint;
use kernel::{fmt, sync::atomic::Relaxed};

/// How much of each kind a context has.
#[derive(Clone, Copy, Default)]
pub(crate) struct Holdings {
    pub(crate) buffers: u32,
    pub(crate) pools: u32,
    /// Bytes of buffers and pools, by their names: memory that has only other keepers is not in it. What is carved from a
    /// pool is in the pool's.
    pub(crate) bytes: u64,
    pub(crate) channels: u32,
    pub(crate) listeners: u32,
    pub(crate) endpoints: u32,
    pub(crate) grants: u32,
    pub(crate) peer_grants: u32,
}

impl Context {
    /// Its serial.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Counts what it has.
    pub(crate) fn holdings(&self) -> Holdings {
        let mut holds = Holdings::default();
        self.table.lock().each(|_, object| match object {
            Object::Buffer(buffer) => {
                holds.buffers += 1;
                if !buffer.is_carved() {
                    holds.bytes += buffer.memory().bytes();
                }
            }
            Object::Pool(pool) => {
                holds.pools += 1;
                holds.bytes += pool.bytes();
            }
            Object::Channel(_) => holds.channels += 1,
            Object::Listener(_) => holds.listeners += 1,
            Object::Endpoint(_) => holds.endpoints += 1,
            Object::Grant(_) => holds.grants += 1,
            Object::PeerGrant(_) => holds.peer_grants += 1,
        });
        holds
    }

    /// Its own line.
    pub(crate) fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = self.holdings();
        write!(f, "context={} pid={}", self.serial, self.pid)?;
        write!(f, " buffers={} bytes={}", holds.buffers, holds.bytes)?;
        write!(
            f,
            " channels={} listeners={}",
            holds.channels, holds.listeners
        )?;
        write!(f, " endpoints={} pools={}", holds.endpoints, holds.pools)?;
        let closing = self.closing.load(Relaxed);
        writeln!(
            f,
            " grants={} peer_grants={} closing={closing}",
            holds.grants, holds.peer_grants
        )
    }

    /// Its buffers.
    pub(crate) fn show_buffers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        // Nothing is kept beyond the lock, so that looking does not delay the end of anything.
        self.table.lock().each(|handle, object| {
            if let (Object::Buffer(buffer), Ok(())) = (object, result) {
                result = write!(f, "context={} handle={handle} ", self.serial)
                    .and_then(|()| buffer.show(f));
            }
        });
        result
    }

    /// Its pools.
    pub(crate) fn show_pools(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        self.table.lock().each(|handle, object| {
            if let (Object::Pool(pool), Ok(())) = (object, result) {
                result = write!(f, "context={} handle={handle} ", self.serial)
                    .and_then(|()| pool.show(f));
            }
        });
        result
    }

    /// Where its buffers and pools are registered.
    pub(crate) fn show_regions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        self.table.lock().each(|_, object| {
            result = match (object, result) {
                (Object::Buffer(buffer), Ok(())) => buffer.show_regions(f),
                (Object::Pool(pool), Ok(())) => pool.show_regions(f),
                _ => result,
            };
        });
        result?;
        self.each_shown_endpoint(|_, endpoint| endpoint.show_grant_regions(f))
    }

    /// The watches of its buffers.
    pub(crate) fn show_watches(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        self.table.lock().each(|_, object| {
            if let (Object::Buffer(buffer), Ok(())) = (object, result) {
                result = buffer.show_watches(f);
            }
        });
        result
    }

    /// Shows every endpoint with its handle to `look`, without a lock: first those that have one, then those that are
    /// ending, with 0. One that is made or ends meanwhile may be left out.
    pub(crate) fn each_shown_endpoint(
        &self,
        mut look: impl FnMut(u32, &Endpoint) -> fmt::Result,
    ) -> fmt::Result {
        self.each_named_endpoint(&mut look)?;
        let mut result = Ok(());
        self.domains.each_endpoint(|endpoint| {
            if result.is_ok() && endpoint.record().is_torn_down() && !self.names(endpoint) {
                result = look(0, endpoint);
            }
        });
        result
    }

    /// Whether an endpoint has a handle.
    fn names(&self, endpoint: &Endpoint) -> bool {
        let named = |object: &Object| match object {
            Object::Endpoint(other) => core::ptr::eq(&**other, endpoint).then_some(()),
            _ => None,
        };
        self.table.lock().find_from(0, named).is_some()
    }

    fn each_named_endpoint(
        &self,
        look: &mut impl FnMut(u32, &Endpoint) -> fmt::Result,
    ) -> fmt::Result {
        let mut from = 0;
        loop {
            let next = {
                let table = self.table.lock();
                let found = table.find_from(from, |object| match object {
                    Object::Endpoint(endpoint) => Some(endpoint.clone()),
                    _ => None,
                });
                found.map(|(index, endpoint)| (index, table.handle_at(index), endpoint))
            };
            let Some((index, handle, endpoint)) = next else {
                return Ok(());
            };
            look(handle, &endpoint)?;
            from = index + 1;
        }
    }
}
