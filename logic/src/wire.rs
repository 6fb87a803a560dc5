// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What travels between two kernels: the greeting in the connection manager's private data and the
//! control messages on the queue pair. Everything is little-endian; whatever arrives is hostile.
//!
//! ```text
//! offset  0  u16 magic        offset 16  u32 data_limit
//!         2  u8  version             20  u32 control_limit
//!         3  u8  kind                24  u32 credit_seen
//!         4  u32 grant               28  u32 0
//!         8  u32 generation          32  body of GRANT
//!        12  u32 0
//! ```
//! The body of LAST_WILL: u32 reason, one of the user-space interface's ways in which a peer ends.
//!
//! The body of SEND: u32 length, u32 immediate, then the bytes, at most [`SEND_BYTES`].
//!
//! The body of SPLIT: u64 length.
//!
//! The body of GRANT: u64 length, u64 label, u32 rights, u8 log2 of the segment's bytes, u8 number of keys, u16 0, u32
//! index of the first key, u32 most uses (0 for no limit), then up to [`KEYS`] keys of u32. A grant with more segments
//! takes several messages in ascending order. Addresses are not sent: segment `i` of a grant starts at address 0 under
//! key `i`.

use super::{
    flow::{Budget, Totals, MAX_DEPTH},
    heartbeat::INTERVALS_MS,
};

/// Bytes of every control message.
pub const MESSAGE_BYTES: usize = 256;
/// Bytes of the greeting.
pub const HELLO_BYTES: usize = 16;
/// Keys in one GRANT message.
pub const KEYS: usize = (MESSAGE_BYTES - 64) / 4;
/// Most bytes of a SEND.
pub const SEND_BYTES: usize = MESSAGE_BYTES - 40;
/// Most segments of one grant.
pub const MAX_SEGMENTS: u32 = 1 << 16;
/// Version of this protocol; other versions are refused.
pub const VERSION: u8 = 1;

const MAGIC: u16 = 0xDA71;
const BODY: usize = 32;
const FIRST_KEY: usize = 64;

/// Smallest and largest log2 of a segment's bytes: a page of 4 KiB, 1 GiB.
const SEGMENT_SHIFTS: core::ops::RangeInclusive<u8> = 12..=30;

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not this protocol.
    Magic,
    /// Another version of it.
    Version,
    /// An unknown kind of message.
    Kind,
    /// A member has a value that it must not have.
    Field,
    /// Too short.
    Length,
}

/// What each side says of itself when connecting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Receives that the side's user may post.
    pub depth: u32,
    /// Time between the side's heartbeats in milliseconds, one of [`INTERVALS_MS`].
    pub heartbeat_ms: u32,
}

impl Hello {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut out = [0; HELLO_BYTES];
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(&mut out, 2, &[VERSION, 0]);
        put(&mut out, 4, &self.depth.to_le_bytes());
        put(&mut out, 8, &self.heartbeat_ms.to_le_bytes());
        out
    }

    /// Reads a greeting; what follows it is padding of the connection manager.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bytes = bytes.get(..HELLO_BYTES).ok_or(Malformed::Length)?;
        if u16_at(bytes, 0) != MAGIC {
            return Err(Malformed::Magic);
        }
        if byte_at(bytes, 2) != VERSION {
            return Err(Malformed::Version);
        }
        let (depth, heartbeat_ms) = (u32_at(bytes, 4), u32_at(bytes, 8));
        let padding = byte_at(bytes, 3) != 0 || u32_at(bytes, 12) != 0;
        let known = (1..=MAX_DEPTH).contains(&depth) && INTERVALS_MS.contains(&heartbeat_ms);
        if padding || !known {
            return Err(Malformed::Field);
        }
        Ok(Self {
            depth,
            heartbeat_ms,
        })
    }
}

/// Some of a grant's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantPart {
    /// Bytes of the range.
    pub length: u64,
    /// The granter's label.
    pub label: u64,
    /// Rights, bits of the user-space interface.
    pub rights: u32,
    /// log2 of a segment's bytes.
    pub segment_shift: u8,
    /// Index of the first key in this message.
    pub first: u32,
    /// Operations that the grant allows, 0 for no limit.
    pub max_uses: u32,
    /// How many keys follow.
    pub count: u8,
    /// The keys.
    pub keys: [u32; KEYS],
}

impl GrantPart {
    /// Segments of the whole grant.
    pub fn segments(&self) -> u64 {
        self.length.div_ceil(1 << self.segment_shift)
    }

