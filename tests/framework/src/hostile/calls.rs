// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which ioctls there are.

use dmaplane_uapi as abi;

/// The ioctls by name, their structures' bytes, and how often they are called.
pub(super) const CALLS: &[(&str, u32, usize, u64)] = &[
    ("QUERY", abi::IOC_QUERY, size_of::<abi::Query>(), 40),
    ("DESTROY", abi::IOC_DESTROY, size_of::<abi::Destroy>(), 60),
    (
        "BUFFER_CREATE",
        abi::IOC_BUFFER_CREATE,
        size_of::<abi::BufferCreate>(),
        60,
    ),
    (
        "BUFFER_QUERY",
        abi::IOC_BUFFER_QUERY,
        size_of::<abi::BufferQuery>(),
        60,
    ),
    (
        "POOL_CREATE",
        abi::IOC_POOL_CREATE,
        size_of::<abi::PoolCreate>(),
        15,
    ),
    (
        "POOL_CARVE",
        abi::IOC_POOL_CARVE,
        size_of::<abi::PoolCarve>(),
        60,
    ),
    (
        "POOL_QUERY",
        abi::IOC_POOL_QUERY,
        size_of::<abi::PoolQuery>(),
        20,
    ),
    (
        "BUFFER_FOLIOS",
        abi::IOC_BUFFER_FOLIOS,
        size_of::<abi::BufferFolios>(),
        30,
    ),
    (
        "BUFFER_REVOKE",
        abi::IOC_BUFFER_REVOKE,
        size_of::<abi::BufferRevoke>(),
        5,
    ),
    (
        "MEMORY_QUERY",
        abi::IOC_MEMORY_QUERY,
        size_of::<abi::MemoryQuery>(),
        10,
    ),
    (
        "DEVICE_QUERY",
        abi::IOC_DEVICE_QUERY,
        size_of::<abi::DeviceQuery>(),
        10,
    ),
    (
        "RDMA_QUERY",
        abi::IOC_RDMA_QUERY,
        size_of::<abi::RdmaQuery>(),
        5,
    ),
    (
        "DEVICE_ALLOC",
        abi::IOC_DEVICE_ALLOC,
        size_of::<abi::DeviceAlloc>(),
        20,
    ),
    (
        "BUFFER_EXPORT",
        abi::IOC_BUFFER_EXPORT,
        size_of::<abi::BufferExport>(),
        20,
    ),
    (
        "BUFFER_IMPORT",
        abi::IOC_BUFFER_IMPORT,
        size_of::<abi::BufferImport>(),
        20,
    ),
    (
        "CHANNEL_CREATE",
        abi::IOC_CHANNEL_CREATE,
        size_of::<abi::ChannelCreate>(),
        40,
    ),
    (
        "STATS_QUERY",
        abi::IOC_STATS_QUERY,
        size_of::<abi::StatsQuery>(),
        40,
    ),
    ("ENTER", abi::IOC_ENTER, size_of::<abi::Enter>(), 200),
    ("LISTEN", abi::IOC_LISTEN, size_of::<abi::Listen>(), 4),
    ("ACCEPT", abi::IOC_ACCEPT, size_of::<abi::Accept>(), 10),
    ("CONNECT", abi::IOC_CONNECT, size_of::<abi::Connect>(), 4),
    (
        "ENDPOINT_QUERY",
        abi::IOC_ENDPOINT_QUERY,
        size_of::<abi::EndpointQuery>(),
        60,
    ),
    (
        "GRANT_CREATE",
        abi::IOC_GRANT_CREATE,
        size_of::<abi::GrantCreate>(),
        30,
    ),
    (
        "GRANT_WAIT",
        abi::IOC_GRANT_WAIT,
        size_of::<abi::GrantWait>(),
        30,
    ),
];
