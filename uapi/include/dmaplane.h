/* SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT */
/* Generated from uapi/src/abi.rs; do not edit. */

#ifndef _UAPI_DMAPLANE_H
#define _UAPI_DMAPLANE_H

#include <linux/types.h>

/**
 * Version of this interface, as [`Query::abi_version`] reports it.
 */
#define DMAPLANE_ABI_VERSION 1

/**
 * The ioctl type byte. Numbers are `_IO(IOC_TYPE, nr)`: the size travels in the structure.
 */
#define DMAPLANE_IOC_TYPE 218

/**
 * Fills a [`Query`]. Errors: only the conventions'.
 */
#define DMAPLANE_IOC_QUERY (DMAPLANE_IOC_TYPE << 8)

/**
 * Destroys the object behind any handle ([`Destroy`]). Always accepted: the name dies at once, the
 * memory when its last mapping, registration and operation is gone. Errors: `ENOENT`.
 */
#define DMAPLANE_IOC_DESTROY ((DMAPLANE_IOC_TYPE << 8) | 1)

/**
 * Creates a buffer ([`BufferCreate`]). Errors: `EINVAL` (size 0, unknown policy, a node that does
 * not exist or has no memory), `E2BIG` (beyond [`Query::max_buffer_bytes`]), `ENOMEM` (no memory
 * where the policy allows it, or the memory cgroup's limit), `EINTR` (a signal came while memory was
 * being allocated), `EMFILE` (too many handles).
 */
#define DMAPLANE_IOC_BUFFER_CREATE ((DMAPLANE_IOC_TYPE << 8) | 16)

/**
 * Reports where a buffer's pages are ([`BufferQuery`]). Errors: `ENOENT`, `EFAULT`.
 */
#define DMAPLANE_IOC_BUFFER_QUERY ((DMAPLANE_IOC_TYPE << 8) | 17)

/**
 * Creates a channel ([`ChannelCreate`]). Errors: `EINVAL` (entries not a power of two, or out of
 * range), `EBADF` (no eventfd), `ENOMEM`, `EMFILE`.
 */
#define DMAPLANE_IOC_CHANNEL_CREATE ((DMAPLANE_IOC_TYPE << 8) | 32)

/**
 * Submits entries and waits for completions ([`Enter`]). Errors: `EINVAL` (the ring's indices make
 * no sense), `EINTR` (nothing was submitted), `ENOENT` (also when the channel is destroyed during the
 * wait).
 */
#define DMAPLANE_IOC_ENTER ((DMAPLANE_IOC_TYPE << 8) | 33)

/**
 * Listens for connections ([`Listen`]). Errors: `EAFNOSUPPORT`, `EADDRINUSE`, `EADDRNOTAVAIL` (no
 * RDMA device has this address), `ENODEV` (no RDMA device at all), `EMFILE`.
 */
#define DMAPLANE_IOC_LISTEN ((DMAPLANE_IOC_TYPE << 8) | 48)

/**
 * Takes the next connection of a listener ([`Accept`]). Errors: `ETIMEDOUT`, `EINTR`, `ENODEV` (the
 * listener's device went away), `ECONNABORTED` (the peer gave up), `EPROTO` (the peer speaks
 * another version), `EINVAL`.
 */
#define DMAPLANE_IOC_ACCEPT ((DMAPLANE_IOC_TYPE << 8) | 49)

/**
 * Connects to a listener ([`Connect`]). Errors: `EADDRNOTAVAIL` (no RDMA device reaches this
 * address), `EHOSTUNREACH` (the address does not answer), `ECONNREFUSED` (nobody listens there, or
 * its backlog is full), `EPROTO`, `ETIMEDOUT`, `EINTR`, `ENODEV`, `EINVAL`.
 */
#define DMAPLANE_IOC_CONNECT ((DMAPLANE_IOC_TYPE << 8) | 50)

/**
 * Reports an endpoint's state ([`EndpointQuery`]). Errors: `ENOENT`.
 */
#define DMAPLANE_IOC_ENDPOINT_QUERY ((DMAPLANE_IOC_TYPE << 8) | 51)

/**
 * Grants the peer access to a range of a buffer ([`GrantCreate`]). Errors: `EINVAL` (empty or
 * overflowing range, no or unknown rights), `ERANGE` (range beyond the buffer), `ENOTCONN`,
 * `ETIMEDOUT`, `EINTR`, `ENOMEM`, `EMFILE`.
 */
#define DMAPLANE_IOC_GRANT_CREATE ((DMAPLANE_IOC_TYPE << 8) | 64)

