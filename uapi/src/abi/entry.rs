// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Entries of the submission ring, and the operations that they name.

/// Operation: does nothing, completes with OK.
pub const OP_NOP: u8 = 0;
/// Operation: consumes the peer's next WRITE_IMM or SEND and completes with its immediate and length. Uses `endpoint`
/// and, where SENDs are to be taken, `buffer`, `offset` and `length`: a SEND without room for it gives `EMSGSIZE`, and
/// is lost. Each one that waits is a credit for the peer. One that is canceled or runs out of time leaves its credit to
/// the next one, which also takes what came meanwhile. Otherwise they end in the order in which they were posted: after
/// one that ends with its endpoint nothing is delivered any more.
pub const OP_RECV: u8 = 1;
/// Operation: RDMA WRITE of a buffer's range into a grant's range.
pub const OP_WRITE: u8 = 2;
/// Operation: as `OP_WRITE`, then consumes one of the peer's receives with the immediate.
pub const OP_WRITE_IMM: u8 = 3;
/// Operation: RDMA READ of a grant's range, which must have `RIGHT_READ`, into a buffer's range.
pub const OP_READ: u8 = 4;
/// Operation: sends at most `Query::max_send_bytes` of a buffer's range with the immediate, and consumes one of the
/// peer's receives. The bytes are copied when the entry is accepted. Uses no `grant`.
pub const OP_SEND: u8 = 5;
/// Operation: copies a buffer's range to the buffer that `grant` names, from `remote_offset` on. The result is that of
/// memmove(3), also when both handles name the same pages, such as a buffer and an import of its dma-buf. Uses no `endpoint`.
pub const OP_COPY: u8 = 6;
/// Operation: completes when all operations but receives that `endpoint` accepted before it have completed.
pub const OP_FENCE: u8 = 7;
/// Operation: ends operations before their time with `STATE_CANCELED`. Without flags: the first one of the `endpoint`
/// whose `user_data` is `offset` and that came by the same channel. An operation that the provider already has is ended
/// by ending the endpoint, unless [`SQE_CANCEL_QUEUED`] forbids it. Completes with the number of operations that it
/// ended as `length`; `ENOENT` when there was none, `EBUSY` when the provider has it and the flag is set. With `buffer`
/// instead of `endpoint`: the first watch of the buffer whose `user_data` is `offset`.
pub const OP_CANCEL: u8 = 8;
/// Operation: without `grant`, completes when `length` WRITE_IMMs or SENDs have come to `endpoint` whose immediate,
/// masked with the lower half of `offset`, is `imm`; only those count that come after the entry was accepted. With
/// `grant`, a handle of an own one, completes when the peer neither reads nor writes its range any more, with one of
/// `GRANT_END_*` as `imm`. With `buffer` and nothing else, completes when the buffer's memory was revoked, with one of
/// `REVOKE_*` as `imm`.
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
    /// Handle of the peer's grant; other uses are described at the operation.
    pub grant: u32,
    /// Start in the local buffer, bytes; other uses are described at the operation.
    pub offset: u64,
    /// Start in the grant's range, bytes.
    pub remote_offset: u64,
    /// Bytes to transfer.
    pub length: u32,
    /// Immediate of `OP_WRITE_IMM` and `OP_SEND`.
    pub imm: u32,
    /// Time limit of the operation in nanoseconds from its acceptance, at most a day; 0 for none. It ends in
    /// `STATE_TIMEOUT` no earlier than that, and at most two ticks of the kernel's timer later. An operation that the
    /// provider already has is ended by ending the endpoint. Not for operations that end at once: NOP, COPY, CANCEL.
    pub timeout_ns: u64,
}

const _: () = {
    assert!(size_of::<Sqe>() == 64);
};
