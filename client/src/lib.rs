// SPDX-License-Identifier: MIT OR Apache-2.0

//! User-space library of the dmaplane driver: buffers with a place, transfers with an end.
//!
//! | type | what it is |
//! |---|---|
//! | [`Context`] | an open file of the driver, which owns everything else |
//! | [`Buffer`] | memory with NUMA placement, mapped into the process |
//! | [`Pool`] | memory that is registered once and carved into buffers |
//! | [`Channel`] | a submission and a completion ring: many operations, one system call |
//! | [`Listener`], [`Endpoint`] | connections to peers over RDMA |
//! | [`LocalGrant`], [`RemoteGrant`] | access to a range of a buffer: given, and received |
//! | [`Entry`], [`Completion`] | an operation, and its one terminal state |
//!
//! Everything is destroyed on drop, in any order: a handle is a name, and the driver keeps memory
//! alive as long as a mapping or a transfer needs it. All types are `Send` and `Sync`. Time limits
//! are [`Duration`](std::time::Duration)s: zero does not wait, `Duration::MAX` waits without limit.
//!
//! # A receiver
//! ```no_run
//! use std::time::Duration;
//! use dmaplane::{Buffer, Channel, Context, Entry, Listener, Placement, Rights};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limit = Duration::from_secs(30);
//! let context = Context::open()?;
//! let buffer = Buffer::create(&context, 1 << 20, Placement::Any)?;
//! let listener = Listener::bind(&context, "10.77.0.2:7471".parse()?, 1)?;
//! let endpoint = listener.accept(64, limit)?;
//!
//! let mut channel = Channel::builder().entries(64).build(&context)?;
//! channel.push(Entry::recv(&endpoint))?;
//! channel.submit()?;
//! let grant = endpoint.grant(&buffer, 0..1 << 20, Rights::WRITE, 0, limit)?;
//!
//! channel.wait(1, limit)?;
//! for completion in channel.completions() {
//!     println!("immediate {} after {} bytes", completion.imm(), completion.result()?);
//! }
//! grant.revoke();
//! let data = buffer.freeze().expect("the only grant was revoked");
//! println!("first byte {}", data[0]);
//! # Ok(())
//! # }
//! ```

// Reason: printing by macro panics where the output is full or closed; `terminal` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod address;
mod buffer;
mod channel;
mod context;
mod device;
mod endpoint;
mod error;
mod grant;
mod latency;
mod listener;
mod memory;
mod placement;
mod pool;
mod rdma;
mod sys;
pub mod terminal;
pub mod topology;

pub use address::{Address, AddressError};
pub use buffer::{
    Buffer, BufferBuilder, ExportAccess, FrozenBuffer, ImportInfo, ImportLack, Mapping, Source,
};
pub use channel::{
    Channel, ChannelBuilder, Completion, Completions, Entry, Field, OpError, Polling, QueueFull,
    State, Submitted,
};
pub use context::{Context, DEVICE_PATH, Info};
pub use device::{DeviceInfo, RdmaPath, Tier, TierInfo};
pub use endpoint::{ConnectOptions, Endpoint, EndpointInfo, EndpointState};
pub use error::{Call, CallError, Error, Result};
pub use grant::{GrantTerms, LocalGrant, RemoteGrant, Rights, Target};
pub use latency::{Latency, OpKind, Stage};
pub use listener::{DEFAULT_RECV_DEPTH, Listener};
pub use memory::{MemoryInfo, MemoryKind, RevokeCause, Standing};
pub use placement::{DeviceName, DeviceNameError, Folios, Placement, PlacementError, Residency};
pub use pool::{Pool, PoolBuilder, PoolInfo};
pub use rdma::{RdmaInfo, RdmaLack, RdmaProtocol};
pub use rustix::io::Errno;
