// SPDX-License-Identifier: MIT OR Apache-2.0

//! The messages between test and peer.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::gauges::Gauges;
use crate::processors::Processors;
use crate::transfer::{Received, Tally, Written};

/// Number of an object in the peer's process, given by the peer.
pub type Id = u32;

/// A line from the test.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// Comes back in the answer.
    pub number: u64,
    /// What to do.
    pub request: Request,
}

/// A line from the peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Of the call.
    pub number: u64,
    /// What came of it.
    pub result: Result<Reply, Failure>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the peer: {text}")]
pub struct Failure {
    /// The driver's errno, where there was one.
    pub errno: Option<i32>,
    /// In words.
    pub text: String,
}

/// What the peer shall do. Time limits are milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Open the driver. Answer: [`Reply::Hello`].
    Open,
    /// Give the channels of streams polling threads from now on. Answer: [`Reply::Done`].
    Polling,
    /// Listen. Answer: [`Reply::Listening`].
    Listen {
        /// Address; port 0 takes a free one.
        address: SocketAddr,
        /// Connections that may wait.
        backlog: u32,
    },
    /// Accept a connection. Answer: [`Reply::Id`].
    Accept {
        /// The listener.
        listener: Id,
        /// Receives that the endpoint can hold.
        recv_depth: u32,
        /// Time limit.
        limit_ms: u64,
    },
    /// Connect. Answer: [`Reply::Id`].
    Connect {
        /// The listener's address.
        address: SocketAddr,
        /// Receives that the endpoint can hold.
        recv_depth: u32,
        /// Time limit.
        limit_ms: u64,
    },
    /// Create a buffer. Answer: [`Reply::Id`].
    CreateBuffer {
        /// Bytes.
        bytes: u64,
    },
    /// Create many buffers of a page and many channels, which live as long as the process. Answer: [`Reply::Done`].
    CreateMany {
        /// How many buffers.
        buffers: u32,
        /// How many channels.
        channels: u32,
    },
    /// Fill a buffer's range with the pattern, from position 0. Answer: [`Reply::Done`].
    Fill {
        /// The buffer.
        buffer: Id,
        /// Start of the range.
        offset: u64,
        /// Bytes of the range.
        length: u64,
        /// Seed of the pattern.
        seed: u64,
    },
    /// Compare a buffer's range with the pattern, from position 0. Answer: [`Reply::Mismatch`].
    Verify {
        /// The buffer.
        buffer: Id,
        /// Start of the range.
        offset: u64,
        /// Bytes of the range.
        length: u64,
        /// Seed of the pattern.
        seed: u64,
    },
    /// Make a dma-buf of a buffer, and keep its descriptor open. Answer: [`Reply::Exported`].
    Export {
        /// The buffer.
        buffer: Id,
    },
    /// Take a buffer's memory away from everybody. Answer: [`Reply::Done`].
    Revoke {
        /// The buffer.
        buffer: Id,
    },
    /// Add a buffer's bytes up (FNV-1a). Answer: [`Reply::Checksum`].
    Checksum {
        /// The buffer.
        buffer: Id,
    },
    /// Grant access. Answer: [`Reply::Id`].
    Grant {
        /// To whose peer.
        endpoint: Id,
        /// The buffer.
        buffer: Id,
        /// Start of the range.
        offset: u64,
        /// Bytes of the range.
        length: u64,
        /// `RIGHT_*` bits.
        rights: u32,
        /// Label.
        label: u64,
        /// Time limit.
        limit_ms: u64,
    },
    /// Take the next grant. Answer: [`Reply::Granted`].
    WaitGrant {
        /// From whose peer.
        endpoint: Id,
        /// Time limit.
        limit_ms: u64,
    },
    /// Post receives on a channel that lives as long as the process. Answer: [`Reply::Done`].
    PostReceives {
        /// The endpoint.
        endpoint: Id,
        /// How many.
        count: u32,
    },
    /// Post receives on that channel that take what a SEND brings. Answer: [`Reply::Done`].
    PostReceivesInto {
        /// The endpoint.
        endpoint: Id,
        /// Where the first takes it to the start, the next one behind that, and so on.
        buffer: Id,
        /// How many.
        count: u32,
        /// Bytes that each takes.
        bytes: u32,
    },
    /// Submit a READ of all of a grant on that channel, without waiting for its end. Answer: [`Reply::Done`].
    BeginRead {
        /// The local side.
        buffer: Id,
        /// The other side.
        grant: Id,
        /// Bytes of it.
        bytes: u32,
    },
    /// Wait for completions of that channel. Answer: [`Reply::Received`].
    WaitReceives {
        /// How many.
        count: u32,
        /// Time limit.
        limit_ms: u64,
    },
    /// Run a stream of writes. Answer: [`Reply::Sent`].
    Send {
        /// The local side.
        buffer: Id,
        /// The other side.
        grant: Id,
        /// Bytes in all.
        length: u64,
        /// Bytes of a chunk.
        chunk: u32,
        /// Seed of the chunks' order.
        order_seed: u64,
        /// Whether chunks carry their number as an immediate.
        immediates: bool,
        /// How many times the whole is sent.
        rounds: u64,
        /// Operations in flight at most; a power of two.
        depth: u32,
        /// Time limit.
        limit_ms: u64,
    },
    /// Run a stream of receives. Answer: [`Reply::Received`].
    Receive {
        /// The endpoint.
        endpoint: Id,
        /// Immediates in all.
        count: u64,
        /// Receives that are kept posted; a power of two.
        depth: u32,
        /// Time limit.
        limit_ms: u64,
    },
    /// Write through each grant of the other side until it is taken back, and so on until one with the label
    /// [`STOP`](crate::transfer::STOP). Answer: [`Reply::Written`].
    WriteLoop {
        /// Whose grants.
        endpoint: Id,
        /// The local side.
        buffer: Id,
        /// Bytes of an operation.
        chunk: u32,
        /// Operations in flight at most; a power of two.
        depth: u32,
        /// Time limit of each grant.
        limit_ms: u64,
    },
    /// Ask for an endpoint's state. Answer: [`Reply::Endpoint`].
    Query {
        /// The endpoint.
        endpoint: Id,
    },
    /// Destroy an object of any kind. Answer: [`Reply::Done`].
    Close {
        /// The object.
        id: Id,
    },
    /// Record all of the driver's events from now on. Answer: [`Reply::Done`].
    Record,
    /// End that. Answer: [`Reply::Text`].
    Recorded,
    /// Read the gauges of the peer's machine. Answer: [`Reply::Gauges`].
    Gauges,
    /// Read what the processors of the peer's machine did. Answer: [`Reply::Processors`].
    Processors,
    /// Delete (or make again) the RDMA link of the peer's namespace. Answer: [`Reply::Done`].
    RdmaLink {
        /// Whether the link shall be there.
        present: bool,
    },
    /// How many completions the running stream has seen, answered at once. Answer:
    /// [`Reply::Progress`].
    Progress,
    /// Die of SIGKILL, at once. No answer.
    Kill,
}

