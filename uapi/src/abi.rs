// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Structures, numbers and layout of `/dev/dmaplane`.
//!
//! Conventions that hold for every ioctl:
//! - The argument points to a structure whose first member is its size in bytes as the caller was
//!   compiled. A shorter structure is extended with zeroes; a longer one is accepted only when the
//!   bytes that the kernel does not know are zero (`E2BIG` otherwise).
//! - Unknown bits in `flags` and non-zero reserved members give `EINVAL`.
//! - A handle that does not name an object of the expected kind in this file gives `ENOENT`.
//! - Time limits are nanoseconds: 0 does not wait, `u64::MAX` waits without limit. Every wait ends
//!   early on a signal (`EINTR`) and when its object goes away.
//! - Every call can fail with `ENOMEM` (the kernel has no memory for it) and with `EFAULT` (its argument, or memory that
//!   it names, cannot be read or written). A call whose results could not be written has made nothing that lasts; what
//!   [`IOC_ENTER`] submitted stays submitted.
//! - All memory and address sizes are bytes. Integers have the machine's byte order.

/// Version of this interface, as [`Query::abi_version`] reports it. Version 1 is frozen: everything in this file
/// is there since version 1, keeps its number, offset and meaning, and structures only grow at their end.
pub const ABI_VERSION: u32 = 1;

/// The ioctl type byte. Numbers are `_IO(IOC_TYPE, nr)`: the size travels in the structure.
pub const IOC_TYPE: u32 = 0xDA;

