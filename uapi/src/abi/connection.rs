// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Listeners, and endpoints: one connection to one peer each.

use super::*;

/// Listens for connections ([`Listen`]). Errors: `EAFNOSUPPORT`, `EADDRINUSE`, `EADDRNOTAVAIL` (no RDMA device has this
/// address), `ENODEV` (no RDMA device at all), `EACCES` (a port below 1024 without `CAP_NET_BIND_SERVICE`), `EINVAL`,
/// `EMFILE`, `EDQUOT` (too many listeners in this open file), `EOPNOTSUPP` (the address is of an RDMA device that the
/// driver cannot use, see [`IOC_RDMA_QUERY`]).
pub const IOC_LISTEN: u32 = (IOC_TYPE << 8) | 0x30;
/// Takes the next connection of a listener ([`Accept`]). Errors: `ETIMEDOUT`, `EINTR`, `ENODEV` (the listener's device
/// went away), `ECONNABORTED` (the peer gave up), `EDQUOT` (beyond
/// [`Query::max_endpoints`], or too much of the RDMA device's own memory for endpoints and registrations), `EMFILE`,
/// `EINVAL`, `EOPNOTSUPP` (the device's queues are too short for the depth).
/// Each request is answered when it comes: a peer that then stays silent does not block others, and is given up after 5
/// seconds, or at the next call. A connection that comes up after the call has returned is for the next call with the same depth and window.
/// After a signal the call restarts by itself, unless the handler was set without SA_RESTART (`EINTR`); nothing is
/// lost.
pub const IOC_ACCEPT: u32 = (IOC_TYPE << 8) | 0x31;
/// Connects to a listener ([`Connect`]). Errors: `EAFNOSUPPORT`, `EADDRNOTAVAIL` (no RDMA device reaches this address),
/// `EHOSTUNREACH` (the address does not answer), `ECONNREFUSED` (nobody listens there, or its backlog is full),
/// `EPROTO`, `ETIMEDOUT`, `ENODEV`, `EADDRINUSE` (the local address and port are taken), `EACCES` (a local port below
/// 1024 without `CAP_NET_BIND_SERVICE`), `EDQUOT`, `EMFILE`, `EINVAL`, `EINTR` (the thread is being killed; other
/// signals do not end the call), `EOPNOTSUPP` (the driver cannot use the RDMA device, see [`IOC_RDMA_QUERY`], or its
/// queues are too short for the depth).
pub const IOC_CONNECT: u32 = (IOC_TYPE << 8) | 0x32;
/// Reports an endpoint's state ([`EndpointQuery`]). Errors: `ENOENT`.
pub const IOC_ENDPOINT_QUERY: u32 = (IOC_TYPE << 8) | 0x33;

/// Address family of an absent address.
pub const FAMILY_NONE: u16 = 0;
/// Address family of IPv4 (`AF_INET`).
pub const FAMILY_IPV4: u16 = 2;
/// Address family of IPv6 (`AF_INET6`).
pub const FAMILY_IPV6: u16 = 10;

/// An IP address and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockAddr {
    /// One of `FAMILY_*`.
    pub family: u16,
    /// Port, in the machine's byte order.
    pub port: u16,
    /// Interface index of a link-local IPv6 address, 0 otherwise.
    pub scope_id: u32,
    /// The address in network byte order; IPv4 uses the first four bytes, the rest is zero.
    pub addr: [u8; 16],
}

/// Argument of [`IOC_LISTEN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listen {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Address to listen on; port 0 takes a free one. On return the bound address.
    pub local: SockAddr,
    /// Connections that may wait to be accepted, 1 to 128.
    pub backlog: u32,
    /// Out: handle of the listener.
    pub handle: u32,
}

/// Argument of [`IOC_ACCEPT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the listener.
    pub listener: u32,
    /// Receives that the endpoint can hold, 1 to [`Query::max_recv_depth`].
    pub recv_depth: u32,
    /// Time limit in nanoseconds. Out, after `EINTR`: what is left of it.
    pub timeout_ns: u64,
    /// Out: handle of the endpoint.
    pub endpoint: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Out: the peer's address.
    pub peer: SockAddr,
    /// Work requests in flight at which posting pauses, at most [`WINDOW_MAX`]; 0 for that.
    pub window_high: u32,
    /// Work requests in flight at which posting resumes, at most `window_high`; 0 for three quarters of it.
    pub window_low: u32,
}

