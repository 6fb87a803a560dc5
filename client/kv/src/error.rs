// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be wrong with a KV cache, a manifest, a chunk or a file.

use std::path::PathBuf;

use crate::atomic_file::WriteError;

/// The result of an operation on a KV cache.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a KV cache, or something said about it by a peer, was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The manifest is not JSON of the expected form.
    #[error("the manifest cannot be read: {0}")]
    ManifestSyntax(serde_json::Error),
    /// The manifest is larger than any valid one.
    #[error("the manifest is {bytes} bytes long, at most {limit} are accepted")]
    ManifestTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The manifest was written by another version of this format.
    #[error(
        "the manifest has version {found}, this program reads version {expected}; use the same release on both sides"
    )]
    ManifestVersion {
        /// The version found.
        found: u32,
        /// The only version understood.
        expected: u32,
    },
    /// The manifest contradicts itself or exceeds a limit.
    #[error("the manifest is not valid: {0}")]
    ManifestInvalid(String),
    /// An immediate is a reserved value that names nothing.
    #[error("immediate {0:#010x} is a reserved value without a meaning")]
    ImmediateReserved(u32),
    /// A layer or chunk number that does not fit into an immediate.
    #[error(
        "layer {layer}, chunk {chunk} cannot be named by an immediate (limits: layer 4094, chunk 1048575)"
    )]
    ImmediateRange {
        /// The layer asked for.
        layer: u32,
        /// The chunk asked for.
        chunk: u32,
    },
    /// An immediate names a chunk that the plan does not have.
    #[error("the peer wrote layer {layer}, chunk {chunk}, which the manifest does not have")]
    UnknownChunk {
        /// The layer named.
        layer: u32,
        /// The chunk named.
        chunk: u32,
    },
    /// The same chunk was announced twice.
    #[error("the peer wrote layer {layer}, chunk {chunk} twice")]
    DuplicateChunk {
        /// The layer named.
        layer: u32,
        /// The chunk named.
        chunk: u32,
    },
    /// A chunk arrived with another length than planned.
    #[error("layer {layer}, chunk {chunk} arrived with {found} bytes instead of {expected}")]
    ChunkLength {
        /// The layer named.
        layer: u32,
        /// The chunk named.
        chunk: u32,
        /// Bytes received.
        found: u64,
        /// Bytes planned.
        expected: u64,
    },
    /// A control message where a chunk was expected, or the other way round.
    #[error("expected {expected}, but the peer sent {found:?}")]
    UnexpectedImmediate {
        /// What the protocol allows at this point.
        expected: &'static str,
        /// What came.
        found: super::Imm,
    },
    /// Received bytes differ from the sender's.
    #[error("{what} is not what the sender has: digest {found}, expected {expected}")]
    DigestMismatch {
        /// Which part: `layer 3` or `the whole cache`.
        what: String,
        /// The digest of the bytes at hand.
        found: super::Digest,
        /// The digest in the manifest.
        expected: super::Digest,
    },
    /// A view's shape, strides and bytes do not fit together.
    #[error("not a tensor: {0}")]
    View(String),
    /// A file that is not a KV cache.
    #[error("{} is not a KV cache file: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The operating system refused an operation on a file.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the operating system said.
        cause: std::io::Error,
    },
}

impl From<WriteError> for Error {
    fn from(error: WriteError) -> Self {
        let WriteError {
            action,
            path,
            cause,
        } = error;
        Self::Io {
            action,
            path,
            cause,
        }
    }
}