/// Fills a [`Query`]. Errors: only the conventions'.
pub const IOC_QUERY: u32 = IOC_TYPE << 8;
/// Destroys the object behind any handle ([`Destroy`]). Always accepted: the name dies at once, the
/// memory when its last mapping, registration and operation is gone. Errors: `ENOENT`.
pub const IOC_DESTROY: u32 = (IOC_TYPE << 8) | 0x01;
/// Creates a buffer ([`BufferCreate`]). Errors: `EINVAL` (size 0, unknown policy, a node that does
/// not exist or has no memory, a device where the policy has none), `E2BIG` (beyond [`Query::max_buffer_bytes`], or
/// beyond 2 MiB with [`BUFFER_COHERENT`]), `ENOMEM` (no memory
/// where the policy allows it, or the memory cgroup's limit), `EDQUOT` (beyond [`Query::max_context_bytes`]),
/// `EINTR` (a signal came while memory was being allocated), `EMFILE` (too many handles), `ENODEV` (no device of the
/// name that the policy is given), `ENXIO` (nobody knows which node that device is on, and there are several).
pub const IOC_BUFFER_CREATE: u32 = (IOC_TYPE << 8) | 0x10;
/// Reports where a buffer's pages are ([`BufferQuery`]). Errors: `ENOENT`, `EFAULT`.
pub const IOC_BUFFER_QUERY: u32 = (IOC_TYPE << 8) | 0x11;
/// Reports how the pages of a buffer on one node were allocated ([`BufferFolios`]). Errors: `ENOENT`, `EINVAL` (a node
/// beyond [`Query::node_ids`]). Since [`CAP_PLACEMENT`].
pub const IOC_BUFFER_FOLIOS: u32 = (IOC_TYPE << 8) | 0x12;
/// Takes the memory of a buffer away from everybody ([`BufferRevoke`]), as the owner of a device's memory does before it
/// reuses the range. When the call returns: operations on it have ended, in `STATE_REVOKED` unless they were faster;
/// grants over it have ended with [`GRANT_END_MEMORY`]; no device reaches it; a touch of a mapping gives SIGBUS, but for
/// those of an import, which are its exporter's and end with the exporter's own revocation; watches of the buffer have
/// completed. Connections live on, but for those whose provider keeps an operation on it longer than
/// a second. The handle stays, and every use of it gives `ESTALE` or `STATE_REVOKED`. Revoking it again does nothing.
/// Bounded by a few seconds, whatever peers do; of a device's memory, by its importers, which are drivers that let go when
/// they are told. Errors: `ENOENT`; `EBUSY` (all of this is done, but after a second an importer of a dma-buf of the memory,
/// which cannot be told to let go, still reaches it; its pages stay as long).
pub const IOC_BUFFER_REVOKE: u32 = (IOC_TYPE << 8) | 0x50;
/// Reports what a buffer's memory is and whether it was revoked ([`MemoryQuery`]). Errors: `ENOENT`.
pub const IOC_MEMORY_QUERY: u32 = (IOC_TYPE << 8) | 0x51;
/// Creates a pool ([`PoolCreate`]): memory that is registered once, on first use, and carved into buffers in constant
/// time. Errors: as [`IOC_BUFFER_CREATE`]. Since [`CAP_POOLS`].
pub const IOC_POOL_CREATE: u32 = (IOC_TYPE << 8) | 0x13;
/// Carves a buffer out of a pool ([`PoolCarve`]). It is a buffer as any other, but for three things: nothing is charged for
/// it; operations that send from it or read into it use the pool's registration; and nobody else can pin pages of its
/// mappings (`EFAULT` of direct I/O, futexes and get_mempolicy(2)), because they will be another buffer's. Its part of the pool is free again
/// when its last name, mapping, dma-buf, grant and operation is gone; taking it away with [`IOC_BUFFER_REVOKE`] concerns no
/// other part. Errors: `EINVAL` (0 bytes), `ENOENT`, `E2BIG` (more than the pool
/// has in a row when all is free), `ENOSPC` (more than it has in a row now), `EMFILE`, `ENOMEM`, `EINTR` (a signal came
/// while the part was being zeroed). Since [`CAP_POOLS`].
pub const IOC_POOL_CARVE: u32 = (IOC_TYPE << 8) | 0x14;
/// Reports what a pool has ([`PoolQuery`]). Errors: `ENOENT`. Since [`CAP_POOLS`].
pub const IOC_POOL_QUERY: u32 = (IOC_TYPE << 8) | 0x15;
/// Reports a device whose memory can be buffers' memory ([`DeviceQuery`]): the first one behind a number. Errors:
/// `ENODEV` (there is none).
pub const IOC_DEVICE_QUERY: u32 = (IOC_TYPE << 8) | 0x52;
/// Makes a buffer of a device's memory ([`DeviceAlloc`]), zeroed and charged to [`Query::max_context_bytes`]. When the
/// device goes, by unbinding, unplugging or unloading, the memory is revoked with [`REVOKE_DEVICE`], as by
/// [`IOC_BUFFER_REVOKE`]. Errors: `ENODEV` (no such device, or it goes), `EINVAL` (no bytes, an unknown tier, an offset
/// that is not whole pages), `EOPNOTSUPP` (the device has no memory of this tier), `ERANGE` (beyond the tier's zone),
/// `EBUSY` (some of the chosen range is taken), `ENOMEM` (no free range of this size), `E2BIG`, `EDQUOT`, `EMFILE`.
pub const IOC_DEVICE_ALLOC: u32 = (IOC_TYPE << 8) | 0x53;
/// Makes a dma-buf of a buffer's range ([`BufferExport`]). Errors: `EINVAL` (unknown flags, a range that is empty or not
/// whole pages), `ERANGE` (range beyond the buffer), `ESTALE` (the memory was revoked, or is being revoked),
/// `EOPNOTSUPP` (part of an imported buffer, or one for reading only), `ENOMEM`, `EMFILE` (too many file descriptors).
pub const IOC_BUFFER_EXPORT: u32 = (IOC_TYPE << 8) | 0x18;
/// Makes a buffer of another driver's dma-buf ([`BufferImport`]). Errors: `EBADF` (no such file descriptor), `EINVAL` (it is
/// no dma-buf, or one of less than a page), `E2BIG` (beyond [`Query::max_buffer_bytes`]), `EDQUOT`, `ENODEV` (its exporter
/// takes it back), `ETIMEDOUT` (other devices are at it for more than a second), `EINTR`, `ENOMEM`, `EMFILE`, and what its
/// exporter says.
pub const IOC_BUFFER_IMPORT: u32 = (IOC_TYPE << 8) | 0x19;
/// Creates a channel ([`ChannelCreate`]). Errors: `EINVAL` (entries not a power of two, or out of
/// range, coalescing without an eventfd, a poll node that does not exist or has no processors), `EBADF` (no eventfd),
/// `ENOMEM`, `EMFILE`, `EDQUOT` (beyond [`Query::max_channels`], or too many polling threads on this machine).
pub const IOC_CHANNEL_CREATE: u32 = (IOC_TYPE << 8) | 0x20;
/// Submits entries and waits for completions ([`Enter`]). Errors: `EINVAL` (the ring's indices make
/// no sense), `EINTR` (nothing was submitted), `ENOENT` (also when the channel is destroyed during the
/// wait), `EFAULT` (the ring is broken beyond use).
pub const IOC_ENTER: u32 = (IOC_TYPE << 8) | 0x21;
/// Listens for connections ([`Listen`]). Errors: `EAFNOSUPPORT`, `EADDRINUSE`, `EADDRNOTAVAIL` (no
/// RDMA device has this address), `ENODEV` (no RDMA device at all), `EMFILE`.
pub const IOC_LISTEN: u32 = (IOC_TYPE << 8) | 0x30;
/// Takes the next connection of a listener ([`Accept`]). Errors: `ETIMEDOUT`, `EINTR`, `ENODEV` (the
/// listener's device went away), `ECONNABORTED` (the peer gave up), `EPROTO` (the peer speaks
/// another version), `EDQUOT` (beyond [`Query::max_endpoints`]), `EINVAL`.
pub const IOC_ACCEPT: u32 = (IOC_TYPE << 8) | 0x31;
/// Connects to a listener ([`Connect`]). Errors: `EADDRNOTAVAIL` (no RDMA device reaches this
/// address), `EHOSTUNREACH` (the address does not answer), `ECONNREFUSED` (nobody listens there, or
/// its backlog is full), `EPROTO`, `ETIMEDOUT`, `EINTR`, `ENODEV`, `EDQUOT`, `EINVAL`.
pub const IOC_CONNECT: u32 = (IOC_TYPE << 8) | 0x32;
/// Reports an endpoint's state ([`EndpointQuery`]). Errors: `ENOENT`.
pub const IOC_ENDPOINT_QUERY: u32 = (IOC_TYPE << 8) | 0x33;
/// Grants the peer access to a range of a buffer ([`GrantCreate`]). Errors: `EINVAL` (empty or
/// overflowing range, no or unknown rights), `ERANGE` (range beyond the buffer), `ENOTCONN`,
/// `ETIMEDOUT`, `EINTR`, `ENOMEM`, `EMFILE`, `EIO` (the device does not take the memory), `ESTALE` (the memory was revoked), for
/// an imported buffer `EOPNOTSUPP` and
/// `EACCES` (see [`BufferImport::access`]).
pub const IOC_GRANT_CREATE: u32 = (IOC_TYPE << 8) | 0x40;
/// Takes the next grant that the peer gave ([`GrantWait`]). Errors: `ETIMEDOUT`, `EINTR`, `ENOTCONN`
/// (the connection ended), `EMFILE`.
pub const IOC_GRANT_WAIT: u32 = (IOC_TYPE << 8) | 0x41;

/// Reads the latencies of one kind of operation of an endpoint ([`StatsQuery`]). Errors: `ENOENT`, `EINVAL` (an
/// operation without an endpoint, an unknown stage), `EFAULT`, `ENOMEM`. Since [`CAP_STATS`].
pub const IOC_STATS_QUERY: u32 = (IOC_TYPE << 8) | 0x60;

/// Capability: buffers of host pages with NUMA placement.
pub const CAP_HOST_BUFFERS: u64 = 1 << 0;
/// Capability: RDMA endpoints, grants and the operations on them.
pub const CAP_RDMA: u64 = 1 << 1;
/// Capability: poll(2) on the file: readable (`POLLIN`) while a channel of the file has completions waiting, `POLLERR` as
/// well while one's ring makes no sense.
pub const CAP_POLL: u64 = 1 << 2;
/// Capability: channels with a polling submission thread ([`CHANNEL_SQPOLL`]).
pub const CAP_SQPOLL: u64 = 1 << 3;
/// Capability: coalesced eventfd signals ([`ChannelCreate::event_batch`]).
pub const CAP_COALESCE: u64 = 1 << 4;
/// Capability: [`PLACE_INTERLEAVE`], [`PLACE_NEAR_RDMA`], [`PLACE_NEAR_PCI`], [`BUFFER_STRICT`] and
/// [`IOC_BUFFER_FOLIOS`].
pub const CAP_PLACEMENT: u64 = 1 << 5;
/// Capability: [`BUFFER_COHERENT`].
pub const CAP_COHERENT: u64 = 1 << 6;
/// Capability: pools, [`IOC_POOL_CREATE`].
pub const CAP_POOLS: u64 = 1 << 7;
/// Capability: [`IOC_BUFFER_EXPORT`].
pub const CAP_DMABUF_EXPORT: u64 = 1 << 8;
/// Capability: [`IOC_BUFFER_IMPORT`].
pub const CAP_DMABUF_IMPORT: u64 = 1 << 9;

