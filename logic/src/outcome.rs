// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Why an endpoint went down, and in which terminal state that leaves an operation.

/// The first cause of an endpoint's end. It never changes once set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// Its owner destroyed it or closed the file.
    Local,
    /// The peer closed the connection or died.
    Peer,
    /// The RDMA device went away.
    Device,
    /// The peer broke the protocol.
    Protocol,
    /// The provider gave up on a transfer after its retries.
    Unreachable,
    /// A transfer failed for another reason.
    Transfer,
    /// Its owner canceled an operation that the provider had.
    Canceled,
    /// An operation's time limit passed while the provider had it.
    Expired,
    /// The peer's process died, as its kernel reported.
    Died,
    /// Memory was revoked, and the provider did not give it back.
    Revoked,
    /// This side had no memory for what the peer sent.
    NoMemory,
}

/// A terminal state of the user-space interface and the errno that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One of the interface's `STATE_*`.
    pub state: State,
    /// Positive errno, 0 for success.
    pub errno: i32,
}

/// Terminal states, as numbered in the user-space interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Done.
    Ok = 1,
    /// Failed.
    Error = 2,
    /// Its time limit passed.
    Timeout = 3,
    /// Canceled by its owner.
    Canceled = 4,
    /// The grant or the memory was revoked.
    Revoked = 5,
    /// The peer or the connection died.
    PeerDead = 6,
}

/// The errno values that this module uses (asm-generic numbering).
pub mod errno {
    #![allow(missing_docs)] // Reason: the names are the documentation.
    pub const EIO: i32 = 5;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const ENODEV: i32 = 19;
    pub const EPROTO: i32 = 71;
    pub const ECONNRESET: i32 = 104;
    pub const ETIMEDOUT: i32 = 110;
    pub const ESTALE: i32 = 116;
    pub const ECANCELED: i32 = 125;
    pub const EOWNERDEAD: i32 = 130;
}

/// What a work completion says, as far as the outcome depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The provider carried it out.
    Success,
    /// The queue pair was in error before the provider came to it.
    Flushed,
    /// The peer's memory refused the access.
    RemoteAccess,
    /// No answer after all retries.
    RetryExceeded,
    /// Any other failure.
    Failed,
}

impl Down {
    /// The outcome of operations that this end cuts off.
    pub fn outcome(self) -> Outcome {
        let (state, errno) = match self {
            Down::Local => (State::Canceled, errno::ECANCELED),
            Down::Peer => (State::PeerDead, errno::ECONNRESET),
            Down::Device => (State::PeerDead, errno::ENODEV),
            Down::Protocol => (State::Error, errno::EPROTO),
            Down::Unreachable => (State::PeerDead, errno::ETIMEDOUT),
            Down::Transfer => (State::Error, errno::EIO),
            Down::NoMemory => (State::Error, errno::ENOMEM),
            Down::Canceled | Down::Expired => (State::Canceled, errno::ECANCELED),
            Down::Died => (State::PeerDead, errno::EOWNERDEAD),
            Down::Revoked => (State::Canceled, errno::ESTALE),
        };
        Outcome { state, errno }
    }

    /// What an endpoint's query reports: 0 is never returned.
    pub fn errno(self) -> i32 {
        match self {
            Down::Local => errno::ECANCELED,
            other => other.outcome().errno,
        }
    }
}

impl Completion {
    /// The outcome of an operation whose work request completed like this. `down` is the endpoint's cause, when it has
    /// one; `revoked` is set when the peer took the grant back.
    pub fn outcome(self, down: Option<Down>, revoked: bool) -> Outcome {
        match self {
            Completion::Success => Outcome {
                state: State::Ok,
                errno: 0,
            },
            Completion::RemoteAccess | Completion::Flushed if revoked => Outcome {
                state: State::Revoked,
                errno: errno::EACCES,
            },
            Completion::Flushed => down.unwrap_or(Down::Transfer).outcome(),
            Completion::RemoteAccess => Outcome {
                state: State::Error,
                errno: errno::EACCES,
            },
            Completion::RetryExceeded => Down::Unreachable.outcome(),
            Completion::Failed => Down::Transfer.outcome(),
        }
    }

    /// The endpoint's cause that follows from this completion, when it is the first failure.
    pub fn cause(self) -> Option<Down> {
        match self {
            Completion::Success => None,
            // A flush says that something else came first; the connection manager will report that.
            Completion::Flushed => None,
            Completion::RetryExceeded => Some(Down::Unreachable),
            Completion::RemoteAccess | Completion::Failed => Some(Down::Transfer),
        }
    }
}
