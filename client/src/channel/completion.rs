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

    /// The cause, and what to do about it.
    fn explain(&self) -> (&'static str, &'static str) {
        match (self.field, self.state) {
            (Field::Op, _) => (
                "the driver does not know the operation",
                "load the driver of this library's release",
            ),
            (Field::Flags, _) => (
                "the driver does not know the flags",
                "load the driver of this library's release",
            ),
            (Field::Reserved, _) => (
                "a member that the operation does not use is not 0",
                "use the constructors of Entry",
            ),
            (Field::Endpoint, _) => (
                "there is no such endpoint, or it is not connected",
                "keep it alive until the entry is submitted",
            ),
            (Field::Buffer, _) => (
                "there is no such buffer, or it cannot be used so",
                "keep it alive until the entry is submitted, and compare what it is with what the \
                 operation takes",
            ),
            (Field::Grant, _) => (
                "there is no such grant on this endpoint or no such target buffer, or it lacks the \
                 rights",
                "keep it alive until the entry is submitted, and ask the peer for the rights",
            ),
            (Field::Offset, _) => (
                "the range is not inside the buffer",
                "compare it with the length of both",
            ),
            (Field::RemoteOffset, _) => (
                "the range is not inside the grant",
                "compare it with the length of both",
            ),
            (Field::Length, _) => (
                "the length is 0 or beyond the driver's limit",
                "cut it into pieces of at most `max_op_bytes`, of `max_send_bytes` for a SEND",
            ),
            (Field::Imm, _) => (
                "the immediate has bits outside of the mask",
                "clear these bits, or add them to the mask",
            ),
            (Field::Timeout, _) => (
                "the time limit is more than a day, or the operation takes none",
                "give at most a day, or no time limit",
            ),
            (_, State::Timeout) => ("the time limit passed", "check the peer, or wait longer"),
            (_, State::Canceled) => (
                "it was canceled, or its endpoint was closed",
                "submit it again if it is still wanted",
            ),
            (_, State::Revoked) => (
                "the peer revoked the grant, or the memory was revoked",
                "wait for a new grant of the peer",
            ),
            (_, State::PeerDead) => (
                "the peer or the connection died",
                "ask the endpoint why, and connect again",
            ),
            _ => self.explain_errno(),
        }
    }

    /// The same of an entry that was accepted and failed.
    fn explain_errno(&self) -> (&'static str, &'static str) {
        // Other numbers are no errnos.
        let errno = (1..4096).contains(&self.errno).then(|| self.errno());
        match errno {
            Some(Errno::NOBUFS) => (
                "as many operations wait as the endpoint can hold",
                "take completions, then submit it again",
            ),
            Some(Errno::DQUOT) => (
                "the quota of the RDMA device's own memory is used up",
                "drop grants or endpoints, or have the module's `max_provider_mib` raised",
            ),
            Some(Errno::NOENT) => (
                "there was nothing to cancel",
                "look for the completion of the operation: it may have ended before",
            ),
            Some(Errno::BUSY) => (
                "the provider has the operation",
                "wait for its completion, or cancel it without `queued_only`, which ends the \
                 endpoint",
            ),
            Some(Errno::MSGSIZE) => (
                "the message does not fit the receive",
                "post receives with room for the peer's messages; this one is lost",
            ),
            Some(Errno::NOMEM) => (
                "there is no memory left for it",
                "free memory, or submit fewer at a time",
            ),
            Some(Errno::TIMEDOUT) => (
                "other devices have work on the imported memory that does not end",
                "wait for that work, then submit it again",
            ),
            Some(Errno::ACCESS) => (
                "the peer's device refused the access",
                "wait for a new grant of the peer, and connect again",
            ),
            Some(Errno::PROTO) => (
                "the peer broke the protocol",
                "run drivers of one release on both sides, and connect again",
            ),
            _ => (
                "the transfer failed",
                "look the provider's status up (ib_wc_status), and connect again",
            ),
        }
    }
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cause, remedy) = self.explain();
        write!(f, "operation {}: {cause} ({:?}", self.user_data, self.state)?;
        if self.errno != 0 {
            write!(f, ", {}", errno_name(self.errno()))?;
        }
        if self.provider_status != 0 {
            write!(f, ", provider status {}", self.provider_status)?;
        }
        write!(f, "). To go on, {remedy}")
    }
}

impl std::error::Error for OpError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
    fn each_reason_has_its_own_cause_and_remedy() {
        let refused = [
            abi::FIELD_BUFFER,
            abi::FIELD_GRANT,
            abi::FIELD_IMM,
            abi::FIELD_TIMEOUT,
        ];
        let failed = [
            Errno::NOBUFS,
            Errno::DQUOT,
            Errno::NOENT,
            Errno::BUSY,
            Errno::MSGSIZE,
            Errno::NOMEM,
            Errno::TIMEDOUT,
            Errno::ACCESS,
            Errno::PROTO,
        ];
        let refused = refused.into_iter().map(|field| (field, Errno::INVAL));
        let failed = failed.into_iter().map(|errno| (abi::FIELD_NONE, errno));
        let (mut causes, mut remedies) = (BTreeSet::new(), BTreeSet::new());
        for (field, errno) in refused.chain(failed) {
            let cqe = abi::Cqe {
                state: abi::STATE_ERROR,
                field,
                error: errno.raw_os_error(),
                ..Default::default()
            };
            let error = Completion::from_raw(cqe).result().expect_err("failed");
            let (cause, remedy) = error.explain();
            assert!(!remedy.contains("provider's status"), "{error}");
            assert!(causes.insert(cause), "{error}");
            assert!(remedies.insert(remedy), "{error}");
        }
    }

    #[test]
    fn a_failed_transfer_refers_to_the_providers_status() {
        for errno in [Errno::IO.raw_os_error(), 0] {
            let cqe = abi::Cqe {
                state: abi::STATE_ERROR,
                error: errno,
                ..Default::default()
            };
            let error = Completion::from_raw(cqe).result().expect_err("failed");
            assert!(error.to_string().contains("the transfer failed"), "{error}");
            assert!(error.to_string().contains("ib_wc_status"), "{error}");
        }
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
