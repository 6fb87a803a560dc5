/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/* Generated from uapi/src/abi; do not edit. */

#ifndef _UAPI_DMAPLANE_H
#define _UAPI_DMAPLANE_H

#include <linux/types.h>

/**
 * Version of this interface, as [`Query::abi_version`] reports it. Version 1 is frozen from the first release
 * on: everything in this module then keeps its number, offset and meaning; structures only grow at their end.
 */
#define DMAPLANE_ABI_VERSION 1

/**
 * The ioctl type byte. Numbers are `_IO(IOC_TYPE, nr)`: the size travels in the structure. Their first digit is the kind of
 * object: 0 any, 1 buffers, pools and dma-bufs, 2 channels, 3 connections, 4 grants, 5 memory and devices, 6 figures.
 */
#define DMAPLANE_IOC_TYPE 218

/**
 * Fills a [`Query`]. Errors: only those of the conventions.
 */
#define DMAPLANE_IOC_QUERY (DMAPLANE_IOC_TYPE << 8)

/**
 * Destroys the object behind any handle ([`Destroy`]). Always accepted: the handle is gone at once, the memory when
 * its last mapping, registration and operation is gone. Errors: `ENOENT`.
 */
#define DMAPLANE_IOC_DESTROY ((DMAPLANE_IOC_TYPE << 8) | 1)

/**
 * Capability: buffers of host pages with NUMA placement.
 */
#define DMAPLANE_CAP_HOST_BUFFERS (1 << 0)

/**
 * Capability: RDMA endpoints, grants and the operations on them.
 */
#define DMAPLANE_CAP_RDMA (1 << 1)

/**
 * Capability: poll(2) on the file: readable (`POLLIN`) while a channel of the file has completions waiting, `POLLERR`
 * as well while a channel's ring indices make no sense.
 */
#define DMAPLANE_CAP_POLL (1 << 2)

/**
 * Capability: channels with a polling submission thread ([`CHANNEL_SQPOLL`]).
 */
#define DMAPLANE_CAP_SQPOLL (1 << 3)

/**
 * Capability: coalesced eventfd signals ([`ChannelCreate::event_batch`]).
 */
#define DMAPLANE_CAP_COALESCE (1 << 4)

/**
 * Capability: [`PLACE_INTERLEAVE`], [`PLACE_NEAR_RDMA`], [`PLACE_NEAR_PCI`], [`BUFFER_STRICT`] and
 * [`IOC_BUFFER_FOLIOS`].
 */
#define DMAPLANE_CAP_PLACEMENT (1 << 5)

/**
 * Capability: [`BUFFER_COHERENT`].
 */
#define DMAPLANE_CAP_COHERENT (1 << 6)

/**
 * Capability: pools, [`IOC_POOL_CREATE`].
 */
#define DMAPLANE_CAP_POOLS (1 << 7)

/**
 * Capability: [`IOC_BUFFER_EXPORT`].
 */
#define DMAPLANE_CAP_DMABUF_EXPORT (1 << 8)

/**
 * Capability: [`IOC_BUFFER_IMPORT`].
 */
#define DMAPLANE_CAP_DMABUF_IMPORT (1 << 9)

/**
 * Capability: memory can be revoked ([`IOC_BUFFER_REVOKE`], [`IOC_MEMORY_QUERY`], [`OP_WATCH`] of a buffer).
 */
#define DMAPLANE_CAP_REVOKE (1 << 10)

/**
 * Capability: buffers of devices' memory ([`IOC_DEVICE_QUERY`], [`IOC_DEVICE_ALLOC`]).
 */
#define DMAPLANE_CAP_DEVICE_MEMORY (1 << 11)

/**
 * Capability: latency histograms ([`IOC_STATS_QUERY`]).
 */
#define DMAPLANE_CAP_STATS (1 << 13)

/**
 * Capability: RDMA devices are listed, with what they lack ([`IOC_RDMA_QUERY`]).
 */
#define DMAPLANE_CAP_RDMA_QUERY (1 << 14)

/**
 * Time limit that never passes.
 */
#define DMAPLANE_TIMEOUT_NONE UINT64_MAX

/**
 * Creates a buffer ([`BufferCreate`]). Its memory is only on nodes of the caller's cpuset, whatever the policy. A node
 * has memory for it when the kernel may use some for itself (not where all of it is movable) and the cpuset allows it.
 * Errors: `EINVAL` (size 0, unknown policy, a node that does not exist or has no memory, a device where the policy has
 * none), `E2BIG` (beyond [`Query::max_buffer_bytes`], or beyond 2 MiB with [`BUFFER_COHERENT`]), `ENOMEM` (no memory
 * where the policy allows it, or the memory cgroup's limit), `EDQUOT` (beyond [`Query::max_context_bytes`]), `EMFILE`
 * (too many handles), `ENODEV` (no device of the given name), `ENXIO` (the node of that device is unknown, and there
 * are several).
 */
#define DMAPLANE_IOC_BUFFER_CREATE ((DMAPLANE_IOC_TYPE << 8) | 16)

/**
 * Reports where a buffer's pages are ([`BufferQuery`]). Errors: `ENOENT`, `EFAULT`.
 */
#define DMAPLANE_IOC_BUFFER_QUERY ((DMAPLANE_IOC_TYPE << 8) | 17)

/**
 * Reports how the pages of a buffer on one node were allocated ([`BufferFolios`]). Errors: `ENOENT`, `EINVAL` (a node
 * beyond [`Query::node_ids`]). Since [`CAP_PLACEMENT`].
 */
#define DMAPLANE_IOC_BUFFER_FOLIOS ((DMAPLANE_IOC_TYPE << 8) | 18)

/**
 * Placement: where the calling thread's memory policy says (`numactl`, set_mempolicy(2)), without one near its processor.
 */
#define DMAPLANE_PLACE_ANY 0

/**
 * Placement: on the given node first, elsewhere when it is full (visible in [`BufferQuery`]).
 */
#define DMAPLANE_PLACE_PREFERRED 1

/**
 * Placement: on the given node only; `ENOMEM` when it is full.
 */
#define DMAPLANE_PLACE_STRICT 2

/**
 * Placement: nodes with memory take turns, by units of a power of two of pages: the largest, 2 MiB at most, that
 * gives each node one. Elsewhere when a node is full. Since [`CAP_PLACEMENT`].
 */
#define DMAPLANE_PLACE_INTERLEAVE 3

/**
 * Placement: on the node of the RDMA device that [`BufferCreate::near`] names (`rxe0`) first, elsewhere when it is
 * full. The node is the adapter's, else that of the device which carries its first port. Only devices that the calling
 * process' network namespace may use are found. A node without memory is replaced by the nearest that has some, the
 * lowest of equals; [`BufferQuery::node`] shows which. Since [`CAP_PLACEMENT`].
 */
#define DMAPLANE_PLACE_NEAR_RDMA 4

/**
 * Placement: as `PLACE_NEAR_RDMA`, for a PCI device, by the address that sysfs has for it (`0000:41:00.0`).
 */
#define DMAPLANE_PLACE_NEAR_PCI 5

/**
 * Flag of a buffer: for small structures that processors and devices write at the same time. It is one run of memory
 * that needs no synchronisation for any device: a registration on a device that would need it fails. The size is
 * rounded up to a power of two of pages, 2 MiB at most. Not for `PLACE_INTERLEAVE`. Since [`CAP_COHERENT`].
 */
#define DMAPLANE_BUFFER_COHERENT (1 << 0)

/**
 * Flag of a buffer: fails with `ENOMEM` where the policy would go to another node. Not for `PLACE_ANY`. Since
 * [`CAP_PLACEMENT`].
 */
#define DMAPLANE_BUFFER_STRICT (1 << 1)

/**
 * Creates a channel ([`ChannelCreate`]). Errors: `EINVAL` (entries not a power of two, or out of range, coalescing
 * without an eventfd, another kind of file in its place, a poll node that does not exist or has no processors that the
 * caller may use), `EBADF` (the eventfd is not open), `ENOMEM`, `EMFILE`, `EDQUOT` (beyond [`Query::max_channels`], or
 * too many polling threads in this open file or on this machine), `EINTR` (the thread is being killed).
 */
#define DMAPLANE_IOC_CHANNEL_CREATE ((DMAPLANE_IOC_TYPE << 8) | 32)

