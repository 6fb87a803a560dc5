// SPDX-License-Identifier: MIT OR Apache-2.0

//! Two endpoints of this process, connected over its RDMA device, with a granted buffer.

use std::time::Duration;

use anyhow::{Result, anyhow};
use dmaplane::{
    Buffer, ConnectOptions, Context, Endpoint, Listener, LocalGrant, Placement, RemoteGrant, Rights,
};
use dmaplane_testkit::Guest;

/// Longest that anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// Receives that each side can hold.
pub(crate) const RECEIVES: u32 = 256;

/// A connected endpoint, a buffer of its own, and the other side's, which it may write.
///
/// Fields are dropped from top to bottom.
pub(crate) struct Side {
    pub(crate) taken: RemoteGrant,
    _given: LocalGrant,
    pub(crate) endpoint: Endpoint,
    pub(crate) buffer: Buffer,
    pub(crate) context: Context,
}

/// Both sides, each with a buffer of so many bytes.
pub(crate) fn pair(bytes: u64) -> Result<(Side, Side)> {
    let guest = Guest::from_env()?;
    let (near_context, far_context) = (Context::open()?, Context::open()?);
    let listener = Listener::bind(&far_context, guest.local_any_port(), 4)?;
    let options = ConnectOptions {
        recv_depth: RECEIVES,
        timeout: LIMIT,
        ..Default::default()
    };
    let (near, far) = std::thread::scope(|scope| {
        let accept = scope.spawn(|| listener.accept(RECEIVES, LIMIT));
        let near = Endpoint::connect(&near_context, listener.local(), &options);
        (near, accept.join())
    });
    let near = near?;
    let far = far.map_err(|_| anyhow!("the accepting thread panicked"))??;
    let near_buffer = Buffer::create(&near_context, bytes, Placement::Any)?;
    let far_buffer = Buffer::create(&far_context, bytes, Placement::Any)?;
    let near_given = near.grant(&near_buffer, 0..bytes, Rights::WRITE, 0, LIMIT)?;
    let far_given = far.grant(&far_buffer, 0..bytes, Rights::WRITE, 0, LIMIT)?;
    let (near_taken, far_taken) = (near.wait_grant(LIMIT)?, far.wait_grant(LIMIT)?);
    Ok((
        Side {
            taken: near_taken,
            _given: near_given,
            endpoint: near,
            buffer: near_buffer,
            context: near_context,
        },
        Side {
            taken: far_taken,
            _given: far_given,
            endpoint: far,
            buffer: far_buffer,
            context: far_context,
        },
    ))
}