    /// The keys that this message holds.
    pub fn keys(&self) -> &[u32] {
        self.keys.get(..usize::from(self.count)).unwrap_or(&[])
    }
}

/// What a SEND carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The immediate.
    pub imm: u32,
    /// Bytes that follow, at most [`SEND_BYTES`].
    pub length: u32,
    /// The bytes; the rest is 0.
    pub bytes: [u8; SEND_BYTES],
}

impl Payload {
    /// The bytes that were sent.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length as usize).unwrap_or(&[])
    }
}

/// A control message's kind and body.
#[allow(clippy::large_enum_variant)] // Reason: it lives on the stack, and nothing is allocated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Carries the totals only.
    Credit,
    /// Gives access to a range.
    Grant(GrantPart),
    /// Takes a grant back.
    Revoke,
    /// The length of the next WRITE_IMM, which was cut into several work requests: the receiver's provider sees only
    /// the last one's length. 0 withdraws the last announcement: the operation ended before its last piece.
    Split(u64),
    /// Answers a REVOKE: nothing of the sender's is under way on the grant any more.
    Revoked,
    /// Says that the sender's kernel is alive, and carries the totals.
    Ping,
    /// The sender ends, for this reason. Nothing follows.
    LastWill(u32),
    /// A user's few bytes, for one of the receives that the peer's user posted.
    Send(Payload),
}

impl Body {
    /// Its number on the wire.
    pub fn kind(&self) -> u8 {
        match self {
            Body::Credit => KIND_CREDIT,
            Body::Grant(_) => KIND_GRANT,
            Body::Revoke => KIND_REVOKE,
            Body::Revoked => KIND_REVOKED,
            Body::Split(_) => KIND_SPLIT,
            Body::Ping => KIND_PING,
            Body::LastWill(_) => KIND_LAST_WILL,
            Body::Send(_) => KIND_SEND,
        }
    }

    /// The budget from which it is sent.
    pub fn budget(&self) -> Budget {
        match self {
            Body::Credit | Body::Ping => Budget::Credit,
            Body::Send(_) => Budget::Data,
            Body::LastWill(_) => Budget::Will,
            Body::Grant(_) | Body::Revoke | Body::Revoked | Body::Split(_) => Budget::Control,
        }
    }
}

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number of the grant, chosen by the granter; 0 where none is meant.
    pub grant: u32,
    /// Generation of the grant.
    pub generation: u32,
    /// Credits.
    pub totals: Totals,
    /// Kind and body.
    pub body: Body,
}

const KIND_CREDIT: u8 = 1;
const KIND_GRANT: u8 = 2;
const KIND_REVOKE: u8 = 3;
const KIND_REVOKED: u8 = 4;
const KIND_SPLIT: u8 = 5;
const KIND_PING: u8 = 6;
const KIND_LAST_WILL: u8 = 7;
const KIND_SEND: u8 = 8;