/**
 * Submits entries and waits for completions ([`Enter`]). Errors: `EINVAL` (the ring's indices make
 * no sense), `EINTR` (nothing was submitted), `ENOENT` (also when the channel is destroyed during the
 * wait), `EFAULT` (the ring is broken beyond use).
 */
#define DMAPLANE_IOC_ENTER ((DMAPLANE_IOC_TYPE << 8) | 33)

/**
 * Flag of a channel: a kernel thread takes entries from the submission ring as they are filled. It runs on the
 * processors of `poll_node` on which the caller may run, sleeps after `poll_idle_us` without an entry
 * ([`SQ_NEED_WAKEUP`]) and ends with the channel. `EINVAL` where the driver does not have [`CAP_SQPOLL`].
 */
#define DMAPLANE_CHANNEL_SQPOLL (1 << 0)

/**
 * Flag of [`Enter`]: wakes the polling thread of the channel, which takes the entries; `to_submit` must be 0. `EINVAL`
 * when the channel has none, and once after the thread has found that the ring's indices make no sense
 * ([`SQ_BROKEN`]): then it looks again.
 */
#define DMAPLANE_ENTER_WAKE (1 << 0)

/**
 * Bit of [`RingHeader::sq_flags`]: the polling thread sleeps. After filling entries, user space issues a full memory
 * barrier, looks at this bit, and wakes the thread by [`ENTER_WAKE`] when it is set. It does the same after taking
 * completions while entries wait for their slots.
 */
#define DMAPLANE_SQ_NEED_WAKEUP (1 << 0)

/**
 * Bit of [`RingHeader::sq_flags`]: the polling thread found that the ring's indices make no sense. It takes nothing until
 * [`ENTER_WAKE`]; until then [`IOC_ENTER`] gives `EINVAL` and poll(2) `POLLERR`.
 */
#define DMAPLANE_SQ_BROKEN (1 << 1)

/**
 * Terminal state: done.
 */
#define DMAPLANE_STATE_OK 1

/**
 * Terminal state: failed, with `EIO` (the transfer), `EPROTO` (the peer broke the protocol), `EACCES` (the peer's device
 * refused the access), `ENOMEM`, `EDQUOT` (the memory of the RDMA device that this file may use for registrations is used up)
 * or `ENOBUFS` (4096 operations of the endpoint, as many receives as its depth, or 1024 watches wait already); with what the
 * operation itself documents; or the entry was refused, then `field` says for what: `EPERM` with [`FIELD_GRANT`] means that
 * the grant lacks the right.
 */
#define DMAPLANE_STATE_ERROR 2

/**
 * Terminal state: its time limit passed, with `ETIMEDOUT`.
 */
#define DMAPLANE_STATE_TIMEOUT 3

/**
 * Terminal state: canceled by the user or by the end of its object, with `ECANCELED`; with `ESTALE` where memory was
 * revoked that the RDMA device did not give back.
 */
#define DMAPLANE_STATE_CANCELED 4

/**
 * Terminal state: the grant was revoked, with `EACCES`, or the memory, with `ESTALE`.
 */
#define DMAPLANE_STATE_REVOKED 5

/**
 * Terminal state: the peer or the connection died, with `ECONNRESET`, `EOWNERDEAD`, `ETIMEDOUT` or `ENODEV` as the
 * endpoint's query reports it.
 */
#define DMAPLANE_STATE_PEER_DEAD 6

/**
 * Refused member: none.
 */
#define DMAPLANE_FIELD_NONE 0

/**
 * Refused member: `op`.
 */
#define DMAPLANE_FIELD_OP 1

/**
 * Refused member: `flags`.
 */
#define DMAPLANE_FIELD_FLAGS 2

/**
 * Refused member: a reserved one, or one that the operation does not use.
 */
#define DMAPLANE_FIELD_RESERVED 3

/**
 * Refused member: `endpoint`.
 */
#define DMAPLANE_FIELD_ENDPOINT 4

/**
 * Refused member: `buffer`.
 */
#define DMAPLANE_FIELD_BUFFER 5

/**
 * Refused member: `grant`.
 */
#define DMAPLANE_FIELD_GRANT 6

/**
 * Refused member: `offset`, alone or with `length`.
 */
#define DMAPLANE_FIELD_OFFSET 7

/**
 * Refused member: `remote_offset`, alone or with `length`.
 */
#define DMAPLANE_FIELD_REMOTE_OFFSET 8

/**
 * Refused member: `length`.
 */
#define DMAPLANE_FIELD_LENGTH 9

/**
 * Refused member: `imm`.
 */
#define DMAPLANE_FIELD_IMM 10

/**
 * Refused member: `timeout_ns`.
 */
#define DMAPLANE_FIELD_TIMEOUT 11

/**
 * Listens for connections ([`Listen`]). Errors: `EAFNOSUPPORT`, `EADDRINUSE`, `EADDRNOTAVAIL` (no RDMA device has this
 * address), `ENODEV` (no RDMA device at all), `EACCES` (a port below 1024 without `CAP_NET_BIND_SERVICE`), `EINVAL`,
 * `EMFILE`, `EDQUOT` (too many listeners in this open file), `EOPNOTSUPP` (the address is of an RDMA device that the
 * driver cannot use, see [`IOC_RDMA_QUERY`]).
 */
#define DMAPLANE_IOC_LISTEN ((DMAPLANE_IOC_TYPE << 8) | 48)

/**
 * Takes the next connection of a listener ([`Accept`]). Errors: `ETIMEDOUT`, `EINTR`, `ENODEV` (the listener's device
 * went away), `ECONNABORTED` (the peer gave up), `EDQUOT` (beyond
 * [`Query::max_endpoints`], or too much of the RDMA device's own memory for endpoints and registrations), `EMFILE`,
 * `EINVAL`, `EOPNOTSUPP` (the device's queues are too short for the depth).
 * Each request is answered when it comes: a peer that then stays silent does not block others, and is given up after 5
 * seconds, or at the next call. A connection that comes up after the call has returned is for the next call with the same depth and window.
 * After a signal the call restarts by itself, unless the handler was set without SA_RESTART (`EINTR`); nothing is
 * lost.
 */
#define DMAPLANE_IOC_ACCEPT ((DMAPLANE_IOC_TYPE << 8) | 49)

/**
 * Connects to a listener ([`Connect`]). Errors: `EAFNOSUPPORT`, `EADDRNOTAVAIL` (no RDMA device reaches this address),
 * `EHOSTUNREACH` (the address does not answer), `ECONNREFUSED` (nobody listens there, or its backlog is full),
 * `EPROTO`, `ETIMEDOUT`, `ENODEV`, `EADDRINUSE` (the local address and port are taken), `EACCES` (a local port below
 * 1024 without `CAP_NET_BIND_SERVICE`), `EDQUOT`, `EMFILE`, `EINVAL`, `EINTR` (the thread is being killed; other
 * signals do not end the call), `EOPNOTSUPP` (the driver cannot use the RDMA device, see [`IOC_RDMA_QUERY`], or its
 * queues are too short for the depth).
 */
#define DMAPLANE_IOC_CONNECT ((DMAPLANE_IOC_TYPE << 8) | 50)

/**
 * Reports an endpoint's state ([`EndpointQuery`]). Errors: `ENOENT`.
 */
#define DMAPLANE_IOC_ENDPOINT_QUERY ((DMAPLANE_IOC_TYPE << 8) | 51)

/**
 * Address family of an absent address.
 */
#define DMAPLANE_FAMILY_NONE 0

/**
 * Address family of IPv4 (`AF_INET`).
 */
#define DMAPLANE_FAMILY_IPV4 2

/**
 * Address family of IPv6 (`AF_INET6`).
 */
#define DMAPLANE_FAMILY_IPV6 10

/**
 * Most work requests of one endpoint that are in flight.
 */
#define DMAPLANE_WINDOW_MAX 256

/**
 * State of an endpoint: connected.
 */
#define DMAPLANE_ENDPOINT_UP 1

/**
 * State of an endpoint: the connection ended; `error` says why. All its operations complete.
 */
#define DMAPLANE_ENDPOINT_DOWN 2

/**
 * How the peer ended: it has not, or nothing is known.
 */
#define DMAPLANE_PEER_END_NONE 0

/**
 * How the peer ended: its owner closed the endpoint or the file.
 */