/// Most work requests of one endpoint that are in flight.
pub const WINDOW_MAX: u32 = 256;

/// Argument of [`IOC_CONNECT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// The listener's address.
    pub remote: SockAddr,
    /// Address to connect from; family `FAMILY_NONE` lets routing choose.
    pub local: SockAddr,
    /// Receives that the endpoint can hold, 1 to [`Query::max_recv_depth`].
    pub recv_depth: u32,
    /// Out: handle of the endpoint.
    pub endpoint: u32,
    /// Time limit in nanoseconds.
    pub timeout_ns: u64,
    /// As in [`Accept`].
    pub window_high: u32,
    /// As in [`Accept`].
    pub window_low: u32,
}

/// State of an endpoint: connected.
pub const ENDPOINT_UP: u32 = 1;
/// State of an endpoint: the connection ended; `error` says why. All its operations complete.
pub const ENDPOINT_DOWN: u32 = 2;

/// How the peer ended: it has not, or nothing is known.
pub const PEER_END_NONE: u32 = 0;
/// How the peer ended: its owner closed the endpoint or the file.
pub const PEER_END_CLOSED: u32 = 1;
/// How the peer ended: its process died or left, and its kernel said so.
pub const PEER_END_DIED: u32 = 2;
/// How the peer ended: its RDMA device went away.
pub const PEER_END_DEVICE: u32 = 3;
/// How the peer ended: it has fallen silent.
pub const PEER_END_SILENT: u32 = 4;

/// Argument of [`IOC_ENDPOINT_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the endpoint.
    pub handle: u32,
    /// Out: one of `ENDPOINT_*`.
    pub state: u32,
    /// Out: why it is down, as a positive errno: `ECONNRESET` (the peer closed), `EOWNERDEAD`
    /// (its process died), `ETIMEDOUT` (it has fallen silent), `ECANCELED` (a cancel or a time limit of this side), `ENODEV` (the
    /// RDMA device went away), `EPROTO` (the peer broke the protocol), `EIO` (a transfer failed; its
    /// completion has the provider's status), `ESTALE` (memory was revoked that the provider kept), `ENOMEM` (there was
    /// none for what the peer sent). 0 while it is up.
    pub error: i32,
    /// Out: WRITE_IMM and SEND operations that the peer's receives allow now.
    pub send_credits: u32,
    /// Out: receives posted and not yet consumed.
    pub recv_posted: u32,
    /// Out: operations accepted and not yet completed, receives not counted.
    pub in_flight: u32,
    /// Out: this side's address.
    pub local: SockAddr,
    /// Out: the peer's address.
    pub peer: SockAddr,
    /// Out: name of the RDMA device, ending in zeroes.
    pub device: [u8; 64],
    /// Out: one of `PEER_END_*`.
    pub peer_end: u32,
    /// Out: work requests in flight.
    pub posted: u32,
    /// Out: times that an operation had to wait for the peer's receives.
    pub stalls: u64,
    /// Out: nanoseconds that operations waited for them, including a stall that still lasts.
    pub stalled_ns: u64,
    /// Out: operations that failed because the peer had no receive: always 0.
    pub not_ready: u64,
    /// Out: messages of the peer's that broke the protocol. The first one ends the endpoint with `EPROTO`.
    pub violations: u64,
}

impl Default for EndpointQuery {
    fn default() -> Self {
        Self {
            size: 0,
            flags: 0,
            handle: 0,
            state: 0,
            error: 0,
            send_credits: 0,
            recv_posted: 0,
            in_flight: 0,
            local: SockAddr::default(),
            peer: SockAddr::default(),
            device: [0; 64],
            peer_end: 0,
            posted: 0,
            stalls: 0,
            stalled_ns: 0,
            not_ready: 0,
            violations: 0,
        }
    }
}

const _: () = {
    assert!(size_of::<SockAddr>() == 24);
    assert!(size_of::<Listen>() == 40);
    assert!(size_of::<Accept>() == 64);
    assert!(size_of::<Connect>() == 80);
    assert!(size_of::<EndpointQuery>() == 184);
};
