// SPDX-License-Identifier: MIT OR Apache-2.0

//! Moving the key/value cache of a language model between two machines.
//!
//! A KV cache is two tensors (K and V, or one latent tensor) for each layer of a transformer, produced by *prefill* and
//! continued by *decode*. This library describes such a cache, cuts it into chunks that are written
//! by RDMA WRITE WITH IMMEDIATE, follows their arrival in any order, and gives the received bytes
//! back as strided tensors without copying them.
//!
//! Everything except the transfer itself is plain data handling and needs no device:
//!
//! | module | concept |
//! |---|---|
//! | [`manifest`] | what is moved: geometry, regions, digests; validated as hostile input |
//! | [`auxiliary`] | tensors beside those of the layers, such as scales |
//! | [`imm`] | the 32-bit immediate: layer and chunk, or a control message |
//! | [`plan`] | how layers are cut into chunks |
//! | [`tracker`] | which chunks have arrived, and which layers are complete |
//! | [`view`] | a received tensor: dtype, shape, strides, borrowed bytes |
//! | [`mod@file`] | a cache on disk, as a safetensors file |
//! | [`sample`] | a cache that belongs to no model, to try a transfer with |
//! | [`transfer`] | sending and receiving through the driver |
//! | [`atomic_file`] | files that appear as a whole or not at all |
//! | [`digest`] | SHA-256 of a layer and of the whole |

pub mod atomic_file;
pub mod auxiliary;
pub mod digest;
pub mod dtype;
mod error;
pub mod file;
mod geometry;
pub mod imm;
pub mod manifest;
mod manifest_wire;
pub mod plan;
pub mod sample;
mod size;
pub mod tracker;
pub mod transfer;
pub mod view;

pub use digest::Digest;
pub use dtype::DType;
pub use error::{Error, Result};
pub use imm::Imm;
pub use manifest::{Geometry, Layout, Manifest};
pub use plan::{Chunk, ChunkPlan};
pub use size::parse_size;
pub use tracker::Tracker;
pub use view::TensorView;