#define DMAPLANE_PEER_END_CLOSED 1

/**
 * How the peer ended: its process died or left, and its kernel said so.
 */
#define DMAPLANE_PEER_END_DIED 2

/**
 * How the peer ended: its RDMA device went away.
 */
#define DMAPLANE_PEER_END_DEVICE 3

/**
 * How the peer ended: it has fallen silent.
 */
#define DMAPLANE_PEER_END_SILENT 4

/**
 * Reports a device whose memory can be buffers' memory ([`DeviceQuery`]): the first one with a number above
 * [`DeviceQuery::after`]. Errors: `ENODEV` (there is none).
 */
#define DMAPLANE_IOC_DEVICE_QUERY ((DMAPLANE_IOC_TYPE << 8) | 82)

/**
 * Makes a buffer of a device's memory ([`DeviceAlloc`]), zeroed and charged to [`Query::max_context_bytes`]. When the
 * device is removed, by unbinding, unplugging or unloading, the memory is revoked with [`REVOKE_DEVICE`], as by
 * [`IOC_BUFFER_REVOKE`]. Errors: `ENODEV` (no such device, or it is being removed), `EINVAL` (no bytes, an unknown
 * tier, an offset that is not whole pages), `EOPNOTSUPP` (the device has no memory of this tier), `ERANGE` (beyond the
 * tier's zone), `EBUSY` (some of the chosen range is taken), `ENOMEM` (no free range of this size), `E2BIG`, `EDQUOT`,
 * `EMFILE`.
 */
#define DMAPLANE_IOC_DEVICE_ALLOC ((DMAPLANE_IOC_TYPE << 8) | 83)

/**
 * Mapping tier of a device's memory: each access goes to the device by itself.
 */
#define DMAPLANE_TIER_UNCACHED 0

/**
 * Mapping tier: writes are gathered on their way to the device, reads are as slow as uncached ones. A device lacks it
 * where the processor has no such mappings (x86: no PAT).
 */
#define DMAPLANE_TIER_WRITE_COMBINED 1

/**
 * Mapping tier: cached as host memory is. Only for devices whose memory is coherent with the processors' caches. A
 * device lacks it where the machine keeps the memory uncached whatever the mapping says (x86: MTRRs).
 */
#define DMAPLANE_TIER_CACHED 2

/**
 * Flag of [`DeviceAlloc`]: the range begins at `offset`.
 */
#define DMAPLANE_DEVICE_ALLOC_AT (1 << 0)

/**
 * Makes a dma-buf of a buffer's range ([`BufferExport`]). Errors: `EINVAL` (unknown flags, a range that is empty or not
 * whole pages), `ERANGE` (range beyond the buffer), `ESTALE` (the memory was revoked, or is being revoked),
 * `EOPNOTSUPP` (part of an imported buffer, or one for reading only), `ENOMEM`, `EMFILE` (too many file descriptors),
 * `EDQUOT` (4096 exports of this buffer, of a device's memory 4095, are not released yet).
 */
#define DMAPLANE_IOC_BUFFER_EXPORT ((DMAPLANE_IOC_TYPE << 8) | 24)

/**
 * Makes a buffer of another driver's dma-buf ([`BufferImport`]). Errors: `EBADF` (no such file descriptor), `EINVAL`
 * (it is not a dma-buf, or one of less than a page), `E2BIG` (beyond [`Query::max_buffer_bytes`]), `EDQUOT`, `ENODEV`
 * (its exporter takes it back), `ETIMEDOUT` (other devices use it for more than a second), `EINTR`, `ENOMEM`,
 * `EMFILE`, and the errors of its exporter.
 */
#define DMAPLANE_IOC_BUFFER_IMPORT ((DMAPLANE_IOC_TYPE << 8) | 25)

/**
 * Flag of [`BufferExport`]: the file descriptor is closed by execve(2).
 */
#define DMAPLANE_EXPORT_CLOEXEC (1 << 0)

/**
 * Flag of [`BufferExport`]: neither user space nor devices write through the dma-buf; it cannot be mapped into the kernel.
 * `EACCES` for whoever tries.
 */
#define DMAPLANE_EXPORT_READ_ONLY (1 << 1)

/**
 * Bit of [`BufferImport::access`]: the buffer can be mapped. Its exporter maps it; such mappings are not counted in
 * [`BufferQuery::mappings`], and become the exporter's own when the buffer is destroyed.
 */
#define DMAPLANE_IMPORT_MAPPABLE (1 << 0)

/**
 * Bit of [`BufferImport::access`]: the kernel has pages of it, so that entries and grants can name it. Otherwise they
 * give `EOPNOTSUPP`, except COPY and SEND with [`IMPORT_COPY`], and [`BufferImport::lack`] says why.
 */
#define DMAPLANE_IMPORT_PAGES (1 << 1)

/**
 * Bit of [`BufferImport::access`]: it may be written. Otherwise writing gives `EACCES`.
 */
#define DMAPLANE_IMPORT_WRITABLE (1 << 2)

/**
 * Bit of [`BufferImport::access`]: the processor reaches it, so that COPY and SEND can name it. Always set with
 * [`IMPORT_PAGES`]; without, set for a device's memory that has no pages.
 */
#define DMAPLANE_IMPORT_COPY (1 << 3)

/**
 * What an import lacks to have pages: nothing.
 */
#define DMAPLANE_IMPORT_LACKS_NOTHING 0

/**
 * What an import lacks to have pages: its exporter gives no kernel mapping.
 */
#define DMAPLANE_IMPORT_LACKS_MAPPING 1

/**
 * What an import lacks to have pages: it is not memory, but registers of a device.
 */
#define DMAPLANE_IMPORT_LACKS_MEMORY 2

/**
 * What an import lacks to have pages: the kernel does not manage the memory, as with a device's.
 */
#define DMAPLANE_IMPORT_LACKS_PAGES 3

/**
 * Operation: does nothing, completes with OK.
 */
#define DMAPLANE_OP_NOP 0

/**
 * Operation: consumes the peer's next WRITE_IMM or SEND and completes with its immediate and length. Uses `endpoint`
 * and, where SENDs are to be taken, `buffer`, `offset` and `length`: a SEND without room for it gives `EMSGSIZE`, and
 * is lost. Each one that waits is a credit for the peer. One that is canceled or runs out of time leaves its credit to
 * the next one, which also takes what came meanwhile. Otherwise they end in the order in which they were posted: after
 * one that ends with its endpoint nothing is delivered any more.
 */
#define DMAPLANE_OP_RECV 1

/**
 * Operation: RDMA WRITE of a buffer's range into a grant's range.
 */
#define DMAPLANE_OP_WRITE 2

/**
 * Operation: as `OP_WRITE`, then consumes one of the peer's receives with the immediate.
 */
#define DMAPLANE_OP_WRITE_IMM 3

/**
 * Operation: RDMA READ of a grant's range, which must have `RIGHT_READ`, into a buffer's range.
 */
#define DMAPLANE_OP_READ 4

/**
 * Operation: sends at most `Query::max_send_bytes` of a buffer's range with the immediate, and consumes one of the
 * peer's receives. The bytes are copied when the entry is accepted. Uses no `grant`.
 */
#define DMAPLANE_OP_SEND 5

/**
 * Operation: copies a buffer's range to the buffer that `grant` names, from `remote_offset` on. The result is that of
 * memmove(3), also when both handles name the same pages, such as a buffer and an import of its dma-buf. Uses no `endpoint`.
 */
#define DMAPLANE_OP_COPY 6

/**
 * Operation: completes when all operations but receives that `endpoint` accepted before it have completed.
 */
#define DMAPLANE_OP_FENCE 7

/**
 * Operation: ends operations before their time with `STATE_CANCELED`. Without flags: the first one of the `endpoint`
 * whose `user_data` is `offset` and that came by the same channel. An operation that the provider already has is ended
 * by ending the endpoint, unless [`SQE_CANCEL_QUEUED`] forbids it. Completes with the number of operations that it
 * ended as `length`; `ENOENT` when there was none, `EBUSY` when the provider has it and the flag is set. With `buffer`
 * instead of `endpoint`: the first watch of the buffer whose `user_data` is `offset`.
 */
#define DMAPLANE_OP_CANCEL 8