/// Capability: memory can be revoked ([`IOC_BUFFER_REVOKE`], [`IOC_MEMORY_QUERY`], [`OP_WATCH`] of a buffer).
pub const CAP_REVOKE: u64 = 1 << 10;
/// Capability: buffers of devices' memory ([`IOC_DEVICE_QUERY`], [`IOC_DEVICE_ALLOC`]).
pub const CAP_DEVICE_MEMORY: u64 = 1 << 11;
/// Capability: latency histograms ([`IOC_STATS_QUERY`]).
pub const CAP_STATS: u64 = 1 << 13;

/// Placement: wherever the kernel finds memory.
pub const PLACE_ANY: u32 = 0;
/// Placement: on the given node first, elsewhere when it is full (visible in [`BufferQuery`]).
pub const PLACE_PREFERRED: u32 = 1;
/// Placement: on the given node only; `ENOMEM` when it is full.
pub const PLACE_STRICT: u32 = 2;

/// Placement: nodes with memory take turns, by units of a power of two of pages: the largest, 2 MiB at most, that
/// gives each node one. Elsewhere when a node is full. Since [`CAP_PLACEMENT`].
pub const PLACE_INTERLEAVE: u32 = 3;
/// Placement: on the node of the RDMA device that [`BufferCreate::near`] names (`rxe0`) first, elsewhere when it is full.
/// The node is the adapter's, else that of the device which carries its first port. Only devices that the calling
/// process' network namespace may use are found. A node without memory is replaced by the nearest that has some, the
/// lowest of equals; [`BufferQuery::node`] tells which. Since [`CAP_PLACEMENT`].
pub const PLACE_NEAR_RDMA: u32 = 4;
/// Placement: as `PLACE_NEAR_RDMA`, for a PCI device, by the address that sysfs has for it (`0000:41:00.0`).
pub const PLACE_NEAR_PCI: u32 = 5;

/// Flag of a buffer: for small structures that processors and devices write at the same time. It is one run of memory
/// that no device needs to have synchronised: a registration on one that would need it fails. The size is rounded up to
/// a power of two of pages, 2 MiB at most. Not for `PLACE_INTERLEAVE`. Since [`CAP_COHERENT`].
pub const BUFFER_COHERENT: u32 = 1 << 0;
/// Flag of a buffer: fails with `ENOMEM` where the policy would go to another node. Not for `PLACE_ANY`. Since
/// [`CAP_PLACEMENT`].
pub const BUFFER_STRICT: u32 = 1 << 1;

/// Right of a grant: the peer may write.
pub const RIGHT_WRITE: u32 = 1 << 0;
/// Right of a grant: the peer may read.
pub const RIGHT_READ: u32 = 1 << 1;

/// Time limit that never passes.
pub const TIMEOUT_NONE: u64 = u64::MAX;

/// Argument of [`IOC_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Out: [`ABI_VERSION`] of the driver.
    pub abi_version: u32,
    /// Out: one more than the highest NUMA node id.
    pub node_ids: u32,
    /// Out: `CAP_*` bits.
    pub capabilities: u64,
    /// Out: largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Out: largest transfer of one operation in bytes.
    pub max_op_bytes: u64,
    /// Out: most entries of a submission or completion ring.
    pub max_ring_entries: u32,
    /// Out: most receives that one endpoint can hold.
    pub max_recv_depth: u32,
    /// Out: most handles of one open file.
    pub max_handles: u32,
    /// Out: bytes of a page.
    pub page_bytes: u32,
    /// Out: RDMA devices that the driver can use now.
    pub rdma_devices: u32,
    /// Out: most bytes of an `OP_SEND`.
    pub max_send_bytes: u32,
    /// Out: quota of buffers' bytes in one open file, as the administrator set it.
    pub max_context_bytes: u64,
    /// Out: quota of endpoints in one open file.
    pub max_endpoints: u32,
    /// Out: quota of channels in one open file.
    pub max_channels: u32,
}

/// Argument of [`IOC_DESTROY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroy {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of any kind.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Argument of [`IOC_BUFFER_CREATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferCreate {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `BUFFER_*` bits.
    pub flags: u32,
    /// Wanted bytes; in out the bytes allocated, rounded up to whole pages.
    pub bytes: u64,
    /// One of `PLACE_*`.
    pub placement: u32,
    /// Node for `PLACE_PREFERRED` and `PLACE_STRICT`; -1 for the others.
    pub node: i32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
    /// Name of a device for `PLACE_NEAR_*`, zeroes behind it; all zeroes for the others. Since [`CAP_PLACEMENT`].
    pub near: [u8; 64],
}

impl Default for BufferCreate {
    fn default() -> Self {
        Self {
            size: 0,
            flags: 0,
            bytes: 0,
            placement: 0,
            node: 0,
            handle: 0,
            reserved: 0,
            mmap_offset: 0,
            near: [0; 64],
        }
    }
}

/// Argument of [`IOC_BUFFER_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// Length of the array at `pages_by_node`; in out [`Query::node_ids`].
    pub node_count: u32,
    /// User address of an array of `u64`, which receives the pages on each node; 0 for none.
    pub pages_by_node: u64,
    /// Out: bytes of the buffer.
    pub bytes: u64,
    /// Out: policy it was created with.
    pub placement: u32,
    /// Out: node it was created with; for `PLACE_NEAR_*` the node that was found.
    pub node: i32,
    /// Out: pages that are not on the node that the policy asked for.
    pub misplaced_pages: u64,
    /// Out: live user mappings of the memory.
    pub mappings: u32,
    /// Out: RDMA devices on which the memory is registered.
    pub regions: u32,
}

