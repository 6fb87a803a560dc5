// SPDX-License-Identifier: MIT OR Apache-2.0

//! Endpoints: connections to one peer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use dmaplane_uapi as abi;
use rustix::io::Errno;

use crate::address::{self, Address};
use crate::buffer::Buffer;
use crate::context::{Context, Handle, nanoseconds};
use crate::error::{Call, Error, Result};
use crate::grant::{GrantTerms, LocalGrant, RemoteGrant, Rights};
use crate::listener::DEFAULT_RECV_DEPTH;

/// Stands for an address that the driver did not report.
pub(crate) const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Address to connect from; `None` lets routing choose.
    pub local: Option<SocketAddr>,
    /// Receives that the endpoint can hold.
    pub recv_depth: u32,
    /// Time limit of the whole call.
    pub timeout: Duration,
    /// Work requests in flight at which posting pauses, and at which it goes on; 0 for the defaults.
    pub window: (u32, u32),
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            local: None,
            recv_depth: DEFAULT_RECV_DEPTH,
            timeout: Duration::from_secs(10),
            window: (0, 0),
        }
    }
}

/// Whether an endpoint is connected, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// Connected.
    Up,
    /// The connection ended: `ECONNRESET` (the peer closed), `EOWNERDEAD` (its
    /// process died), `ETIMEDOUT` (it fell silent), `ENODEV` (the RDMA device went
    /// away), `EPROTO` (the peer broke the protocol), `EIO` (a transfer failed),
    /// `ECANCELED` (a cancel or a time limit of this side), `ESTALE` (memory was
    /// revoked that the provider kept), `ENOMEM` (there was none for what the peer
    /// sent).
    Down(Errno),
}

/// What the driver knows about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointInfo {
    /// Connected or not.
    pub state: EndpointState,
    /// WRITE_IMM and SEND operations that the peer's receives allow now.
    pub send_credits: u32,
    /// Receives posted and not yet consumed.
    pub recv_posted: u32,
    /// Operations accepted and not yet completed, receives not counted.
    pub in_flight: u32,
    /// This side's address.
    pub local: Option<SocketAddr>,
    /// The peer's address.
    pub peer: Option<SocketAddr>,
    /// Name of the RDMA device.
    pub device: String,
    /// How the peer ended, `PEER_END_*` of the interface.
    pub peer_end: u32,
    /// Work requests that the provider has.
    pub posted: u32,
    /// Times that an operation had to wait for the peer's receives.
    pub stalls: u64,
    /// How long operations waited for them.
    pub stalled: Duration,
    /// Operations that failed because the peer had no receive: always 0.
    pub not_ready: u64,
    /// Messages of the peer's that broke the protocol; the first one ends the endpoint.
    pub violations: u64,
}

/// A connection to a peer. Dropping it disconnects; its operations then complete.
///
/// ```no_run
/// use std::time::Duration;
/// use dmaplane::{Buffer, Channel, ConnectOptions, Context, Endpoint, Entry, Placement};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::open()?;
/// let endpoint =
///     Endpoint::connect(&context, "10.77.0.2:7471".parse()?, &ConnectOptions::default())?;
/// let grant = endpoint.wait_grant(Duration::from_secs(5))?;
///
/// let buffer = Buffer::create(&context, 1 << 20, Placement::Any)?;
/// let mut channel = Channel::builder().entries(64).build(&context)?;
/// channel.push(Entry::write_imm(buffer.range(0, 1 << 20), grant.at(0), 42).user_data(1))?;
/// channel.submit_and_wait(1, Duration::from_secs(5))?;
/// for completion in channel.completions() {
///     println!("{} bytes sent", completion.result()?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Endpoint {
    handle: Handle,
    peer: SocketAddr,
}

impl Endpoint {
    pub(crate) fn new(handle: Handle, peer: SocketAddr) -> Self {
        Self { handle, peer }
    }

    /// The file that it belongs to.
    pub(crate) fn context(&self) -> &Context {
        self.handle.context()
    }

    /// Connects to a [`Listener`](crate::Listener) at `remote`.
    ///
    /// # Errors
    /// [`Error::Call`]: `EADDRNOTAVAIL` (no RDMA device reaches the address), `EHOSTUNREACH` (it does
    /// not answer), `ECONNREFUSED` (nobody listens), `EPROTO`, `ETIMEDOUT`, `EINTR`, `ENODEV`,
    /// `EINVAL`, `EOPNOTSUPP` (the driver cannot use the RDMA device, see [`RdmaInfo`](crate::RdmaInfo), or its
    /// queues are too short for the depth).
    pub fn connect(
        context: &Context,
        remote: SocketAddr,
        options: &ConnectOptions,
    ) -> Result<Self> {
        let mut connect = abi::Connect {
            remote: address::to_abi(remote),
            local: options.local.map(address::to_abi).unwrap_or_default(),
            recv_depth: options.recv_depth,
            timeout_ns: nanoseconds(options.timeout),
            window_high: options.window.0,
            window_low: options.window.1,
            ..Default::default()
        };
        context.call(&mut connect).map_err(|errno| {
            Error::call(Call::Connect, errno, format!(" to {}", Address(remote)))
        })?;
        Ok(Self::new(context.adopt(connect.endpoint), remote))
    }

