// SPDX-License-Identifier: MIT OR Apache-2.0

//! The calls to the driver, as errors name them.

use std::fmt;

/// A call to the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// Asking for version, capabilities and limits.
    Query,
    /// Destroying an object.
    Destroy,
    /// Creating a buffer.
    BufferCreate,
    /// Asking where a buffer's pages are.
    BufferQuery,
    /// Revoking a buffer's memory.
    BufferRevoke,
    /// Asking what a buffer's memory is.
    MemoryQuery,
    /// Asking which devices have memory.
    DeviceQuery,
    /// Making a buffer of a device's memory.
    DeviceAlloc,
    /// Making a dma-buf of a buffer.
    BufferExport,
    /// Making a buffer of a dma-buf.
    BufferImport,
    /// Asking how a buffer's pages were allocated.
    BufferFolios,
    /// Creating a pool.
    PoolCreate,
    /// Carving a buffer out of a pool.
    PoolCarve,
    /// Asking what a pool has.
    PoolQuery,
    /// Creating a channel.
    ChannelCreate,
    /// Submitting entries and waiting for completions.
    Enter,
    /// Listening.
    Listen,
    /// Accepting a connection.
    Accept,
    /// Connecting.
    Connect,
    /// Asking for an endpoint's state.
    EndpointQuery,
    /// Asking which RDMA devices there are.
    RdmaQuery,
    /// Granting access to a buffer.
    GrantCreate,
    /// Waiting for the peer's grant.
    GrantWait,
    /// Reading latencies.
    StatsQuery,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "query the driver",
            Self::Destroy => "destroy an object",
            Self::BufferCreate => "create a buffer",
            Self::BufferQuery => "query a buffer",
            Self::BufferRevoke => "revoke a buffer's memory",
            Self::MemoryQuery => "query a buffer's memory",
            Self::DeviceQuery => "list devices with memory",
            Self::DeviceAlloc => "make a buffer of a device's memory",
            Self::BufferExport => "export a buffer",
            Self::BufferImport => "import a dma-buf",
            Self::BufferFolios => "query a buffer's folios",
            Self::PoolCreate => "create a pool",
            Self::PoolCarve => "carve a buffer out of a pool",
            Self::PoolQuery => "query a pool",
            Self::ChannelCreate => "create a channel",
            Self::Enter => "submit",
            Self::Listen => "listen",
            Self::Accept => "accept a connection",
            Self::Connect => "connect",
            Self::EndpointQuery => "query an endpoint",
            Self::RdmaQuery => "list RDMA devices",
            Self::GrantCreate => "grant access",
            Self::GrantWait => "take the peer's grant",
            Self::StatsQuery => "read latencies",
        })
    }
}