/// Kind of memory: pages of the host.
pub const MEMORY_KIND_HOST: u32 = 0;
/// Kind of memory: a range of a device's.
pub const MEMORY_KIND_DEVICE: u32 = 1;
/// Kind of memory: another driver's, by [`IOC_BUFFER_IMPORT`].
pub const MEMORY_KIND_IMPORT: u32 = 3;

/// Mapping tier of a device's memory: each access goes to the device by itself.
pub const TIER_UNCACHED: u32 = 0;
/// Mapping tier: writes are gathered on their way to the device, reads are as slow as uncached ones.
pub const TIER_WRITE_COMBINED: u32 = 1;
/// Mapping tier: cached as host memory is. For devices whose memory is coherent with the processors' caches only.
pub const TIER_CACHED: u32 = 2;

/// One tier of a device, in [`DeviceQuery`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceTier {
    /// Bytes of the tier's zone; 0 when the device does not have the tier.
    pub bytes: u64,
    /// Bytes of it that are free.
    pub free: u64,
    /// One of `RDMA_*`: [`RDMA_DIRECT`] or [`RDMA_STAGED`].
    pub rdma: u32,
    /// One of `RDMA_REASON_*`.
    pub reason: u32,
}

/// Argument of [`IOC_DEVICE_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Number behind which to look; 0 for the first device.
    pub after: u64,
    /// Out: the device's number, which never repeats as long as the driver is loaded.
    pub device: u64,
    /// Out: its NUMA node, -1 when it has none.
    pub node: i32,
    /// Out: PCI domain in the upper half; bus, device and function in the lower.
    pub address: u32,
    /// Out: its tiers, by `TIER_*`.
    pub tiers: [DeviceTier; 3],
}

/// Flag of [`DeviceAlloc`]: the range begins at `offset`.
pub const DEVICE_ALLOC_AT: u32 = 1 << 0;

/// Argument of [`IOC_DEVICE_ALLOC`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceAlloc {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `DEVICE_ALLOC_*` bits.
    pub flags: u32,
    /// The device's number.
    pub device: u64,
    /// Wanted bytes; in out rounded up to whole pages.
    pub bytes: u64,
    /// Start in the tier's zone in bytes, with [`DEVICE_ALLOC_AT`], else 0; in out where it begins.
    pub offset: u64,
    /// One of `TIER_*`.
    pub tier: u32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
}

/// How RDMA reaches memory: as it is.
pub const RDMA_DIRECT: u32 = 0;
/// How RDMA reaches memory: not at all (`EOPNOTSUPP`); its user copies it to and from host memory by [`OP_COPY`].
pub const RDMA_STAGED: u32 = 1;
/// Why RDMA does not reach memory: it does.
pub const RDMA_REASON_NONE: u32 = 0;
/// Why RDMA does not reach memory: its tier has no struct pages, because a range has one mapping type at a time and
/// theirs is uncached.
pub const RDMA_REASON_TIER: u32 = 1;
/// Why RDMA does not reach memory: the machine could not make struct pages for the device's memory.
pub const RDMA_REASON_NO_PAGES: u32 = 2;

/// State of memory: in use.
pub const MEMORY_LIVE: u32 = 0;
/// State of memory: it is being revoked.
pub const MEMORY_REVOKING: u32 = 1;
/// State of memory: it was revoked.
pub const MEMORY_REVOKED: u32 = 2;

/// Why memory was revoked: by [`IOC_BUFFER_REVOKE`].
pub const REVOKE_OWNER: u32 = 1;
/// Why memory was revoked: the device that it belongs to went away.
pub const REVOKE_DEVICE: u32 = 2;
/// Why memory was revoked: the exporter that it was imported from invalidated it.
pub const REVOKE_EXPORTER: u32 = 3;

/// Argument of [`IOC_BUFFER_REVOKE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferRevoke {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Argument of [`IOC_MEMORY_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// Out: one of `MEMORY_KIND_*`.
    pub kind: u32,
    /// Out: `MEMORY_LIVE`, `MEMORY_REVOKING` or `MEMORY_REVOKED`.
    pub state: u32,
    /// Out: one of `REVOKE_*`, 0 while it is in use.
    pub cause: u32,
    /// Out: mapping tier of a device's memory; 0 for host memory.
    pub tier: u32,
    /// Out: how RDMA reaches it: [`RDMA_DIRECT`] or [`RDMA_STAGED`].
    pub rdma: u32,
    /// Out: one of `RDMA_REASON_*`.
    pub reason: u32,
    /// Out: node of the device, or the one that the buffer was created with.
    pub node: i32,
    /// Out: number of the device; 0 for host memory.
    pub device: u64,
    /// Out: start in the tier's zone of the device in bytes; 0 for host memory.
    pub offset: u64,
}

/// Flag of [`BufferExport`]: the file descriptor is closed by execve(2).
pub const EXPORT_CLOEXEC: u32 = 1 << 0;
/// Flag of [`BufferExport`]: neither user space nor devices write through the dma-buf; it cannot be mapped into the kernel.
/// `EACCES` for whoever tries.
pub const EXPORT_READ_ONLY: u32 = 1 << 1;

/// Argument of [`IOC_BUFFER_EXPORT`].
///
/// A buffer may be exported any number of times. A dma-buf keeps the memory, and the driver, as long as somebody refers to
/// it, whatever becomes of handle, file and process. Devices of other drivers see the memory coherently between
/// `DMA_BUF_IOCTL_SYNC` calls; the driver's own operations publish no fences, because how long they take is up to a peer.
/// When the memory is revoked, importers that can let go are told to, and every later use gives `ENODEV`.
///
/// A device's memory goes with the device, whoever has it. So its addresses are given only to importers that let go when they
/// are told to and take memory without pages, and whose device is on PCI and reaches the other one: others get `EOPNOTSUPP`
/// when they map it. No other driver has it mapped into the kernel. Processes map it as the buffer's tier is mapped. The
/// revocation ends when all importers have let go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferExport {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `EXPORT_*` bits.
    pub flags: u32,
    /// Handle of the buffer.
    pub buffer: u32,
    /// Out: file descriptor of the dma-buf.
    pub fd: i32,
    /// Start of the range in the buffer, a multiple of [`Query::page_bytes`].
    pub offset: u64,
    /// Bytes of the range, a multiple of [`Query::page_bytes`].
    pub length: u64,
}

