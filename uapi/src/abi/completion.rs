// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Entries of the completion ring: what became of an operation.

/// Terminal state: done.
pub const STATE_OK: u8 = 1;
/// Terminal state: failed, with `EIO` (the transfer), `EPROTO` (the peer broke the protocol), `EACCES` (the peer's device
/// refused the access), `ENOMEM`, `EDQUOT` (the memory of the RDMA device that this file may use for registrations is used up)
/// or `ENOBUFS` (4096 operations of the endpoint, as many receives as its depth, or 1024 watches wait already); with what the
/// operation itself documents; or the entry was refused, then `field` says for what: `EPERM` with [`FIELD_GRANT`] means that
/// the grant lacks the right.
pub const STATE_ERROR: u8 = 2;
/// Terminal state: its time limit passed, with `ETIMEDOUT`.
pub const STATE_TIMEOUT: u8 = 3;
/// Terminal state: canceled by the user or by the end of its object, with `ECANCELED`; with `ESTALE` where memory was
/// revoked that the RDMA device did not give back.
pub const STATE_CANCELED: u8 = 4;
/// Terminal state: the grant was revoked, with `EACCES`, or the memory, with `ESTALE`.
pub const STATE_REVOKED: u8 = 5;
/// Terminal state: the peer or the connection died, with `ECONNRESET`, `EOWNERDEAD`, `ETIMEDOUT` or `ENODEV` as the
/// endpoint's query reports it.
pub const STATE_PEER_DEAD: u8 = 6;

/// Refused member: none.
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
    /// Positive errno, 0 for `STATE_OK`; the description of each state lists its values.
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
    assert!(size_of::<Cqe>() == 64);
};