/**
 * Takes the next grant that the peer gave ([`GrantWait`]). Errors: `ETIMEDOUT`, `EINTR`, `ENOTCONN`
 * (the connection ended), `EMFILE`.
 */
#define DMAPLANE_IOC_GRANT_WAIT ((DMAPLANE_IOC_TYPE << 8) | 65)

/**
 * Capability: buffers of host pages with NUMA placement.
 */
#define DMAPLANE_CAP_HOST_BUFFERS (1 << 0)

/**
 * Capability: RDMA endpoints, grants and WRITE operations.
 */
#define DMAPLANE_CAP_RDMA (1 << 1)

/**
 * Placement: wherever the kernel finds memory.
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
 * Right of a grant: the peer may write.
 */
#define DMAPLANE_RIGHT_WRITE (1 << 0)

/**
 * Time limit that never passes.
 */
#define DMAPLANE_TIMEOUT_NONE UINT64_MAX

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
 * State of an endpoint: connected.
 */
#define DMAPLANE_ENDPOINT_UP 1

/**
 * State of an endpoint: the connection ended; `error` says why. All its operations complete.
 */
#define DMAPLANE_ENDPOINT_DOWN 2

/**
 * Operation: does nothing, completes with OK.
 */
#define DMAPLANE_OP_NOP 0

/**
 * Operation: consumes the peer's next WRITE_IMM and completes with its immediate and length. Uses
 * `endpoint` only.
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
 * Terminal state: done.
 */
#define DMAPLANE_STATE_OK 1

/**
 * Terminal state: failed; `error` says why.
 */
#define DMAPLANE_STATE_ERROR 2

/**
 * Terminal state: its time limit passed.
 */
#define DMAPLANE_STATE_TIMEOUT 3

/**
 * Terminal state: canceled by the user or by the end of its object.
 */
#define DMAPLANE_STATE_CANCELED 4

/**
 * Terminal state: the grant or the memory was revoked.
 */
#define DMAPLANE_STATE_REVOKED 5

/**
 * Terminal state: the peer or the connection died.
 */
#define DMAPLANE_STATE_PEER_DEAD 6

/**
 * Which member of an entry was refused: none.
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
         * Must be 0.
         */
        __u32 reserved;
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
         * Must be 0.
         */
        __u32 flags;
        /**
         * Wanted bytes; in out the bytes allocated, rounded up to whole pages.
         */
        __u64 bytes;
        /**
         * One of `PLACE_*`.
         */
        __u32 placement;
        /**
         * Node for `PLACE_PREFERRED` and `PLACE_STRICT`; -1 for `PLACE_ANY`.
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
         * Length of the array at `pages_by_node`; in out [`Query::node_ids`].
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
         * Out: node it was created with.
         */
        __s32 node;
        /**
         * Out: pages that are not on the node that a preferred policy asked for.
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
 * Argument of [`IOC_CHANNEL_CREATE`].
 */
struct dmaplane_channel_create {
        /**
         * Size of this structure in bytes.
         */
        __u32 size;
        /**
         * Must be 0.
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
         * An eventfd that is signalled with each completion, or -1.
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
         * Must be 0.
         */
        __u32 flags;
        /**
         * Handle of the channel.
         */
        __u32 channel;
        /**
         * Most entries to take from the submission ring.
         */
        __u32 to_submit;
        /**
         * Return as soon as so many completions wait in the ring.
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
         * Address to listen on; port 0 takes a free one. In out the bound address.
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
         * Time limit in nanoseconds.
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
         * Out: why it is down, as a positive errno: `ECONNRESET` (the peer closed or died), `ENODEV` (the
         * RDMA device went away), `EPROTO` (the peer broke the protocol), `EIO` (a transfer failed; its
         * completion has the provider's status). 0 while it is up.
         */
        __s32 error;
        /**
         * Out: WRITE_IMM operations that the peer's receives allow now.
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
};

/**
 * Argument of [`IOC_GRANT_CREATE`].
 *
 * The call returns when the range is registered and the message is on its way to the peer.
 * Destroying the handle ends the peer's access: when that call returns, nothing of the peer's lands in
 * the range any more. The peer's kernel is asked first and its operations on the grant end in
 * `STATE_REVOKED`; a peer that does not answer within a second loses the connection if it goes on.
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
         * Time limit in nanoseconds.
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
        __u32 pad0[15];
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
         * Must be 0.
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
         * Handle of the peer's grant.
         */
        __u32 grant;
        /**
         * Start in the local buffer, bytes.
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
         * Immediate of `OP_WRITE_IMM`.
         */
        __u32 imm;
        /**
         * Must be 0.
         */
        __u64 reserved2;
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
         * Positive errno, 0 for `STATE_OK`.
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