/// Bit of [`BufferImport::access`]: the buffer can be mapped. Its exporter does it; mappings are not counted in
/// [`BufferQuery::mappings`], and become the exporter's own when the buffer goes.
pub const IMPORT_MAPPABLE: u32 = 1 << 0;
/// Bit of [`BufferImport::access`]: the kernel has pages of it, so that entries and grants can name it. Otherwise they give
/// `EOPNOTSUPP`, but for COPY and SEND with [`IMPORT_COPY`], and [`BufferImport::lack`] says why.
pub const IMPORT_PAGES: u32 = 1 << 1;
/// Bit of [`BufferImport::access`]: it may be written. Otherwise writing gives `EACCES`.
pub const IMPORT_WRITABLE: u32 = 1 << 2;
/// Bit of [`BufferImport::access`]: the processor reaches it, so that COPY and SEND can name it. Always there with
/// [`IMPORT_PAGES`], and without for a device's memory that has no pages.
pub const IMPORT_COPY: u32 = 1 << 3;

/// What an import lacks to have pages: nothing.
pub const IMPORT_LACKS_NOTHING: u32 = 0;
/// What an import lacks to have pages: its exporter gives no kernel mapping.
pub const IMPORT_LACKS_MAPPING: u32 = 1;
/// What an import lacks to have pages: it is not memory, but registers of a device.
pub const IMPORT_LACKS_MEMORY: u32 = 2;
/// What an import lacks to have pages: the kernel does not manage the memory, as that of a device.
pub const IMPORT_LACKS_PAGES: u32 = 3;

/// Argument of [`IOC_BUFFER_IMPORT`].
///
/// The buffer keeps the dma-buf, and its exporter does not move the memory meanwhile, for which it is charged like a buffer of
/// one's own. COPY, SEND and RDMA operations wait for what other devices have announced to do with it (fences), a second at
/// most (`ETIMEDOUT`, `EINTR` on a signal), when they are accepted. RECV with a buffer does not take it (`EOPNOTSUPP`).
/// Exporting all of it for reading and writing gives the original dma-buf. When its exporter takes it back, everything is as after
/// [`IOC_BUFFER_REVOKE`], with `REVOKE_EXPORTER` as the cause.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferImport {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// File descriptor of the dma-buf, which may be closed afterwards.
    pub fd: i32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Out: bytes of the buffer, whole pages.
    pub bytes: u64,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
    /// Out: `IMPORT_MAPPABLE`, `IMPORT_PAGES`, `IMPORT_WRITABLE` and `IMPORT_COPY`.
    pub access: u32,
    /// Out: one of `IMPORT_LACKS_*`.
    pub lack: u32,
}

/// Argument of [`IOC_BUFFER_FOLIOS`]. What is counted is read from the pages themselves, which the kernel never moves:
/// memory of buffers is not migrated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferFolios {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the buffer.
    pub handle: u32,
    /// The node that is asked about.
    pub node: i32,
    /// Out: pages of the buffer on the node, by the order of the folio that they are part of: a folio of order n is
    /// 2^n pages in a row.
    pub pages_by_order: [u64; 16],
    /// Out: pages on the node that the policy wanted on another.
    pub misplaced_pages: u64,
    /// Out: pages on the node in smaller folios than the place in the buffer had room for: the machine had none.
    pub small_pages: u64,
    /// Out: orders that buffers are made of; 0 to one less.
    pub orders: u32,
    /// Out: node of the device that the buffer is near to, -1 for none or unknown.
    pub device_node: i32,
}

/// Flag of a pool: what is carved is zeroed first, which takes time in proportion to its size. Without it, a buffer shows
/// what the one before left in the same part; a pool belongs to one file, so that this is never another user's data.
pub const POOL_ZERO: u32 = 1 << 0;
/// Flag of a pool: as [`BUFFER_STRICT`].
pub const POOL_STRICT: u32 = 1 << 1;

/// Argument of [`IOC_POOL_CREATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolCreate {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `POOL_*` bits.
    pub flags: u32,
    /// Wanted bytes; in out the bytes allocated, rounded up to whole pages.
    pub bytes: u64,
    /// As in [`BufferCreate`].
    pub placement: u32,
    /// As in [`BufferCreate`].
    pub node: i32,
    /// Out: handle of the pool.
    pub handle: u32,
    /// Must be 0.
    pub reserved: u32,
    /// As in [`BufferCreate`].
    pub near: [u8; 64],
}

impl Default for PoolCreate {
    fn default() -> Self {
        Self {
            size: 0,
            flags: 0,
            bytes: 0,
            placement: 0,
            node: 0,
            handle: 0,
            reserved: 0,
            near: [0; 64],
        }
    }
}

/// Argument of [`IOC_POOL_CARVE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCarve {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the pool.
    pub pool: u32,
    /// Out: handle of the buffer.
    pub handle: u32,
    /// Wanted bytes; in out the bytes of the buffer, rounded up to whole pages. The pool gives up a power of two of pages
    /// for it.
    pub bytes: u64,
    /// Out: offset to pass to mmap(2), shared mappings only.
    pub mmap_offset: u64,
    /// Out: start in the pool, bytes.
    pub offset: u64,
}

/// Argument of [`IOC_POOL_QUERY`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the pool.
    pub pool: u32,
    /// Out: parts that are taken, by buffers or by what still keeps their memory.
    pub carved: u32,
    /// Out: bytes of the pool.
    pub bytes: u64,
    /// Out: bytes that are free.
    pub free_bytes: u64,
    /// Out: bytes of the longest part that can be carved now.
    pub longest_bytes: u64,
    /// Out: buffers that were carved so far.
    pub carves: u64,
    /// Out: times that no part was long enough.
    pub refusals: u64,
    /// Out: RDMA devices on which the pool is registered.
    pub regions: u32,
    /// Out: policy it was created with.
    pub placement: u32,
    /// Out: node it was created with; for `PLACE_NEAR_*` the node that was found.
    pub node: i32,
    /// 0.
    pub reserved: u32,
}

/// Flag of a channel: a kernel thread takes entries from the submission ring as they come. It runs on the processors of
/// `poll_node`, sleeps after `poll_idle_us` without an entry ([`SQ_NEED_WAKEUP`]) and ends with the channel. `EINVAL`
/// where the driver does not have [`CAP_SQPOLL`].
pub const CHANNEL_SQPOLL: u32 = 1 << 0;

