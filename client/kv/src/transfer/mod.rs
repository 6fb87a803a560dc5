// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sending and receiving a KV cache through the driver.
//!
//! ```text
//!       sender                                        receiver
//!         | ---------------- connect ------------------> |
//!         | ---- grant VERDICT        grant CONTROL ---- |
//!         | -- WRITE_IMM manifest -> CONTROL ----------> | validate, create the buffer
//!         |                           grant DATA ------- | with as many receives as allowed
//!         | -- WRITE_IMM layer 0, chunk 0 -> DATA -----> |
//!         | -- WRITE_IMM ... any order, many in flight > | verify each layer when complete
//!         | -- WRITE_IMM end -> CONTROL ---------------> | end the grants, freeze the buffer, keep the cache
//!         | <------------- VERDICT <- WRITE_IMM verdict  |
//! ```
//!
//! While the receiver works, it also writes a keepalive to VERDICT every fifth of a second, so that a busy receiver
//! does not seem silent. So a sender waits as long as the receiver lives and its host answers; what the receiver waits
//! for has its own limit. The verdict comes after the bytes are where they are to be kept.
//!
//! Each receive that the receiver posts is one credit; the sender's kernel never writes without
//! one. Whatever the receiver finds wrong reaches the sender as the verdict's text. Every wait has
//! a limit: [`Limits::idle`] without any progress ends a transfer with [`TransferError::Stalled`].

mod location;
mod message;
mod options;
mod receive;
mod reporter;
mod send;

pub use location::{MemoryLocation, MemoryLocationError};
pub use message::{End, Verdict};
pub use options::{Limits, Order, ReceiveOptions, SendOptions, Stats};
pub use receive::{Received, accept, receive, receive_and_keep};
pub use send::{Source, connect, send};

use std::time::{Duration, Instant};

use dmaplane::{Channel, Completion, Endpoint, OpError, QueueFull, RemoteGrant};

/// Label of the grant to which manifest and end are written: `MANIFEST` in ASCII.
pub const LABEL_CONTROL: u64 = u64::from_be_bytes(*b"MANIFEST");
/// Label of the grant to which the cache is written.
pub const LABEL_DATA: u64 = u64::from_be_bytes(*b"KV-CACHE");
/// Label of the grant to which the receiver writes its verdict.
pub const LABEL_VERDICT: u64 = u64::from_be_bytes(*b"VERDICT ");

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The cache, or something that the peer said about it, is wrong.
    #[error(transparent)]
    Kv(#[from] super::Error),
    /// The driver refused a call, or a wait passed its limit.
    #[error(transparent)]
    Driver(#[from] dmaplane::Error),
    /// An operation failed.
    #[error("{doing}: {cause}")]
    Operation {
        /// What the operation was for.
        doing: String,
        /// How it ended.
        cause: OpError,
    },
    /// Nothing moved for too long.
    #[error("{doing}: nothing happened for {} s. Check that the peer still runs and its network", limit.as_secs())]
    Stalled {
        /// What was waited for, and how far it had come.
        doing: String,
        /// The limit that passed.
        limit: Duration,
    },
    /// The peer does not speak this protocol.
    #[error("the peer does not follow the protocol: {0}. Run the same release on both sides")]
    Protocol(String),
    /// The cache is here, verified and kept, but the sender does not know.
    #[error("the cache was received, verified and kept, but the sender could not be notified: {0}")]
    Unconfirmed(Box<Self>),
    /// The peer that connected announced no valid cache: nothing has been received, and another one may connect.
    #[error("it has announced no cache: {0}")]
    NotASender(Box<Self>),
    /// The receiver did not accept the cache.
    #[error("the receiver refused the cache: {0}")]
    Refused(String),
    /// The transfer needs more than the driver or the system can do.
    #[error("{0}")]
    Limit(String),
}

impl TransferError {
    /// Whether the connection ended, so that the peer may have said why before.
    fn is_disconnect(&self) -> bool {
        use dmaplane::{Errno, State};
        match self {
            Self::Driver(error) => error.errno() == Some(Errno::NOTCONN),
            Self::Operation { cause, .. } => {
                matches!(
                    cause.state(),
                    State::PeerDead | State::Revoked | State::Canceled
                )
            }
            Self::NotASender(cause) => cause.is_disconnect(),
            _ => false,
        }
    }
}

/// Waits until the channel has a completion. What was pushed before is submitted.
fn wait(channel: &mut Channel, idle: Duration, doing: impl Fn() -> String) -> Done<Completion> {
    let deadline = Instant::now().checked_add(idle);
    loop {
        if let Some(completion) = channel.next_completion() {
            return Ok(completion);
        }
        let left = match deadline {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => Duration::MAX,
        };
        // A signal also ends the wait, so the time decides.
        let submitted = channel.submit_and_wait(1, left)?;
        if submitted.available == 0 && left.is_zero() {
            return Err(TransferError::Stalled {
                doing: doing(),
                limit: idle,
            });
        }
    }
}

/// Takes the next grant and checks that it is the expected one and large enough.
fn wait_grant(endpoint: &Endpoint, label: u64, bytes: u64, limit: Duration) -> Done<RemoteGrant> {
    let deadline = Instant::now().checked_add(limit);
    let grant = loop {
        let left = deadline.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
        match endpoint.wait_grant(left) {
            Err(error) if error.is_interrupted() => {}
            other => break other?,
        }
    };
    if grant.label() != label || grant.length() < bytes {
        return Err(TransferError::Protocol(format!(
            "a grant `{}` of {} bytes where `{}` of {bytes} was expected",
            name(grant.label()),
            grant.length(),
            name(label),
        )));
    }
    Ok(grant)
}

fn name(label: u64) -> String {
    label.to_be_bytes().escape_ascii().to_string()
}

/// The places of a ring for this many operations at once.
fn ring_entries(operations: u32, context: &dmaplane::Context) -> Done<u32> {
    let most = context.limits().max_ring_entries;
    match operations.checked_next_power_of_two() {
        Some(entries) if entries <= most => Ok(entries),
        _ => Err(TransferError::Limit(format!(
            "{operations} operations in flight are too many: the driver's rings have at most \
             {most} places. Choose a smaller depth"
        ))),
    }
}

/// A ring that was sized for everything pushed to it can only be full by a mistake of ours.
fn full(_: QueueFull) -> TransferError {
    TransferError::Limit("the submission ring is full although it was sized for the depth".into())
}

type Done<T> = Result<T, TransferError>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_read_well_in_messages() {
        assert_eq!(name(LABEL_CONTROL), "MANIFEST");
        assert_eq!(name(1), "\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x01");
    }
}