/// What the peer answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done, without a result.
    Done,
    /// The driver is open.
    Hello {
        /// Process id on the peer's machine.
        pid: u32,
    },
    /// A new object.
    Id(Id),
    /// A new listener.
    Listening {
        /// The object.
        id: Id,
        /// The bound address.
        address: SocketAddr,
    },
    /// The other side's grant.
    Granted {
        /// The object.
        id: Id,
        /// Bytes of the range.
        length: u64,
        /// Label.
        label: u64,
    },
    /// Offset of the first wrong byte, if there is one.
    Mismatch(Option<u64>),
    /// A dma-buf.
    Exported {
        /// Process id on the peer's machine.
        pid: u32,
        /// File descriptor there.
        fd: i32,
    },
    /// The sum.
    Checksum(u64),
    /// How a stream of writes ended.
    Sent(Tally),
    /// How a stream of receives ended.
    Received(Received),
    /// How the writing through grants ended.
    Written(Written),
    /// An endpoint's state.
    Endpoint {
        /// Whether it is connected.
        up: bool,
        /// Why not, as an errno.
        error: i32,
        /// WRITE_IMM operations that the other side allows now.
        send_credits: u32,
        /// Receives posted.
        recv_posted: u32,
        /// Operations in flight.
        in_flight: u32,
    },
    /// The gauges.
    Gauges(Gauges),
    /// The processors.
    Processors(Processors),
    /// Completions so far.
    Progress(u64),
    /// What was recorded, as tracefs shows it.
    Text(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_the_round_trip() {
        let request = Request::Connect {
            address: SocketAddr::from(([10, 77, 0, 2], 7471)),
            recv_depth: 8,
            limit_ms: 1000,
        };
        let line = serde_json::to_string(&Call {
            number: 3,
            request: request.clone(),
        });
        let line = line.expect("JSON");
        assert!(!line.contains('\n'));
        let call: Call = serde_json::from_str(&line).expect("a call");
        assert_eq!((call.number, call.request), (3, request));

        let failure = Failure {
            errno: Some(111),
            text: "refused".to_owned(),
        };
        let answer = Answer {
            number: 3,
            result: Err(failure.clone()),
        };
        let line = serde_json::to_string(&answer).expect("JSON");
        let answer: Answer = serde_json::from_str(&line).expect("an answer");
        assert_eq!(answer.result, Err(failure));
    }
}