/// Argument of [`IOC_CHANNEL_CREATE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCreate {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `CHANNEL_*` bits.
    pub flags: u32,
    /// Entries of the submission ring, a power of two.
    pub sq_entries: u32,
    /// Entries of the completion ring, a power of two, at least `sq_entries`.
    pub cq_entries: u32,
    /// An eventfd that is signalled with completions, or -1.
    pub eventfd: i32,
    /// Out: handle of the channel.
    pub handle: u32,
    /// Out: offset to pass to mmap(2).
    pub mmap_offset: u64,
    /// Out: bytes to map: a [`RingHeader`] page, then both rings.
    pub mmap_bytes: u64,
    /// Out: offset of the array of [`Sqe`] in the mapping.
    pub sq_offset: u32,
    /// Out: offset of the array of [`Cqe`] in the mapping.
    pub cq_offset: u32,
    /// Signal the eventfd once so many completions came since the last signal; 0 and 1 for each. More than 1 gives
    /// `EINVAL` where the driver does not have [`CAP_COALESCE`].
    pub event_batch: u32,
    /// Signal it at the latest so many microseconds after the first unsignalled completion, in steps of the kernel's
    /// timer tick. At most 10 s; 0 waits for the batch without limit, which needs an `event_batch` of at most 1.
    pub event_delay_us: u32,
    /// NUMA node of the polling thread, or -1 for any; 0 without [`CHANNEL_SQPOLL`].
    pub poll_node: i32,
    /// Microseconds without an entry after which the polling thread sleeps, at most 1 s; 0 without
    /// [`CHANNEL_SQPOLL`].
    pub poll_idle_us: u32,
}

/// Flag of [`Enter`]: wakes the polling thread of the channel, which takes the entries; `to_submit` must be 0. `EINVAL`
/// when the channel has none, and once after the thread has found that the ring's indices make no sense
/// ([`SQ_BROKEN`]): then it looks again.
pub const ENTER_WAKE: u32 = 1 << 0;

/// Argument of [`IOC_ENTER`].
///
/// Entries that find no free completion slot stay in the submission ring and are not counted in
/// `submitted`. The call fails only when it submitted nothing; the out members are valid whenever
/// it succeeds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enter {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `ENTER_*` bits.
    pub flags: u32,
    /// Handle of the channel.
    pub channel: u32,
    /// Most entries to take from the submission ring; 0 on a channel with a polling thread.
    pub to_submit: u32,
    /// Return as soon as so many completions wait in the ring.
    pub min_complete: u32,
    /// Out: entries taken from the submission ring.
    pub submitted: u32,
    /// Out: completions that wait in the ring; fewer than `min_complete` after the time limit.
    pub available: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Time limit of the wait in nanoseconds.
    pub timeout_ns: u64,
}

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
    /// Address to listen on; port 0 takes a free one. In out the bound address.
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
    /// Time limit in nanoseconds.
    pub timeout_ns: u64,
    /// Out: handle of the endpoint.
    pub endpoint: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Out: the peer's address.
    pub peer: SockAddr,
    /// Work requests under way at which posting pauses, at most [`WINDOW_MAX`]; 0 for that.
    pub window_high: u32,
    /// Work requests under way at which posting goes on, at most `window_high`; 0 for three quarters of it.
    pub window_low: u32,
}

/// Most work requests of one endpoint that are under way.
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
    /// completion has the provider's status). 0 while it is up.
    pub error: i32,
    /// Out: WRITE_IMM operations that the peer's receives allow now.
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
    /// Out: work requests under way.
    pub posted: u32,
    /// Out: times that an operation had to wait for the peer's receives.
    pub stalls: u64,
    /// Out: nanoseconds that operations waited for them, a stall that lasts included.
    pub stalled_ns: u64,
    /// Out: operations that failed because the peer had no receive: never anything but 0.
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

/// Argument of [`IOC_GRANT_CREATE`].
///
/// The call returns when the range is registered and the message is on its way to the peer. A grant ends by
/// destroying its handle, when its time to live is over, when its uses are used up, or with the endpoint; an [`OP_WATCH`] of
/// it tells when nothing lands in the range any more.
///
/// Destroying the handle ends the peer's access: when that call returns, nothing of the peer's lands in
/// the range any more. The peer's kernel is asked first and its operations on the grant end in
/// `STATE_REVOKED`; a peer that does not answer within a second loses the connection if it goes on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantCreate {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the endpoint whose peer gets access.
    pub endpoint: u32,
    /// Handle of the buffer.
    pub buffer: u32,
    /// Start of the range in the buffer, a multiple of [`Query::page_bytes`].
    pub offset: u64,
    /// Bytes of the range.
    pub length: u64,
    /// `RIGHT_*` bits.
    pub rights: u32,
    /// Must be 0.
    pub reserved: u32,
    /// A number for the peer's user, who may choose among several grants by it.
    pub label: u64,
    /// Time limit in nanoseconds.
    pub timeout_ns: u64,
    /// Out: handle of the grant.
    pub handle: u32,
    /// Out: generation, which never repeats on this endpoint.
    pub generation: u32,
    /// Nanoseconds until the grant ends by itself, at most a day; 0 for no limit.
    pub ttl_ns: u64,
    /// Operations of the peer after which the grant ends by itself, counted by the peer's kernel; 0 for no limit.
    pub max_uses: u32,
    /// Must be 0.
    pub reserved2: u32,
}

/// Why a grant ended, in `imm` of an [`OP_WATCH`]'s completion: destroyed by its owner.
pub const GRANT_END_REVOKED: u32 = 1;
/// Why a grant ended: its time to live was over.
pub const GRANT_END_EXPIRED: u32 = 2;
/// Why a grant ended: its uses were used up.
pub const GRANT_END_USED: u32 = 3;
/// Why a grant ended: its endpoint ended.
pub const GRANT_END_ENDPOINT: u32 = 4;
/// Why a grant ended: the memory was revoked.
pub const GRANT_END_MEMORY: u32 = 5;