/**
 * Operation: without `grant`, completes when `length` WRITE_IMMs or SENDs have come to `endpoint` whose immediate,
 * masked with the lower half of `offset`, is `imm`; only those count that come after the entry was accepted. With
 * `grant`, a handle of an own one, completes when the peer neither reads nor writes its range any more, with one of
 * `GRANT_END_*` as `imm`. With `buffer` and nothing else, completes when the buffer's memory was revoked, with one of
 * `REVOKE_*` as `imm`.
 */
#define DMAPLANE_OP_WATCH 9

/**
 * Flag of `OP_CANCEL`: all operations of `endpoint`; `offset` must be 0.
 */
#define DMAPLANE_SQE_CANCEL_ENDPOINT (1 << 0)

/**
 * Flag of `OP_CANCEL`: all operations of the file; `endpoint` and `offset` must be 0.
 */
#define DMAPLANE_SQE_CANCEL_ALL (1 << 1)

/**
 * Flag of `OP_CANCEL`: only what the provider does not have yet, so that the endpoint lives on.
 */
#define DMAPLANE_SQE_CANCEL_QUEUED (1 << 2)

/**
 * Grants the peer access to a range of a buffer ([`GrantCreate`]). Errors: `EINVAL` (empty or overflowing range, no or
 * unknown rights, an offset off a page boundary, a time to live of more than a day), `EOVERFLOW` (the connection has
 * had 2^32 grants), `ERANGE` (range beyond the buffer), `ENOTCONN`, `ETIMEDOUT`, `EINTR` (the thread is being killed;
 * other signals do not end the call), `ENOMEM`, `EMFILE` (more than 1024 grants, or than 262144 of the device's
 * regions under them), `EDQUOT` (too much of the RDMA device's own memory for this file's endpoints and
 * registrations), `EIO` (the device does not take the memory), `ESTALE` (the memory was revoked, or the time to live
 * was over before the peer could be notified), for an imported buffer `EOPNOTSUPP` and `EACCES` (see
 * [`BufferImport::access`]).
 */
#define DMAPLANE_IOC_GRANT_CREATE ((DMAPLANE_IOC_TYPE << 8) | 64)

/**
 * Takes the next grant that the peer gave ([`GrantWait`]). Errors: `ETIMEDOUT`, `EINTR` (restarts by itself with
 * SA_RESTART), `ENOTCONN` (the connection ended), `EMFILE`, `EDQUOT` (what is kept of it, some bytes for each region
 * of the peer's device under it, counts as memory of this file). A grant that could not be taken is the next one to be
 * taken.
 */
#define DMAPLANE_IOC_GRANT_WAIT ((DMAPLANE_IOC_TYPE << 8) | 65)

/**
 * Right of a grant: the peer may write.
 */
#define DMAPLANE_RIGHT_WRITE (1 << 0)

/**
 * Right of a grant: the peer may read.
 */
#define DMAPLANE_RIGHT_READ (1 << 1)

/**
 * Why a grant ended, in `imm` of an [`OP_WATCH`]'s completion: destroyed by its owner.
 */
#define DMAPLANE_GRANT_END_REVOKED 1

/**
 * Why a grant ended: its time to live was over.
 */
#define DMAPLANE_GRANT_END_EXPIRED 2

/**
 * Why a grant ended: its uses were used up.
 */
#define DMAPLANE_GRANT_END_USED 3

/**
 * Why a grant ended: its endpoint ended.
 */
#define DMAPLANE_GRANT_END_ENDPOINT 4

/**
 * Why a grant ended: the memory was revoked.
 */
#define DMAPLANE_GRANT_END_MEMORY 5

/**
 * Why a grant ended: a peer broke the protocol and had the adapter invalidate it. It may be another peer than the one
 * that the grant was given to, where the adapter does not keep protection domains apart, as with rxe.
 */
#define DMAPLANE_GRANT_END_INVALIDATED 6

/**
 * Revokes the memory of a buffer from everybody ([`BufferRevoke`]), as the owner of a device's memory does before it
 * reuses the range. When the call returns: operations on it have ended, in `STATE_REVOKED` unless they were faster;
 * grants over it have ended with [`GRANT_END_MEMORY`]; no device reaches it; a touch of a mapping gives SIGBUS, except
 * for mappings of an import, which are its exporter's and end with the exporter's own revocation; watches of the
 * buffer have completed. Connections live on, except those whose provider keeps an operation on it longer than a
 * second. The handle stays, and every use of it gives `ESTALE` or `STATE_REVOKED`. Revoking it again does nothing.
 * Bounded by a few seconds, whatever peers do; for a device's memory, by its importers, which are drivers that let go
 * when they are notified. Errors: `ENOENT`; `EBUSY` (all of this is done, but somebody still reaches
 * the memory who cannot be made to let go, see [`MemoryQuery::held`]; its pages stay as long, and revoking it again
 * checks again).
 *
 * The driver does not know who reaches a device's memory through a mapping of its frames that another driver made:
 * VFIO (type 1) maps such user mappings for its devices and keeps them after the revocation, and whoever may write
 * `resourceN` of the device in sysfs has a mapping of his own. Both need privileges that reach all memory.
 */
#define DMAPLANE_IOC_BUFFER_REVOKE ((DMAPLANE_IOC_TYPE << 8) | 80)

/**
 * Reports what a buffer's memory is and whether it was revoked ([`MemoryQuery`]). Errors: `ENOENT`.
 */
#define DMAPLANE_IOC_MEMORY_QUERY ((DMAPLANE_IOC_TYPE << 8) | 81)

/**
 * Kind of memory: pages of the host.
 */
#define DMAPLANE_MEMORY_KIND_HOST 0

/**
 * Kind of memory: a range of a device's.
 */
#define DMAPLANE_MEMORY_KIND_DEVICE 1

/**
 * Kind of memory: another driver's, by [`IOC_BUFFER_IMPORT`].
 */
#define DMAPLANE_MEMORY_KIND_IMPORT 3

/**
 * How RDMA reaches memory: as it is.
 */
#define DMAPLANE_RDMA_DIRECT 0

/**
 * How RDMA reaches memory: not at all (`EOPNOTSUPP`); its user copies it to and from host memory by [`OP_COPY`].
 */
#define DMAPLANE_RDMA_STAGED 1

/**
 * Why RDMA does not reach memory: it does.
 */
#define DMAPLANE_RDMA_REASON_NONE 0

/**
 * Why RDMA does not reach memory: its tier has no struct pages, because a range has one mapping type at a time and
 * theirs is uncached.
 */
#define DMAPLANE_RDMA_REASON_TIER 1

/**
 * Why RDMA does not reach memory: the machine could not make struct pages for the device's memory.
 */
#define DMAPLANE_RDMA_REASON_NO_PAGES 2

/**
 * State of memory: in use.
 */
#define DMAPLANE_MEMORY_LIVE 0

/**
 * State of memory: it is being revoked.
 */
#define DMAPLANE_MEMORY_REVOKING 1

/**
 * State of memory: it was revoked.
 */
#define DMAPLANE_MEMORY_REVOKED 2

/**
 * Why memory was revoked: by [`IOC_BUFFER_REVOKE`].
 */
#define DMAPLANE_REVOKE_OWNER 1

/**
 * Why memory was revoked: the device that it belongs to went away.
 */
#define DMAPLANE_REVOKE_DEVICE 2

/**
 * Why memory was revoked: the exporter that it was imported from invalidated it.
 */
#define DMAPLANE_REVOKE_EXPORTER 3

/**
 * Bit of [`MemoryQuery::held`]: an importer of a dma-buf of the memory has it mapped for its device or into the kernel.
 */
#define DMAPLANE_HELD_DMABUF (1 << 0)

/**
 * Bit of [`MemoryQuery::held`]: somebody refers to its pages. They were pinned through a user mapping while it was
 * there, as by a fixed buffer of io_uring, a direct write to a file, a memory region of user space or vmsplice(2), or
 * the network still sends from them. Never set for memory that is carved from a pool or for a device's memory, which
 * nobody can pin.
 */
#define DMAPLANE_HELD_PAGES (1 << 1)

/**
 * Creates a pool ([`PoolCreate`]): memory that is registered once, on first use, and carved into buffers in constant
 * time. Errors: as [`IOC_BUFFER_CREATE`]. Since [`CAP_POOLS`].
 */
#define DMAPLANE_IOC_POOL_CREATE ((DMAPLANE_IOC_TYPE << 8) | 19)