    /// The peer's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The driver's name of the endpoint, for [`Entry::from_raw`](crate::Entry::from_raw).
    pub fn raw_handle(&self) -> u32 {
        self.handle.raw()
    }

    /// The endpoint's state and counters.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn query(&self) -> Result<EndpointInfo> {
        let mut query = abi::EndpointQuery {
            handle: self.handle.raw(),
            ..Default::default()
        };
        self.handle
            .context()
            .call(&mut query)
            .map_err(|errno| Error::call(Call::EndpointQuery, errno, ""))?;
        let name = query
            .device
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        Ok(EndpointInfo {
            state: match query.state {
                abi::ENDPOINT_UP => EndpointState::Up,
                _ => EndpointState::Down(Errno::from_raw_os_error(query.error)),
            },
            send_credits: query.send_credits,
            recv_posted: query.recv_posted,
            in_flight: query.in_flight,
            local: address::from_abi(&query.local),
            peer: address::from_abi(&query.peer),
            device: String::from_utf8_lossy(name).into_owned(),
            peer_end: query.peer_end,
            posted: query.posted,
            stalls: query.stalls,
            stalled: Duration::from_nanos(query.stalled_ns),
            not_ready: query.not_ready,
            violations: query.violations,
        })
    }

    /// Lets the peer access `range` of `buffer` until the grant is dropped.
    ///
    /// The range starts on a page. The peer takes the grant with [`Endpoint::wait_grant`] and sees
    /// `label`, by which it can choose among several.
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` (empty range, not on a page, no rights), `ERANGE` (beyond the
    /// buffer), `ENOTCONN`, `ETIMEDOUT`, `EINTR`, `ENOMEM`, `EMFILE`.
    pub fn grant(
        &self,
        buffer: &Buffer,
        range: Range<u64>,
        rights: Rights,
        label: u64,
        timeout: Duration,
    ) -> Result<LocalGrant> {
        let terms = GrantTerms {
            rights,
            label,
            ..GrantTerms::default()
        };
        self.grant_on(buffer, range, &terms, timeout)
    }

    /// As [`Endpoint::grant`], on terms that may end the grant by themselves.
    ///
    /// # Errors
    /// As [`Endpoint::grant`].
    pub fn grant_on(
        &self,
        buffer: &Buffer,
        range: Range<u64>,
        terms: &GrantTerms,
        timeout: Duration,
    ) -> Result<LocalGrant> {
        let mut create = abi::GrantCreate {
            endpoint: self.handle.raw(),
            buffer: buffer.raw_handle(),
            offset: range.start,
            length: range.end.saturating_sub(range.start),
            rights: terms.rights.bits(),
            label: terms.label,
            ttl_ns: terms
                .time_to_live
                .map_or(0, |limit| nanoseconds(limit).max(1)),
            max_uses: terms.max_uses,
            timeout_ns: nanoseconds(timeout),
            ..Default::default()
        };
        let context = self.handle.context();
        context.call(&mut create).map_err(|errno| {
            let subject = format!(" to bytes {range:?} of a buffer of {}", buffer.len());
            Error::call(Call::GrantCreate, errno, subject)
        })?;
        Ok(LocalGrant::new(
            context.adopt(create.handle),
            create.generation,
            buffer.writer(),
        ))
    }

    /// Takes the next grant that the peer gave, in the order in which it gave them.
    ///
    /// # Errors
    /// [`Error::Call`]: `ETIMEDOUT`, `EINTR`, `ENOTCONN` (the connection ended), `EMFILE`, `EDQUOT` (what the
    /// driver keeps of a grant counts as memory of the file).
    pub fn wait_grant(&self, timeout: Duration) -> Result<RemoteGrant> {
        let mut wait = abi::GrantWait {
            endpoint: self.handle.raw(),
            timeout_ns: nanoseconds(timeout),
            ..Default::default()
        };
        let context = self.handle.context();
        context.call(&mut wait).map_err(|errno| {
            Error::call(
                Call::GrantWait,
                errno,
                format!(" from {}", Address(self.peer)),
            )
        })?;
        Ok(RemoteGrant::new(
            context.adopt(wait.handle),
            self.handle.raw(),
            &wait,
        ))
    }
}