/// Argument of [`IOC_GRANT_WAIT`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrantWait {
    /// Size of this structure in bytes.
    pub size: u32,
    /// Must be 0.
    pub flags: u32,
    /// Handle of the endpoint.
    pub endpoint: u32,
    /// Out: handle of the peer's grant, to be named by entries.
    pub handle: u32,
    /// Time limit in nanoseconds.
    pub timeout_ns: u64,
    /// Out: bytes of the range.
    pub length: u64,
    /// Out: label that the peer chose.
    pub label: u64,
    /// Out: `RIGHT_*` bits.
    pub rights: u32,
    /// Out: generation.
    pub generation: u32,
    /// Out: operations that the grant allows, 0 for no limit.
    pub max_uses: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// Flag of [`StatsQuery`]: empties the histogram while it is read. Each latency is in exactly one of the readings that
/// empty it; an array that cannot be written (`EFAULT`) loses what it should have told.
pub const STATS_RESET: u32 = 1 << 0;

/// Stage of an operation: from acceptance until it is handed to the provider.
pub const STAGE_QUEUED: u32 = 0;
/// Stage: in the provider.
pub const STAGE_PROVIDER: u32 = 1;
/// Stage: from acceptance to completion. The only stage of receives, fences and watches.
pub const STAGE_TOTAL: u32 = 2;

/// Argument of [`IOC_STATS_QUERY`]: latencies of operations of one kind that ended with `STATE_OK`, in nanoseconds. They
/// are counted in buckets that are told by their middles: with an error of at most 1/64, or 4 ns where that is more.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsQuery {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `STATS_*` bits.
    pub flags: u32,
    /// Handle of the endpoint.
    pub handle: u32,
    /// One of `OP_*`.
    pub op: u32,
    /// One of `STAGE_*`.
    pub stage: u32,
    /// Length of the array at `buckets`; in out the number of buckets that the driver has. Bucket `i` begins at
    /// `8 * i` ns for `i` below 32, and at `8 * (32 + i % 32) << (i / 32 - 1)` ns from there on.
    pub bucket_count: u32,
    /// User address of an array of `u64`, which receives the latencies in each bucket; 0 for none.
    pub buckets: u64,
    /// Out: latencies.
    pub count: u64,
    /// Out: half of them are at most this.
    pub p50_ns: u64,
    /// Out: 99 of 100 are at most this.
    pub p99_ns: u64,
    /// Out: 999 of 1000 are at most this.
    pub p999_ns: u64,
    /// Out: the highest one.
    pub max_ns: u64,
    /// Out: latencies of the endpoint that were not counted for want of memory.
    pub lost: u64,
}

/// Bit of [`RingHeader::sq_flags`]: the polling thread sleeps. After filling entries, user space issues a full memory
/// barrier, looks at this bit, and wakes the thread by [`ENTER_WAKE`] when it is set. So it does after taking
/// completions while entries wait for their slots.
pub const SQ_NEED_WAKEUP: u32 = 1 << 0;
/// Bit of [`RingHeader::sq_flags`]: the polling thread found that the ring's indices make no sense. It takes nothing until
/// [`ENTER_WAKE`]; until then [`IOC_ENTER`] gives `EINVAL` and poll(2) `POLLERR`.
pub const SQ_BROKEN: u32 = 1 << 1;

/// First page of a channel's mapping. Indices run freely and wrap at 2^32; an entry's place is its
/// index modulo the ring's size. Each index has a cache line of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RingHeader {
    /// Next entry that the kernel takes; written by the kernel (release).
    pub sq_head: u32,
    /// `SQ_*` bits; written by the kernel.
    pub sq_flags: u32,
    #[doc(hidden)]
    pub pad0: [u32; 14],
    /// One past the last entry that user space filled; written by user space (release).
    pub sq_tail: u32,
    #[doc(hidden)]
    pub pad1: [u32; 15],
    /// Next completion that user space takes; written by user space (release).
    pub cq_head: u32,
    #[doc(hidden)]
    pub pad2: [u32; 15],
    /// One past the last completion that the kernel filled; written by the kernel (release).
    pub cq_tail: u32,
    #[doc(hidden)]
    pub pad3: [u32; 15],
}

/// Operation: does nothing, completes with OK.
pub const OP_NOP: u8 = 0;
/// Operation: consumes the peer's next WRITE_IMM or SEND and completes with its immediate and length. Uses
/// `endpoint` and, where SENDs are to be taken, `buffer`, `offset` and `length`: a SEND without room for it gives
/// `EMSGSIZE`, and is lost. Each one that waits is a credit of the peer's. One that is canceled or runs out of time
/// leaves its credit behind, which the next one takes over, and with it what came meanwhile. Otherwise they end in the
/// order in which they were posted: behind one that ends with its endpoint nothing is delivered any more.
pub const OP_RECV: u8 = 1;
/// Operation: RDMA WRITE of a buffer's range into a grant's range.
pub const OP_WRITE: u8 = 2;
/// Operation: as `OP_WRITE`, then consumes one of the peer's receives with the immediate.
pub const OP_WRITE_IMM: u8 = 3;
/// Operation: RDMA READ of a grant's range, which must have `RIGHT_READ`, into a buffer's range.
pub const OP_READ: u8 = 4;
/// Operation: sends at most [`Query::max_send_bytes`] of a buffer's range with the immediate, and consumes one of the
/// peer's receives. The bytes are copied when the entry is accepted. Uses no `grant`.
pub const OP_SEND: u8 = 5;
/// Operation: copies a buffer's range to the buffer that `grant` names, from `remote_offset` on. The ranges may
/// overlap. Uses no `endpoint`.
pub const OP_COPY: u8 = 6;
/// Operation: completes when all operations but receives that `endpoint` accepted before it have completed.
pub const OP_FENCE: u8 = 7;
/// Operation: ends operations before their time with `STATE_CANCELED`. Without flags: the first one of the
/// `endpoint` whose `user_data` is `offset` and that came by the same channel. What the provider has already is ended by
/// ending the endpoint, unless [`SQE_CANCEL_QUEUED`] forbids it. Completes with the number of operations that it ended as
/// `length`; `ENOENT` when there was none, `EBUSY` when the provider has it and the flag forbids. With `buffer` instead
/// of `endpoint`: the first watch of the buffer whose `user_data` is `offset`.
pub const OP_CANCEL: u8 = 8;
/// Operation: without `grant`, completes when `length` WRITE_IMMs or SENDs have come to `endpoint` whose immediate, masked
/// with the lower half of `offset`, is `imm`; those count that come after the entry was accepted. With `grant`,
/// a handle of an own one, completes when nothing lands in its range any more, with one of `GRANT_END_*` as `imm`.
/// With `buffer` and nothing else, completes when the buffer's memory was revoked, with one of `REVOKE_*` as `imm`.
pub const OP_WATCH: u8 = 9;