/**
 * Carves a buffer out of a pool ([`PoolCarve`]). It is a buffer like any other, except for three things: nothing is
 * charged for it; operations that send from it or read into it use the pool's registration; and nobody else can pin
 * pages of its mappings (`EFAULT` of direct I/O, futexes and get_mempolicy(2)), because they will be another buffer's
 * later. Its part of the pool is free again when its last handle, mapping, dma-buf, grant and operation is gone;
 * revoking it with [`IOC_BUFFER_REVOKE`] affects no other part. Errors: `EINVAL` (0 bytes), `ENOENT`, `E2BIG` (more
 * than the pool has in a row when all is free), `ENOSPC` (more than it has in a row now), `EMFILE`, `ENOMEM`. Since
 * [`CAP_POOLS`].
 */
#define DMAPLANE_IOC_POOL_CARVE ((DMAPLANE_IOC_TYPE << 8) | 20)

/**
 * Reports what a pool has ([`PoolQuery`]). Errors: `ENOENT`. Since [`CAP_POOLS`].
 */
#define DMAPLANE_IOC_POOL_QUERY ((DMAPLANE_IOC_TYPE << 8) | 21)

/**
 * Flag of a pool: what is carved is zeroed first, which takes time in proportion to its size. Without it, a buffer
 * shows what the previous one left in the same part; a pool belongs to one file, so this is never another user's data.
 */
#define DMAPLANE_POOL_ZERO (1 << 0)

/**
 * Flag of a pool: as [`BUFFER_STRICT`].
 */
#define DMAPLANE_POOL_STRICT (1 << 1)

/**
 * Reports an RDMA device of the caller's network namespace ([`RdmaQuery`]): the first one with a number above
 * [`RdmaQuery::after`]. Errors: `ENODEV` (there is none).
 */
#define DMAPLANE_IOC_RDMA_QUERY ((DMAPLANE_IOC_TYPE << 8) | 52)

/**
 * Protocol: one that the driver does not know.
 */
#define DMAPLANE_RDMA_PROTOCOL_OTHER 0

/**
 * Protocol: InfiniBand.
 */
#define DMAPLANE_RDMA_PROTOCOL_INFINIBAND 1

/**
 * Protocol: RDMA over Converged Ethernet.
 */
#define DMAPLANE_RDMA_PROTOCOL_ROCE 2

/**
 * Protocol: iWARP, RDMA over TCP.
 */
#define DMAPLANE_RDMA_PROTOCOL_IWARP 3

/**
 * The driver can use the device.
 */
#define DMAPLANE_RDMA_LACK_NONE 0

/**
 * The connection manager makes no connections on the device.
 */
#define DMAPLANE_RDMA_LACK_CONNECTIONS 1

/**
 * Work requests cannot register memory on the device.
 */
#define DMAPLANE_RDMA_LACK_REGISTRATION 2

/**
 * An RDMA WRITE can have no immediate on the device.
 */
#define DMAPLANE_RDMA_LACK_IMMEDIATES 3

/**
 * The device's queues are too short.
 */
#define DMAPLANE_RDMA_LACK_QUEUES 4

/**
 * Reads the latencies of one kind of operation of an endpoint ([`StatsQuery`]). Errors: `ENOENT`, `EINVAL` (an
 * operation without an endpoint, an unknown stage), `EFAULT`, `ENOMEM`. Since [`CAP_STATS`].
 */
#define DMAPLANE_IOC_STATS_QUERY ((DMAPLANE_IOC_TYPE << 8) | 96)

/**
 * Flag of [`StatsQuery`]: empties the histogram while it is read. Each latency is in exactly one of the readings that
 * empty it; if the array cannot be written (`EFAULT`), its latencies are lost.
 */
#define DMAPLANE_STATS_RESET (1 << 0)

/**
 * Stage of an operation: from acceptance until it is handed to the provider.
 */
#define DMAPLANE_STAGE_QUEUED 0

/**
 * Stage: in the provider.
 */
#define DMAPLANE_STAGE_PROVIDER 1

/**
 * Stage: from acceptance to completion. The only stage of receives, fences and watches.
 */
#define DMAPLANE_STAGE_TOTAL 2

/**
 * Argument of [`IOC_QUERY`].
 */
struct dmaplane_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Out: [`ABI_VERSION`] of the driver.
         */
        __u32 abi_version;
        /**
         * Out: one more than the highest NUMA node id.
         */
        __u32 node_ids;
        /**
         * Out: `CAP_*` bits.
         */
        __u64 capabilities;
        /**
         * Out: largest buffer in bytes.
         */
        __u64 max_buffer_bytes;
        /**
         * Out: largest transfer of one operation in bytes.
         */
        __u64 max_op_bytes;
        /**
         * Out: most entries of a submission or completion ring.
         */
        __u32 max_ring_entries;
        /**
         * Out: most receives that one endpoint can hold.
         */
        __u32 max_recv_depth;
        /**
         * Out: most handles of one open file.
         */
        __u32 max_handles;
        /**
         * Out: bytes of a page.
         */
        __u32 page_bytes;
        /**
         * Out: RDMA devices that the driver can use now.
         */
        __u32 rdma_devices;
        /**
         * Out: most bytes of an `OP_SEND`.
         */
        __u32 max_send_bytes;
        /**
         * Out: quota of buffers' bytes in one open file, as the administrator set it.
         */
        __u64 max_context_bytes;
        /**
         * Out: quota of endpoints in one open file.
         */
        __u32 max_endpoints;
        /**
         * Out: quota of channels in one open file.
         */
        __u32 max_channels;
};

/**
 * Argument of [`IOC_DESTROY`].
 */
struct dmaplane_destroy {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of any kind.
         */
        __u32 handle;
        /**
         * Must be 0.
         */
        __u32 reserved;
};

/**
 * Argument of [`IOC_BUFFER_CREATE`].
 */
struct dmaplane_buffer_create {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * `BUFFER_*` bits.
         */
        __u32 flags;
        /**
         * Wanted bytes; on return the bytes allocated, rounded up to whole pages.
         */
        __u64 bytes;
        /**
         * One of `PLACE_*`.
         */
        __u32 placement;
        /**
         * Node for `PLACE_PREFERRED` and `PLACE_STRICT`; -1 for the others.
         */
        __s32 node;
        /**
         * Out: handle of the buffer.
         */
        __u32 handle;
        /**
         * Must be 0.
         */
        __u32 reserved;
        /**
         * Out: offset to pass to mmap(2), shared mappings only.
         */
        __u64 mmap_offset;
        /**
         * Name of a device for `PLACE_NEAR_*`, zeroes behind it; all zeroes for the others. Since [`CAP_PLACEMENT`].
         */
        __u8 near[64];
};

/**
 * Argument of [`IOC_BUFFER_QUERY`].
 */
struct dmaplane_buffer_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the buffer.
         */
        __u32 handle;
        /**
         * Length of the array at `pages_by_node`; on return [`Query::node_ids`].
         */
        __u32 node_count;
        /**
         * User address of an array of `u64`, which receives the pages on each node; 0 for none.
         */
        __u64 pages_by_node;
        /**
         * Out: bytes of the buffer.
         */
        __u64 bytes;
        /**
         * Out: policy it was created with.
         */
        __u32 placement;
        /**
         * Out: node it was created with; for `PLACE_NEAR_*` the node that was found.
         */
        __s32 node;
        /**
         * Out: pages that are not on the node that the policy asked for.
         */
        __u64 misplaced_pages;
        /**
         * Out: live user mappings of the memory.
         */
        __u32 mappings;
        /**
         * Out: RDMA devices on which the memory is registered.
         */
        __u32 regions;
};

/**
 * Argument of [`IOC_BUFFER_FOLIOS`]. What is counted is read from the pages themselves, which the kernel never moves:
 * memory of buffers is not migrated.
 */
struct dmaplane_buffer_folios {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the buffer.
         */
        __u32 handle;
        /**
         * The node that is asked about.
         */
        __s32 node;
        /**
         * Out: pages of the buffer on the node, by the order of the folio that they are part of: a folio of order n is
         * 2^n pages in a row.
         */
        __u64 pages_by_order[16];
        /**
         * Out: pages on the node that the policy wanted on another.
         */
        __u64 misplaced_pages;
        /**
         * Out: pages on the node in smaller folios than the place in the buffer had room for: the machine had no larger
         * ones.
         */
        __u64 small_pages;
        /**
         * Out: how many folio orders buffers are made of, from order 0 on.
         */
        __u32 orders;
        /**
         * Out: node of the device that the buffer is near to, -1 for none or unknown.
         */
        __s32 device_node;
};