impl Message {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut out = [0; MESSAGE_BYTES];
        let kind = self.body.kind();
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(&mut out, 2, &[VERSION, kind]);
        put(&mut out, 4, &self.grant.to_le_bytes());
        put(&mut out, 8, &self.generation.to_le_bytes());
        put(&mut out, 16, &self.totals.data_limit.to_le_bytes());
        put(&mut out, 20, &self.totals.control_limit.to_le_bytes());
        put(&mut out, 24, &self.totals.credit_seen.to_le_bytes());
        if let Body::Split(length) = self.body {
            put(&mut out, BODY, &length.to_le_bytes());
        }
        if let Body::LastWill(reason) = self.body {
            put(&mut out, BODY, &reason.to_le_bytes());
        }
        if let Body::Send(payload) = &self.body {
            put(&mut out, BODY, &payload.length.to_le_bytes());
            put(&mut out, BODY + 4, &payload.imm.to_le_bytes());
            put(&mut out, BODY + 8, payload.bytes());
        }
        if let Body::Grant(part) = &self.body {
            put(&mut out, BODY, &part.length.to_le_bytes());
            put(&mut out, BODY + 8, &part.label.to_le_bytes());
            put(&mut out, BODY + 16, &part.rights.to_le_bytes());
            put(&mut out, BODY + 20, &[part.segment_shift, part.count]);
            put(&mut out, BODY + 24, &part.first.to_le_bytes());
            put(&mut out, BODY + 28, &part.max_uses.to_le_bytes());
            for (index, key) in part.keys().iter().enumerate() {
                put(&mut out, FIRST_KEY + 4 * index, &key.to_le_bytes());
            }
        }
        out
    }

    /// Reads what arrived.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() != MESSAGE_BYTES {
            return Err(Malformed::Length);
        }
        if u16_at(bytes, 0) != MAGIC {
            return Err(Malformed::Magic);
        }
        if byte_at(bytes, 2) != VERSION {
            return Err(Malformed::Version);
        }
        let grant = u32_at(bytes, 4);
        let generation = u32_at(bytes, 8);
        let named = grant != 0 && generation != 0;
        let unnamed = grant == 0 && generation == 0;
        let body = match byte_at(bytes, 3) {
            KIND_CREDIT if unnamed => Body::Credit,
            KIND_SPLIT if unnamed => Body::Split(u64_at(bytes, BODY)),
            KIND_GRANT if named => Body::Grant(grant_part(bytes)?),
            KIND_REVOKE if named => Body::Revoke,
            KIND_REVOKED if named => Body::Revoked,
            KIND_PING if unnamed => Body::Ping,
            KIND_LAST_WILL if unnamed => Body::LastWill(u32_at(bytes, BODY)),
            KIND_SEND if unnamed => Body::Send(payload(bytes)?),
            KIND_CREDIT..=KIND_SEND => return Err(Malformed::Field),
            _ => return Err(Malformed::Kind),
        };
        let used = match &body {
            Body::Grant(part) => FIRST_KEY + 4 * part.keys().len(),
            Body::Split(_) => BODY + 8,
            Body::LastWill(_) => BODY + 4,
            Body::Send(payload) => BODY + 8 + payload.bytes().len(),
            _ => BODY,
        };
        let rest_is_zero = bytes.iter().skip(used).all(|byte| *byte == 0);
        if u32_at(bytes, 12) != 0 || u32_at(bytes, 28) != 0 || !rest_is_zero {
            return Err(Malformed::Field);
        }
        Ok(Self {
            grant,
            generation,
            totals: Totals {
                data_limit: u32_at(bytes, 16),
                control_limit: u32_at(bytes, 20),
                credit_seen: u32_at(bytes, 24),
            },
            body,
        })
    }
}

fn grant_part(bytes: &[u8]) -> Result<GrantPart, Malformed> {
    let mut part = GrantPart {
        length: u64_at(bytes, BODY),
        label: u64_at(bytes, BODY + 8),
        rights: u32_at(bytes, BODY + 16),
        segment_shift: byte_at(bytes, BODY + 20),
        count: byte_at(bytes, BODY + 21),
        first: u32_at(bytes, BODY + 24),
        max_uses: u32_at(bytes, BODY + 28),
        keys: [0; KEYS],
    };
    let padding = u32::from(byte_at(bytes, BODY + 22)) | u32::from(byte_at(bytes, BODY + 23));
    if part.length == 0
        || part.rights == 0
        || padding != 0
        || !SEGMENT_SHIFTS.contains(&part.segment_shift)
        || !(1..=KEYS).contains(&usize::from(part.count))
    {
        return Err(Malformed::Field);
    }
    let segments = part.segments();
    let end = u64::from(part.first) + u64::from(part.count);
    if segments > u64::from(MAX_SEGMENTS) || end > segments {
        return Err(Malformed::Field);
    }
    for index in 0..usize::from(part.count) {
        if let Some(key) = part.keys.get_mut(index) {
            *key = u32_at(bytes, FIRST_KEY + 4 * index);
        }
    }
    Ok(part)
}

fn payload(bytes: &[u8]) -> Result<Payload, Malformed> {
    let mut payload = Payload {
        length: u32_at(bytes, BODY),
        imm: u32_at(bytes, BODY + 4),
        bytes: [0; SEND_BYTES],
    };
    let length = payload.length as usize;
    let sent = bytes.iter().skip(BODY + 8).take(length);
    if length > SEND_BYTES {
        return Err(Malformed::Field);
    }
    for (to, from) in payload.bytes.iter_mut().zip(sent) {
        *to = *from;
    }
    Ok(payload)
}

fn put(out: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in out.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

fn byte_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([byte_at(bytes, at), byte_at(bytes, at + 1)])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | (u32::from(u16_at(bytes, at + 2)) << 16)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | (u64::from(u32_at(bytes, at + 4)) << 32)
}
