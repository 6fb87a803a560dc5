// SPDX-License-Identifier: MIT OR Apache-2.0

//! The builder of buffers.

use dmaplane_uapi as abi;

use super::Buffer;
use crate::context::Context;
use crate::error::{Call, Error, Result};
use crate::placement::Placement;

/// The description of a new buffer; [`Buffer::builder`] makes one.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct BufferBuilder {
    pub(super) bytes: u64,
    pub(super) placement: Placement,
    pub(super) flags: u32,
}

impl BufferBuilder {
    /// Where the memory is to come from; [`Placement::Any`] without it.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Fails with `ENOMEM` where the placement would go to another node. Not for [`Placement::Any`].
    pub fn strict(mut self) -> Self {
        self.flags |= abi::BUFFER_STRICT;
        self
    }

    /// Makes it one run of at most 2 MiB that processors and devices may write at the same time, for small structures.
    /// Not for [`Placement::Interleave`].
    pub fn coherent(mut self) -> Self {
        self.flags |= abi::BUFFER_COHERENT;
        self
    }

    /// Creates and maps the buffer, rounded up to whole pages and zeroed.
    ///
    /// # Errors
    /// As [`Buffer::create`].
    pub fn create(self, context: &Context) -> Result<Buffer> {
        let Self {
            bytes,
            placement,
            flags,
        } = self;
        let (policy, node, near) = placement.to_abi();
        let mut create = abi::BufferCreate {
            flags,
            bytes,
            placement: policy,
            node,
            near,
            ..Default::default()
        };
        context.call(&mut create).map_err(|errno| {
            let subject = format!(" of {bytes} bytes, placement {placement:?}");
            Error::call(Call::BufferCreate, errno, subject)
        })?;
        Buffer::adopt(context, create.handle, create.mmap_offset, create.bytes)
    }
}
