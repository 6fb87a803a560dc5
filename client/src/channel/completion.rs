// SPDX-License-Identifier: MIT OR Apache-2.0

//! What became of an operation.

use std::fmt;
use std::time::Duration;

use dmaplane_uapi as abi;
use rustix::io::Errno;

use crate::error::errno_name;

/// The terminal state of an operation. There is exactly one, and no DMA follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Done.
    Ok,
    /// Failed, or the entry was refused.
    Error,
    /// Its time limit passed.
    Timeout,
    /// Canceled by the user or by the end of its object.
    Canceled,
    /// The grant or the memory was revoked.
    Revoked,
    /// The peer or the connection died.
    PeerDead,
    /// A state that this library does not know.
    Unknown(u8),
}

impl From<u8> for State {
    fn from(raw: u8) -> Self {
        match raw {
            abi::STATE_OK => Self::Ok,
            abi::STATE_ERROR => Self::Error,
            abi::STATE_TIMEOUT => Self::Timeout,
            abi::STATE_CANCELED => Self::Canceled,
            abi::STATE_REVOKED => Self::Revoked,
            abi::STATE_PEER_DEAD => Self::PeerDead,
            other => Self::Unknown(other),
        }
    }
}

/// Which member of an entry was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// None: the operation itself failed.
    None,
    /// The operation's number.
    Op,
    /// The flags.
    Flags,
    /// A reserved member, or one that the operation does not use.
    Reserved,
    /// The endpoint.
    Endpoint,
    /// The buffer.
    Buffer,
    /// The grant.
    Grant,
    /// The offset in the buffer, alone or with the length.
    Offset,
    /// The offset in the grant, alone or with the length.
    RemoteOffset,
    /// The length.
    Length,
    /// The immediate.
    Imm,
    /// The time limit.
    Timeout,
    /// A member that this library does not know.
    Unknown(u16),
}

impl From<u16> for Field {
    fn from(raw: u16) -> Self {
        match raw {
            abi::FIELD_NONE => Self::None,
            abi::FIELD_OP => Self::Op,
            abi::FIELD_FLAGS => Self::Flags,
            abi::FIELD_RESERVED => Self::Reserved,
            abi::FIELD_ENDPOINT => Self::Endpoint,
            abi::FIELD_BUFFER => Self::Buffer,
            abi::FIELD_GRANT => Self::Grant,
            abi::FIELD_OFFSET => Self::Offset,
            abi::FIELD_REMOTE_OFFSET => Self::RemoteOffset,
            abi::FIELD_LENGTH => Self::Length,
            abi::FIELD_IMM => Self::Imm,
            abi::FIELD_TIMEOUT => Self::Timeout,
            other => Self::Unknown(other),
        }
    }
}

/// The one completion of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion(abi::Cqe);

impl Completion {
    /// A completion as the interface has it.
    #[inline]
    pub fn from_raw(cqe: abi::Cqe) -> Self {
        Self(cqe)
    }

    /// The completion as the interface has it.
    pub fn raw(&self) -> &abi::Cqe {
        &self.0
    }

    /// The number that the entry carried.
    pub fn user_data(&self) -> u64 {
        self.0.user_data
    }

    /// The trace id that the entry carried.
    pub fn trace_id(&self) -> u64 {
        self.0.trace_id
    }

    /// `OP_*` of the entry.
    pub fn op(&self) -> u8 {
        self.0.op
    }

    /// How it ended.
    #[inline]
    pub fn state(&self) -> State {
        self.0.state.into()
    }

    /// Whether it ended well.
    #[inline]
    pub fn is_ok(&self) -> bool {
        self.state() == State::Ok
    }

    /// The immediate that a receive got.
    pub fn imm(&self) -> u32 {
        self.0.imm
    }

    /// Bytes transferred.
    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// The driver's name of the endpoint.
    pub fn endpoint(&self) -> u32 {
        self.0.endpoint
    }

    /// From acceptance to completion.
    pub fn latency(&self) -> Duration {
        Duration::from_nanos(self.0.latency_ns)
    }

    /// Bytes transferred, or why not.
    ///
    /// # Errors
    /// [`OpError`] for every state but [`State::Ok`].
    pub fn result(&self) -> Result<u64, OpError> {
        match self.state() {
            State::Ok => Ok(self.0.length),
            state => Err(OpError {
                state,
                errno: self.0.error,
                field: self.0.field.into(),
                provider_status: self.0.provider_status,
                user_data: self.0.user_data,
            }),
        }
    }
}