/**
 * Argument of [`IOC_POOL_CREATE`].
 */
struct dmaplane_pool_create {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * `POOL_*` bits.
         */
        __u32 flags;
        /**
         * Wanted bytes; on return the bytes allocated, rounded up to whole pages.
         */
        __u64 bytes;
        /**
         * As in [`BufferCreate`].
         */
        __u32 placement;
        /**
         * As in [`BufferCreate`].
         */
        __s32 node;
        /**
         * Out: handle of the pool.
         */
        __u32 handle;
        /**
         * Must be 0.
         */
        __u32 reserved;
        /**
         * As in [`BufferCreate`].
         */
        __u8 near[64];
};

/**
 * Argument of [`IOC_POOL_CARVE`].
 */
struct dmaplane_pool_carve {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the pool.
         */
        __u32 pool;
        /**
         * Out: handle of the buffer.
         */
        __u32 handle;
        /**
         * Wanted bytes; on return the bytes of the buffer, rounded up to whole pages. The pool gives up a power of two of
         * pages for it.
         */
        __u64 bytes;
        /**
         * Out: offset to pass to mmap(2), shared mappings only.
         */
        __u64 mmap_offset;
        /**
         * Out: start in the pool, bytes.
         */
        __u64 offset;
};

/**
 * Argument of [`IOC_POOL_QUERY`].
 */
struct dmaplane_pool_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the pool.
         */
        __u32 pool;
        /**
         * Out: parts that are taken, by buffers or by what still keeps their memory.
         */
        __u32 carved;
        /**
         * Out: bytes of the pool.
         */
        __u64 bytes;
        /**
         * Out: bytes that are free.
         */
        __u64 free_bytes;
        /**
         * Out: bytes of the longest part that can be carved now.
         */
        __u64 longest_bytes;
        /**
         * Out: buffers that were carved so far.
         */
        __u64 carves;
        /**
         * Out: times that no part was long enough.
         */
        __u64 refusals;
        /**
         * Out: RDMA devices on which the pool is registered.
         */
        __u32 regions;
        /**
         * Out: policy it was created with.
         */
        __u32 placement;
        /**
         * Out: node it was created with; for `PLACE_NEAR_*` the node that was found.
         */
        __s32 node;
        /**
         * 0.
         */
        __u32 reserved;
};

/**
 * Argument of [`IOC_BUFFER_REVOKE`].
 */
struct dmaplane_buffer_revoke {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the buffer.
         */
        __u32 handle;
        /**
         * Must be 0.
         */
        __u32 reserved;
};

/**
 * Argument of [`IOC_MEMORY_QUERY`].
 */
struct dmaplane_memory_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the buffer.
         */
        __u32 handle;
        /**
         * Out: one of `MEMORY_KIND_*`.
         */
        __u32 kind;
        /**
         * Out: `MEMORY_LIVE`, `MEMORY_REVOKING` or `MEMORY_REVOKED`.
         */
        __u32 state;
        /**
         * Out: one of `REVOKE_*`, 0 while it is in use.
         */
        __u32 cause;
        /**
         * Out: mapping tier of a device's memory; 0 for host memory.
         */
        __u32 tier;
        /**
         * Out: how RDMA reaches it: [`RDMA_DIRECT`] or [`RDMA_STAGED`].
         */
        __u32 rdma;
        /**
         * Out: one of `RDMA_REASON_*`.
         */
        __u32 reason;
        /**
         * Out: node of the device, or the one that the buffer was created with.
         */
        __s32 node;
        /**
         * Out: number of the device; 0 for host memory.
         */
        __u64 device;
        /**
         * Out: start in the tier's zone of the device in bytes; 0 for host memory.
         */
        __u64 offset;
        /**
         * Out: `HELD_*` bits, once it was revoked: who still reaches it.
         */
        __u32 held;
        /**
         * Out: 0.
         */
        __u32 reserved;
};

/**
 * One tier of a device, in [`DeviceQuery`].
 */
struct dmaplane_device_tier {
        /**
         * Bytes of the tier's zone; 0 when the device does not have the tier.
         */
        __u64 bytes;
        /**
         * Bytes of it that are free.
         */
        __u64 free;
        /**
         * One of `RDMA_*`: [`RDMA_DIRECT`] or [`RDMA_STAGED`].
         */
        __u32 rdma;
        /**
         * One of `RDMA_REASON_*`.
         */
        __u32 reason;
};

/**
 * Argument of [`IOC_DEVICE_QUERY`].
 */
struct dmaplane_device_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * The device is the first one with a higher number than this; 0 for the first of all.
         */
        __u64 after;
        /**
         * Out: the device's number, which never repeats as long as the driver is loaded.
         */
        __u64 device;
        /**
         * Out: its NUMA node, -1 when it has none.
         */
        __s32 node;
        /**
         * Out: PCI domain in the upper half; bus, device and function in the lower.
         */
        __u32 address;
        /**
         * Out: its tiers, by `TIER_*`.
         */
        struct dmaplane_device_tier tiers[3];
};

/**
 * Argument of [`IOC_DEVICE_ALLOC`].
 */
struct dmaplane_device_alloc {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * `DEVICE_ALLOC_*` bits.
         */
        __u32 flags;
        /**
         * The device's number.
         */
        __u64 device;
        /**
         * Wanted bytes; on return rounded up to whole pages.
         */
        __u64 bytes;
        /**
         * Start in the tier's zone in bytes, with [`DEVICE_ALLOC_AT`], else 0; on return where it begins.
         */
        __u64 offset;
        /**
         * One of `TIER_*`.
         */
        __u32 tier;
        /**
         * Out: handle of the buffer.
         */
        __u32 handle;
        /**
         * Out: offset to pass to mmap(2), shared mappings only.
         */
        __u64 mmap_offset;
};

/**
 * Argument of [`IOC_BUFFER_EXPORT`].
 *
 * A buffer may be exported any number of times. A dma-buf keeps the memory, and the driver, as long as somebody refers
 * to it, whatever becomes of handle, file and process. Devices of other drivers see the memory coherently between
 * `DMA_BUF_IOCTL_SYNC` calls; the driver's own operations publish no fences, because how long they take is up to a
 * peer. When the memory is revoked, importers that can let go are notified, and every later use gives `ENODEV`.
 *
 * A device's memory goes with the device, whoever uses it. So its addresses are given only to importers that let go
 * when they are notified and take memory without pages, and whose device is on PCI and reaches the other one: others
 * get `EOPNOTSUPP` when they map it. No other driver can map it into the kernel. Processes map it as the buffer's tier
 * is mapped. The revocation ends when all importers have let go.
 */
struct dmaplane_buffer_export {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * `EXPORT_*` bits.
         */
        __u32 flags;
        /**
         * Handle of the buffer.
         */
        __u32 buffer;
        /**
         * Out: file descriptor of the dma-buf.
         */
        __s32 fd;
        /**
         * Start of the range in the buffer, a multiple of [`Query::page_bytes`].
         */
        __u64 offset;
        /**
         * Bytes of the range, a multiple of [`Query::page_bytes`].
         */
        __u64 length;
};

/**
 * Argument of [`IOC_BUFFER_IMPORT`].
 *
 * The buffer keeps the dma-buf. Its exporter does not move the memory meanwhile, so it is charged like any other
 * buffer. COPY and SEND wait when they are accepted, RDMA operations when they could be posted, for what other devices
 * have announced to do with the memory (fences), for at most a second (`ETIMEDOUT`; `EINTR` when the thread is being
 * killed, or from the exporter). A RECV cannot name it (`EOPNOTSUPP`). Exporting all of it for reading and writing
 * gives the original dma-buf. When its exporter takes it back, everything is as after [`IOC_BUFFER_REVOKE`], with
 * `REVOKE_EXPORTER` as the cause.
 */
