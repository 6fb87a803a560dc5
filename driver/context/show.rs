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
    /// Bytes of buffers and pools that have a handle; other memory is not counted. What is carved from a pool counts
    /// with the pool.
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

    /// Writes its line.
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

    /// Writes a line for each of its buffers.
    pub(crate) fn show_buffers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        // Takes no references, so that reading the file delays the end of nothing.
        self.table.lock().each(|handle, object| {
            if let (Object::Buffer(buffer), Ok(())) = (object, result) {
                result = write!(f, "context={} handle={handle} ", self.serial)
                    .and_then(|()| buffer.show(f));
            }
        });
        result
    }

    /// Writes a line for each of its pools.
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

    /// Writes a line for each region of its buffers, pools and grants.
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

    /// Writes a line for each watch of its buffers.
    pub(crate) fn show_watches(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        self.table.lock().each(|_, object| {
            if let (Object::Buffer(buffer), Ok(())) = (object, result) {
                result = buffer.show_watches(f);
            }
        });
        result
    }

    /// Calls `look` for every endpoint with its handle, 0 for one that is ending, without a lock. Each is shown once.
    /// Only one that is made or ends meanwhile may be left out, because an endpoint is on its domain's list from its
    /// making to its end.
    pub(crate) fn each_shown_endpoint(
        &self,
        mut look: impl FnMut(u32, &Endpoint) -> fmt::Result,
    ) -> fmt::Result {
        let mut result = Ok(());
        self.domains.each_endpoint(|endpoint| {
            let shown = match (endpoint.handle(), endpoint.record().is_torn_down()) {
                (_, true) => Some(0),
                (0, false) => None,
                (handle, false) => Some(handle),
            };
            if let (Some(handle), Ok(())) = (shown, result) {
                result = look(handle, endpoint);
            }
        });
        result
    }
}