/// Flag of `OP_CANCEL`: all operations of `endpoint`; `offset` must be 0.
pub const SQE_CANCEL_ENDPOINT: u8 = 1 << 0;
/// Flag of `OP_CANCEL`: all operations of the file; `endpoint` and `offset` must be 0.
pub const SQE_CANCEL_ALL: u8 = 1 << 1;
/// Flag of `OP_CANCEL`: only what the provider does not have yet, so that the endpoint lives on.
pub const SQE_CANCEL_QUEUED: u8 = 1 << 2;

/// A submission entry. Members that an operation does not use must be 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sqe {
    /// One of `OP_*`.
    pub op: u8,
    /// `SQE_*` bits.
    pub flags: u8,
    /// Must be 0.
    pub reserved: u16,
    /// Handle of the endpoint.
    pub endpoint: u32,
    /// Returned in the completion.
    pub user_data: u64,
    /// The caller's trace id, returned in the completion and shown in trace events.
    pub trace_id: u64,
    /// Handle of the local buffer.
    pub buffer: u32,
    /// Handle of the peer's grant; other uses are told at the operation.
    pub grant: u32,
    /// Start in the local buffer, bytes; other uses are told at the operation.
    pub offset: u64,
    /// Start in the grant's range, bytes.
    pub remote_offset: u64,
    /// Bytes to transfer.
    pub length: u32,
    /// Immediate of `OP_WRITE_IMM` and `OP_SEND`.
    pub imm: u32,
    /// Time limit of the operation in nanoseconds from its acceptance, at most a day; 0 for none. It ends in
    /// `STATE_TIMEOUT` not before, and within two ticks of the kernel's timer after. What the provider has already is
    /// ended by ending the endpoint. Not for operations that end at once: NOP, COPY, CANCEL.
    pub timeout_ns: u64,
}

/// Terminal state: done.
pub const STATE_OK: u8 = 1;
/// Terminal state: failed; `error` says why.
pub const STATE_ERROR: u8 = 2;
/// Terminal state: its time limit passed.
pub const STATE_TIMEOUT: u8 = 3;
/// Terminal state: canceled by the user or by the end of its object.
pub const STATE_CANCELED: u8 = 4;
/// Terminal state: the grant or the memory was revoked.
pub const STATE_REVOKED: u8 = 5;
/// Terminal state: the peer or the connection died.
pub const STATE_PEER_DEAD: u8 = 6;

/// Which member of an entry was refused: none.
pub const FIELD_NONE: u16 = 0;
/// Refused member: `op`.
pub const FIELD_OP: u16 = 1;
/// Refused member: `flags`.
pub const FIELD_FLAGS: u16 = 2;
/// Refused member: a reserved one, or one that the operation does not use.
pub const FIELD_RESERVED: u16 = 3;
/// Refused member: `endpoint`.
pub const FIELD_ENDPOINT: u16 = 4;
/// Refused member: `buffer`.
pub const FIELD_BUFFER: u16 = 5;
/// Refused member: `grant`.
pub const FIELD_GRANT: u16 = 6;
/// Refused member: `offset`, alone or with `length`.
pub const FIELD_OFFSET: u16 = 7;
/// Refused member: `remote_offset`, alone or with `length`.
pub const FIELD_REMOTE_OFFSET: u16 = 8;
/// Refused member: `length`.
pub const FIELD_LENGTH: u16 = 9;
/// Refused member: `imm`.
pub const FIELD_IMM: u16 = 10;
/// Refused member: `timeout_ns`.
pub const FIELD_TIMEOUT: u16 = 11;

/// A completion entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cqe {
    /// Of the submission entry.
    pub user_data: u64,
    /// Of the submission entry.
    pub trace_id: u64,
    /// One of `STATE_*`.
    pub state: u8,
    /// One of `OP_*`.
    pub op: u8,
    /// One of `FIELD_*` when an entry was refused.
    pub field: u16,
    /// Positive errno, 0 for `STATE_OK`.
    pub error: i32,
    /// The provider's work-completion status, 0 when none was involved.
    pub provider_status: u32,
    /// Immediate of a receive.
    pub imm: u32,
    /// Bytes transferred.
    pub length: u64,
    /// Handle of the endpoint.
    pub endpoint: u32,
    /// 0.
    pub reserved: u32,
    /// Nanoseconds from acceptance to completion.
    pub latency_ns: u64,
    /// 0.
    pub reserved2: u64,
}

const _: () = {
    assert!(size_of::<Query>() == 80);
    assert!(size_of::<Destroy>() == 16);
    assert!(size_of::<BufferCreate>() == 104);
    assert!(size_of::<BufferQuery>() == 56);
    assert!(size_of::<BufferFolios>() == 168);
    assert!(size_of::<PoolCreate>() == 96);
    assert!(size_of::<PoolCarve>() == 40);
    assert!(size_of::<PoolQuery>() == 72);
    assert!(size_of::<BufferRevoke>() == 16);
    assert!(size_of::<MemoryQuery>() == 56);
    assert!(size_of::<DeviceTier>() == 24);
    assert!(size_of::<DeviceQuery>() == 104);
    assert!(size_of::<DeviceAlloc>() == 48);
    assert!(size_of::<BufferExport>() == 32);
    assert!(size_of::<BufferImport>() == 40);
    assert!(size_of::<ChannelCreate>() == 64);
    assert!(size_of::<Enter>() == 40);
    assert!(size_of::<SockAddr>() == 24);
    assert!(size_of::<Listen>() == 40);
    assert!(size_of::<Accept>() == 64);
    assert!(size_of::<Connect>() == 80);
    assert!(size_of::<EndpointQuery>() == 184);
    assert!(size_of::<GrantCreate>() == 80);
    assert!(size_of::<GrantWait>() == 56);
    assert!(size_of::<StatsQuery>() == 80);
    assert!(size_of::<RingHeader>() == 256);
    assert!(size_of::<Sqe>() == 64);
    assert!(size_of::<Cqe>() == 64);
};