struct dmaplane_buffer_import {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * File descriptor of the dma-buf, which may be closed afterwards.
         */
        __s32 fd;
        /**
         * Out: handle of the buffer.
         */
        __u32 handle;
        /**
         * Out: bytes of the buffer, whole pages.
         */
        __u64 bytes;
        /**
         * Out: offset to pass to mmap(2), shared mappings only.
         */
        __u64 mmap_offset;
        /**
         * Out: `IMPORT_MAPPABLE`, `IMPORT_PAGES`, `IMPORT_WRITABLE` and `IMPORT_COPY`.
         */
        __u32 access;
        /**
         * Out: one of `IMPORT_LACKS_*`.
         */
        __u32 lack;
};

/**
 * Argument of [`IOC_CHANNEL_CREATE`].
 */
struct dmaplane_channel_create {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * `CHANNEL_*` bits.
         */
        __u32 flags;
        /**
         * Entries of the submission ring, a power of two.
         */
        __u32 sq_entries;
        /**
         * Entries of the completion ring, a power of two, at least `sq_entries`.
         */
        __u32 cq_entries;
        /**
         * An eventfd that is signalled with completions, or -1.
         */
        __s32 eventfd;
        /**
         * Out: handle of the channel.
         */
        __u32 handle;
        /**
         * Out: offset to pass to mmap(2).
         */
        __u64 mmap_offset;
        /**
         * Out: bytes to map: a [`RingHeader`] page, then both rings.
         */
        __u64 mmap_bytes;
        /**
         * Out: offset of the array of [`Sqe`] in the mapping.
         */
        __u32 sq_offset;
        /**
         * Out: offset of the array of [`Cqe`] in the mapping.
         */
        __u32 cq_offset;
        /**
         * Signal the eventfd once this many completions came since the last signal; 0 and 1 for each. More than 1 gives
         * `EINVAL` where the driver does not have [`CAP_COALESCE`].
         */
        __u32 event_batch;
        /**
         * Signal it this many microseconds after the first unsignalled completion, unless the batch is full before. An
         * hrtimer measures it. At most 10 s; 0 only where each completion is signalled at once.
         */
        __u32 event_delay_us;
        /**
         * NUMA node of the polling thread, or -1 for any; 0 without [`CHANNEL_SQPOLL`].
         */
        __s32 poll_node;
        /**
         * Microseconds without an entry after which the polling thread sleeps, at most 1 s; 0 without
         * [`CHANNEL_SQPOLL`].
         */
        __u32 poll_idle_us;
};

/**
 * Argument of [`IOC_ENTER`].
 *
 * Entries that find no free completion slot stay in the submission ring and are not counted in
 * `submitted`. The call fails only when it submitted nothing; the out members are valid whenever
 * it succeeds.
 */
struct dmaplane_enter {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * `ENTER_*` bits.
         */
        __u32 flags;
        /**
         * Handle of the channel.
         */
        __u32 channel;
        /**
         * Most entries to take from the submission ring; 0 on a channel with a polling thread.
         */
        __u32 to_submit;
        /**
         * Return as soon as this many completions wait in the ring.
         */
        __u32 min_complete;
        /**
         * Out: entries taken from the submission ring.
         */
        __u32 submitted;
        /**
         * Out: completions that wait in the ring; fewer than `min_complete` after the time limit.
         */
        __u32 available;
        /**
         * Must be 0.
         */
        __u32 reserved;
        /**
         * Time limit of the wait in nanoseconds.
         */
        __u64 timeout_ns;
};

/**
 * An IP address and port.
 */
struct dmaplane_sockaddr {
        /**
         * One of `FAMILY_*`.
         */
        __u16 family;
        /**
         * Port, in the machine's byte order.
         */
        __u16 port;
        /**
         * Interface index of a link-local IPv6 address, 0 otherwise.
         */
        __u32 scope_id;
        /**
         * The address in network byte order; IPv4 uses the first four bytes, the rest is zero.
         */
        __u8 addr[16];
};

/**
 * Argument of [`IOC_LISTEN`].
 */
struct dmaplane_listen {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Address to listen on; port 0 takes a free one. On return the bound address.
         */
        struct dmaplane_sockaddr local;
        /**
         * Connections that may wait to be accepted, 1 to 128.
         */
        __u32 backlog;
        /**
         * Out: handle of the listener.
         */
        __u32 handle;
};

/**
 * Argument of [`IOC_ACCEPT`].
 */
struct dmaplane_accept {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the listener.
         */
        __u32 listener;
        /**
         * Receives that the endpoint can hold, 1 to [`Query::max_recv_depth`].
         */
        __u32 recv_depth;
        /**
         * Time limit in nanoseconds. Out, after `EINTR`: what is left of it.
         */
        __u64 timeout_ns;
        /**
         * Out: handle of the endpoint.
         */
        __u32 endpoint;
        /**
         * Must be 0.
         */
        __u32 reserved;
        /**
         * Out: the peer's address.
         */
        struct dmaplane_sockaddr peer;
        /**
         * Work requests in flight at which posting pauses, at most [`WINDOW_MAX`]; 0 for that.
         */
        __u32 window_high;
        /**
         * Work requests in flight at which posting resumes, at most `window_high`; 0 for three quarters of it.
         */
        __u32 window_low;
};

/**
 * Argument of [`IOC_CONNECT`].
 */
struct dmaplane_connect {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * The listener's address.
         */
        struct dmaplane_sockaddr remote;
        /**
         * Address to connect from; family `FAMILY_NONE` lets routing choose.
         */
        struct dmaplane_sockaddr local;
        /**
         * Receives that the endpoint can hold, 1 to [`Query::max_recv_depth`].
         */
        __u32 recv_depth;
        /**
         * Out: handle of the endpoint.
         */
        __u32 endpoint;
        /**
         * Time limit in nanoseconds.
         */
        __u64 timeout_ns;
        /**
         * As in [`Accept`].
         */
        __u32 window_high;
        /**
         * As in [`Accept`].
         */
        __u32 window_low;
};

/**
 * Argument of [`IOC_ENDPOINT_QUERY`].
 */
struct dmaplane_endpoint_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the endpoint.
         */
        __u32 handle;
        /**
         * Out: one of `ENDPOINT_*`.
         */
        __u32 state;
        /**
         * Out: why it is down, as a positive errno: `ECONNRESET` (the peer closed), `EOWNERDEAD`
         * (its process died), `ETIMEDOUT` (it has fallen silent), `ECANCELED` (a cancel or a time limit of this side), `ENODEV` (the
         * RDMA device went away), `EPROTO` (the peer broke the protocol), `EIO` (a transfer failed; its
         * completion has the provider's status), `ESTALE` (memory was revoked that the provider kept), `ENOMEM` (there was
         * none for what the peer sent). 0 while it is up.
         */
        __s32 error;
        /**
         * Out: WRITE_IMM and SEND operations that the peer's receives allow now.
         */
        __u32 send_credits;
        /**
         * Out: receives posted and not yet consumed.
         */
        __u32 recv_posted;
        /**
         * Out: operations accepted and not yet completed, receives not counted.
         */
        __u32 in_flight;
        /**
         * Out: this side's address.
         */
        struct dmaplane_sockaddr local;
        /**
         * Out: the peer's address.
         */
        struct dmaplane_sockaddr peer;
        /**
         * Out: name of the RDMA device, ending in zeroes.
         */
        __u8 device[64];
        /**
         * Out: one of `PEER_END_*`.
         */
        __u32 peer_end;
        /**
         * Out: work requests in flight.
         */
        __u32 posted;
        /**
         * Out: times that an operation had to wait for the peer's receives.
         */
        __u64 stalls;
        /**
         * Out: nanoseconds that operations waited for them, including a stall that still lasts.
         */
        __u64 stalled_ns;
        /**
         * Out: operations that failed because the peer had no receive: always 0.
         */
        __u64 not_ready;
        /**
         * Out: messages of the peer's that broke the protocol. The first one ends the endpoint with `EPROTO`.
         */
        __u64 violations;
};

/**
 * Argument of [`IOC_RDMA_QUERY`].
 */
