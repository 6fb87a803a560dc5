// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! Grants: a peer's access to a range of a buffer.

use super::*;

/// Grants the peer access to a range of a buffer ([`GrantCreate`]). Errors: `EINVAL` (empty or overflowing range, no or
/// unknown rights, an offset off a page boundary, a time to live of more than a day), `EOVERFLOW` (the connection has
/// had 2^32 grants), `ERANGE` (range beyond the buffer), `ENOTCONN`, `ETIMEDOUT`, `EINTR` (the thread is being killed;
/// other signals do not end the call), `ENOMEM`, `EMFILE` (more than 1024 grants, or than 262144 of the device's
/// regions under them), `EDQUOT` (too much of the RDMA device's own memory for this file's endpoints and
/// registrations), `EIO` (the device does not take the memory), `ESTALE` (the memory was revoked, or the time to live
/// was over before the peer could be notified), for an imported buffer `EOPNOTSUPP` and `EACCES` (see
/// [`BufferImport::access`]).
pub const IOC_GRANT_CREATE: u32 = (IOC_TYPE << 8) | 0x40;
/// Takes the next grant that the peer gave ([`GrantWait`]). Errors: `ETIMEDOUT`, `EINTR` (restarts by itself with
/// SA_RESTART), `ENOTCONN` (the connection ended), `EMFILE`, `EDQUOT` (what is kept of it, some bytes for each region
/// of the peer's device under it, counts as memory of this file). A grant that could not be taken is the next one to be
/// taken.
pub const IOC_GRANT_WAIT: u32 = (IOC_TYPE << 8) | 0x41;

/// Right of a grant: the peer may write.
pub const RIGHT_WRITE: u32 = 1 << 0;
/// Right of a grant: the peer may read.
pub const RIGHT_READ: u32 = 1 << 1;

/// Argument of [`IOC_GRANT_CREATE`].
///
/// The call returns when the range is registered and the message is on its way to the peer. A grant ends by destroying
/// its handle, when its time to live is over, when its uses are used up, or with the endpoint; an [`OP_WATCH`] of it
/// completes when the peer neither reads nor writes the range any more.
///
/// Destroying the handle ends the peer's access: when that call returns, the peer neither reads nor writes the range
/// any more. The peer's kernel is asked first, and its operations on the grant end in `STATE_REVOKED`. A peer that does not
/// answer within a second loses the connection if it goes on.
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
/// Why a grant ended: a peer broke the protocol and had the adapter invalidate it. It may be another peer than the one
/// that the grant was given to, where the adapter does not keep protection domains apart, as with rxe.
pub const GRANT_END_INVALIDATED: u32 = 6;

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
    /// Time limit in nanoseconds. Out, after `EINTR`: what is left of it.
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

const _: () = {
    assert!(size_of::<GrantCreate>() == 80);
    assert!(size_of::<GrantWait>() == 56);
};
