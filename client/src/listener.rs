// SPDX-License-Identifier: MIT OR Apache-2.0

//! Listeners: where peers connect to.

use std::net::SocketAddr;
use std::time::Duration;

use dmaplane_uapi as abi;

use crate::address::{self, Address};
use crate::context::{Context, Handle, nanoseconds};
use crate::endpoint::Endpoint;
use crate::error::{Call, Error, Result};

/// Receives that an endpoint can hold when nothing else is asked for.
pub const DEFAULT_RECV_DEPTH: u32 = 256;

/// Waits for peers on an address of an RDMA device.
///
/// ```no_run
/// use std::time::Duration;
/// use dmaplane::{Context, Listener, DEFAULT_RECV_DEPTH};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::open()?;
/// let listener = Listener::bind(&context, "10.77.0.1:7471".parse()?, 8)?;
/// let endpoint = listener.accept(DEFAULT_RECV_DEPTH, Duration::from_secs(30))?;
/// println!("{} is connected", endpoint.peer());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    handle: Handle,
    local: SocketAddr,
}

impl Listener {
    /// Listens on `local`; port 0 takes a free one. `backlog` (1 to 128) connections may wait.
    ///
    /// # Errors
    /// [`Error::Call`]: `EADDRINUSE`, `EADDRNOTAVAIL` (no RDMA device has this address), `ENODEV` (no
    /// RDMA device), `EINVAL`, `EMFILE`, `EOPNOTSUPP` (the driver cannot use the RDMA device, see
    /// [`RdmaInfo`](crate::RdmaInfo)).
    pub fn bind(context: &Context, local: SocketAddr, backlog: u32) -> Result<Self> {
        let mut listen = abi::Listen {
            local: address::to_abi(local),
            backlog,
            ..Default::default()
        };
        context
            .call(&mut listen)
            .map_err(|errno| Error::call(Call::Listen, errno, format!(" on {}", Address(local))))?;
        Ok(Self {
            handle: context.adopt(listen.handle),
            local: address::from_abi(&listen.local).unwrap_or(local),
        })
    }

    /// The bound address, with the port that was taken.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The driver's name of the listener.
    pub fn raw_handle(&self) -> u32 {
        self.handle.raw()
    }

    /// Takes the next connection. The endpoint can hold `recv_depth` receives.
    ///
    /// # Errors
    /// [`Error::Call`]: `ETIMEDOUT`, `EINTR`, `ENODEV` (the device went away), `ECONNABORTED`,
    /// `EINVAL`, `EOPNOTSUPP` (the device's queues are too short for `recv_depth`).
    pub fn accept(&self, recv_depth: u32, timeout: Duration) -> Result<Endpoint> {
        let context = self.handle.context();
        let mut accept = abi::Accept {
            listener: self.handle.raw(),
            recv_depth,
            timeout_ns: nanoseconds(timeout),
            ..Default::default()
        };
        context.call(&mut accept).map_err(|errno| {
            Error::call(Call::Accept, errno, format!(" on {}", Address(self.local)))
        })?;
        let peer = address::from_abi(&accept.peer).unwrap_or(crate::endpoint::UNKNOWN);
        Ok(Endpoint::new(context.adopt(accept.endpoint), peer))
    }
}