struct dmaplane_rdma_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * The device is the first one with a higher number than this; 0 for the first of all.
         */
        __u64 after;
        /**
         * Out: the device's number, which never repeats as long as the driver is loaded.
         */
        __u64 device;
        /**
         * Out: its name, padded with zeroes.
         */
        __u8 name[64];
        /**
         * Out: the NUMA node of the adapter, or of the device under its first port; -1 when neither is known.
         */
        __s32 node;
        /**
         * Out: one of `RDMA_PROTOCOL_*`, of its first port.
         */
        __u32 protocol;
        /**
         * Out: one of `RDMA_LACK_*`: why the driver cannot use it. Listeners and connections on it give `EOPNOTSUPP` then;
         * with [`RDMA_LACK_CONNECTIONS`] `EADDRNOTAVAIL`, since no address is known to be its.
         */
        __u32 lack;
        /**
         * Out: pages that one memory region of a grant holds; larger grants have several regions.
         */
        __u32 region_pages;
        /**
         * Out: work requests that one of its queues holds, which bounds the receives of an endpoint.
         */
        __u32 queue_entries;
        /**
         * Out: 0.
         */
        __u32 reserved;
};

/**
 * Argument of [`IOC_GRANT_CREATE`].
 *
 * The call returns when the range is registered and the message is on its way to the peer. A grant ends by destroying
 * its handle, when its time to live is over, when its uses are used up, or with the endpoint; an [`OP_WATCH`] of it
 * completes when the peer neither reads nor writes the range any more.
 *
 * Destroying the handle ends the peer's access: when that call returns, the peer neither reads nor writes the range
 * any more. The peer's kernel is asked first, and its operations on the grant end in `STATE_REVOKED`. A peer that does not
 * answer within a second loses the connection if it goes on.
 */
struct dmaplane_grant_create {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the endpoint whose peer gets access.
         */
        __u32 endpoint;
        /**
         * Handle of the buffer.
         */
        __u32 buffer;
        /**
         * Start of the range in the buffer, a multiple of [`Query::page_bytes`].
         */
        __u64 offset;
        /**
         * Bytes of the range.
         */
        __u64 length;
        /**
         * `RIGHT_*` bits.
         */
        __u32 rights;
        /**
         * Must be 0.
         */
        __u32 reserved;
        /**
         * A number for the peer's user, who may choose among several grants by it.
         */
        __u64 label;
        /**
         * Time limit in nanoseconds.
         */
        __u64 timeout_ns;
        /**
         * Out: handle of the grant.
         */
        __u32 handle;
        /**
         * Out: generation, which never repeats on this endpoint.
         */
        __u32 generation;
        /**
         * Nanoseconds until the grant ends by itself, at most a day; 0 for no limit.
         */
        __u64 ttl_ns;
        /**
         * Operations of the peer after which the grant ends by itself, counted by the peer's kernel; 0 for no limit.
         */
        __u32 max_uses;
        /**
         * Must be 0.
         */
        __u32 reserved2;
};

/**
 * Argument of [`IOC_GRANT_WAIT`].
 */
struct dmaplane_grant_wait {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the endpoint.
         */
        __u32 endpoint;
        /**
         * Out: handle of the peer's grant, to be named by entries.
         */
        __u32 handle;
        /**
         * Time limit in nanoseconds. Out, after `EINTR`: what is left of it.
         */
        __u64 timeout_ns;
        /**
         * Out: bytes of the range.
         */
        __u64 length;
        /**
         * Out: label that the peer chose.
         */
        __u64 label;
        /**
         * Out: `RIGHT_*` bits.
         */
        __u32 rights;
        /**
         * Out: generation.
         */
        __u32 generation;
        /**
         * Out: operations that the grant allows, 0 for no limit.
         */
        __u32 max_uses;
        /**
         * Must be 0.
         */
        __u32 reserved;
};

/**
 * Argument of [`IOC_STATS_QUERY`]: latencies of operations of one kind that ended with `STATE_OK`, in nanoseconds.
 * They are counted in buckets and reported as the middle of their bucket: with an error of at most 1/64, or 4 ns where
 * that is more.
 */
struct dmaplane_stats_query {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * `STATS_*` bits.
         */
        __u32 flags;
        /**
         * Handle of the endpoint.
         */
        __u32 handle;
        /**
         * One of `OP_*`.
         */
        __u32 op;
        /**
         * One of `STAGE_*`.
         */
        __u32 stage;
        /**
         * Length of the array at `buckets`; on return the number of buckets that the driver has. Bucket `i` begins at
         * `8 * i` ns for `i` below 32, and at `8 * (32 + i % 32) << (i / 32 - 1)` ns from there on.
         */
        __u32 bucket_count;
        /**
         * User address of an array of `u64`, which receives the latencies in each bucket; 0 for none.
         */
        __u64 buckets;
        /**
         * Out: latencies.
         */
        __u64 count;
        /**
         * Out: half of them are at most this.
         */
        __u64 p50_ns;
        /**
         * Out: 99 of 100 are at most this.
         */
        __u64 p99_ns;
        /**
         * Out: 999 of 1000 are at most this.
         */
        __u64 p999_ns;
        /**
         * Out: the highest one.
         */
        __u64 max_ns;
        /**
         * Out: latencies of the endpoint that were not counted for want of memory.
         */
        __u64 lost;
};

/**
 * First page of a channel's mapping. Indices run freely and wrap at 2^32; an entry's place is its
 * index modulo the ring's size. Each index has a cache line of its own.
 */
struct dmaplane_ring_header {
        /**
         * Next entry that the kernel takes; written by the kernel (release).
         */
        __u32 sq_head;
        /**
         * `SQ_*` bits; written by the kernel.
         */
        __u32 sq_flags;
        __u32 pad0[14];
        /**
         * One past the last entry that user space filled; written by user space (release).
         */
        __u32 sq_tail;
        __u32 pad1[15];
        /**
         * Next completion that user space takes; written by user space (release).
         */
        __u32 cq_head;
        __u32 pad2[15];
        /**
         * One past the last completion that the kernel filled; written by the kernel (release).
         */
        __u32 cq_tail;
        __u32 pad3[15];
};

/**
 * A submission entry. Members that an operation does not use must be 0.
 */
struct dmaplane_sqe {
        /**
         * One of `OP_*`.
         */
        __u8 op;
        /**
         * `SQE_*` bits.
         */
        __u8 flags;
        /**
         * Must be 0.
         */
        __u16 reserved;
        /**
         * Handle of the endpoint.
         */
        __u32 endpoint;
        /**
         * Returned in the completion.
         */
        __u64 user_data;
        /**
         * The caller's trace id, returned in the completion and shown in trace events.
         */
        __u64 trace_id;
        /**
         * Handle of the local buffer.
         */
        __u32 buffer;
        /**
         * Handle of the peer's grant; other uses are described at the operation.
         */
        __u32 grant;
        /**
         * Start in the local buffer, bytes; other uses are described at the operation.
         */
        __u64 offset;
        /**
         * Start in the grant's range, bytes.
         */
        __u64 remote_offset;
        /**
         * Bytes to transfer.
         */
        __u32 length;
        /**
         * Immediate of `OP_WRITE_IMM` and `OP_SEND`.
         */
        __u32 imm;
        /**
         * Time limit of the operation in nanoseconds from its acceptance, at most a day; 0 for none. It ends in
         * `STATE_TIMEOUT` no earlier than that, and at most two ticks of the kernel's timer later. An operation that the
         * provider already has is ended by ending the endpoint. Not for operations that end at once: NOP, COPY, CANCEL.
         */
        __u64 timeout_ns;
};

/**
 * A completion entry.
 */
struct dmaplane_cqe {
        /**
         * Of the submission entry.
         */
        __u64 user_data;
        /**
         * Of the submission entry.
         */
        __u64 trace_id;
        /**
         * One of `STATE_*`.
         */
        __u8 state;
        /**
         * One of `OP_*`.
         */
        __u8 op;
        /**
         * One of `FIELD_*` when an entry was refused.
         */
        __u16 field;
        /**
         * Positive errno, 0 for `STATE_OK`; the description of each state lists its values.
         */
        __s32 error;
        /**
         * The provider's work-completion status, 0 when none was involved.
         */
        __u32 provider_status;
        /**
         * Immediate of a receive.
         */
        __u32 imm;
        /**
         * Bytes transferred.
         */
        __u64 length;
        /**
         * Handle of the endpoint.
         */
        __u32 endpoint;
        /**
         * 0.
         */
        __u32 reserved;
        /**
         * Nanoseconds from acceptance to completion.
         */
        __u64 latency_ns;
        /**
         * 0.
         */
        __u64 reserved2;
};

#endif  /* _UAPI_DMAPLANE_H */