/// Why an operation did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpError {
    state: State,
    errno: i32,
    field: Field,
    provider_status: u32,
    user_data: u64,
}

impl OpError {
    /// How it ended.
    pub fn state(&self) -> State {
        self.state
    }

    /// The errno by cause.
    pub fn errno(&self) -> Errno {
        Errno::from_raw_os_error(self.errno)
    }

    /// Which member of the entry was refused.
    pub fn field(&self) -> Field {
        self.field
    }

    /// The RDMA provider's work-completion status, 0 when none was involved.
    pub fn provider_status(&self) -> u32 {
        self.provider_status
    }

    fn cause(&self) -> &'static str {
        match (self.field, self.state) {
            (Field::Op, _) => "the driver does not know the operation",
            (Field::Flags, _) => "the driver does not know the flags",
            (Field::Reserved, _) => "a member that the operation does not use is not 0",
            (Field::Endpoint, _) => "there is no such endpoint, or it is not connected",
            (Field::Buffer, _) => "there is no such buffer",
            (Field::Grant, _) => "there is no such grant on this endpoint, or its rights do not do",
            (Field::Offset, _) => "the range is not inside the buffer",
            (Field::RemoteOffset, _) => "the range is not inside the grant",
            (Field::Length, _) => "the length is 0 or beyond the driver's limit",
            (_, State::Timeout) => "the time limit passed",
            (_, State::Canceled) => "it was canceled, or its endpoint was closed",
            (_, State::Revoked) => "the peer revoked the grant, or the memory was revoked",
            (_, State::PeerDead) => "the peer or the connection died",
            _ => "the transfer failed",
        }
    }

    fn remedy(&self) -> &'static str {
        match (self.field, self.state) {
            (Field::Op | Field::Flags, _) => "load the driver of this library's release",
            (Field::Reserved, _) => "use the constructors of Entry",
            (Field::Endpoint | Field::Buffer | Field::Grant, _) => {
                "keep the object alive until the entry is submitted"
            }
            (Field::Offset | Field::RemoteOffset, _) => "compare it with the length of both",
            (Field::Length, _) => "cut it into pieces of at most `max_op_bytes`",
            (_, State::Timeout) => "check the peer, or wait longer",
            (_, State::Canceled) => "submit it again if it is still wanted",
            (_, State::Revoked) => "wait for a new grant of the peer",
            (_, State::PeerDead) => "ask the endpoint why, and connect again",
            _ => "look the provider's status up (ib_wc_status), and connect again",
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "operation {}: {} ({:?}",
            self.user_data,
            self.cause(),
            self.state
        )?;
        if self.errno != 0 {
            write!(f, ", {}", errno_name(self.errno()))?;
        }
        if self.provider_status != 0 {
            write!(f, ", provider status {}", self.provider_status)?;
        }
        write!(f, "). To go on, {}", self.remedy())
    }
}

impl std::error::Error for OpError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ok_completion_gives_its_bytes() {
        let cqe = abi::Cqe {
            state: abi::STATE_OK,
            length: 4096,
            ..Default::default()
        };
        assert_eq!(Completion::from_raw(cqe).result(), Ok(4096));
    }

    #[test]
    fn a_refused_entry_names_the_member() {
        let cqe = abi::Cqe {
            user_data: 7,
            state: abi::STATE_ERROR,
            field: abi::FIELD_REMOTE_OFFSET,
            error: Errno::RANGE.raw_os_error(),
            ..Default::default()
        };
        let error = Completion::from_raw(cqe).result().expect_err("refused");
        assert_eq!(error.field(), Field::RemoteOffset);
        assert_eq!(error.errno(), Errno::RANGE);
        assert_eq!(
            error.to_string(),
            "operation 7: the range is not inside the grant (Error, ERANGE). To go on, compare it \
             with the length of both"
        );
    }

    #[test]
    fn a_state_of_a_later_driver_is_an_error() {
        let cqe = abi::Cqe {
            state: 99,
            ..Default::default()
        };
        let error = Completion::from_raw(cqe).result().expect_err("not OK");
        assert_eq!(error.state(), State::Unknown(99));
    }

    #[test]
    fn state_zero_is_never_ok() {
        assert!(!Completion::from_raw(abi::Cqe::default()).is_ok());
    }
}
