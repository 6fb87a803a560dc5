// SPDX-License-Identifier: MIT OR Apache-2.0

//! Pools: memory that is registered once and carved into buffers in constant time.

use dmaplane_uapi as abi;

use crate::buffer::Buffer;
use crate::context::{Context, Handle};
use crate::error::{Call, Error, Result};
use crate::placement::Placement;

/// The description of a new pool; [`Pool::builder`] makes one.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct PoolBuilder {
    bytes: u64,
    placement: Placement,
    flags: u32,
}

impl PoolBuilder {
    /// Where the memory is to come from; [`Placement::Any`] without it.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Fails with `ENOMEM` where the placement would go to another node. Not for [`Placement::Any`].
    pub fn strict(mut self) -> Self {
        self.flags |= abi::POOL_STRICT;
        self
    }

    /// Zeroes what is carved, which takes time in proportion to its size. Without it, a buffer shows what an earlier
    /// one left in the same part.
    pub fn zeroed(mut self) -> Self {
        self.flags |= abi::POOL_ZERO;
        self
    }

    /// Creates the pool, rounded up to whole pages.
    ///
    /// # Errors
    /// As [`Buffer::create`].
    pub fn create(self, context: &Context) -> Result<Pool> {
        let (policy, node, near) = self.placement.to_abi();
        let mut create = abi::PoolCreate {
            flags: self.flags,
            bytes: self.bytes,
            placement: policy,
            node,
            near,
            ..Default::default()
        };
        context.call(&mut create).map_err(|errno| {
            let subject = format!(" of {} bytes, placement {:?}", self.bytes, self.placement);
            Error::call(Call::PoolCreate, errno, subject)
        })?;
        Ok(Pool {
            handle: context.adopt(create.handle),
            bytes: create.bytes,
        })
    }
}

/// Memory that buffers are carved from. It is registered with an RDMA device when the first of them is used there, and
/// warm for all that follow.
///
/// Dropping it destroys the handle; buffers that were carved go on, and the memory goes with the last of them.
///
/// ```no_run
/// use dmaplane::{Context, Placement, Pool};
///
/// # fn main() -> dmaplane::Result<()> {
/// let context = Context::open()?;
/// let pool = Pool::builder(1 << 30).placement(Placement::Preferred(0)).create(&context)?;
/// let buffer = pool.carve(2 << 20)?;
/// buffer.write_at(0, b"warm");
/// println!("{} bytes are left", pool.query()?.free_bytes);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pool {
    handle: Handle,
    bytes: u64,
}

/// What a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PoolInfo {
    /// Bytes of the pool.
    pub bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// Bytes of the longest part that can be carved now.
    pub longest_bytes: u64,
    /// Parts that are taken, by buffers or by what still keeps their memory.
    pub carved: u32,
    /// Buffers that were carved so far.
    pub carves: u64,
    /// Times that no part was long enough.
    pub refusals: u64,
    /// RDMA devices on which the pool is registered.
    pub regions: u32,
    /// The node that the placement asked for, for `near` the one that was found.
    pub node: Option<u32>,
}

impl Pool {
    /// A pool of at least `bytes`.
    pub fn builder(bytes: u64) -> PoolBuilder {
        PoolBuilder {
            bytes,
            placement: Placement::Any,
            flags: 0,
        }
    }

    /// Bytes of the pool, whole pages.
    #[expect(clippy::len_without_is_empty, reason = "a pool is never empty")]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Carves a buffer of at least `bytes`, rounded up to whole pages. The pool gives up a power of two of pages for it,
    /// and has them back when the buffer, its mappings, its grants and its transfers are gone.
    ///
    /// # Errors
    /// [`Error::Call`]: `EINVAL` (no bytes), `E2BIG` (more than the pool has in a row), `ENOSPC` (more than it has in a
    /// row now), `EMFILE`. [`Error::Map`] when it cannot be mapped.
    pub fn carve(&self, bytes: u64) -> Result<Buffer> {
        let context = self.handle.context();
        let mut carve = abi::PoolCarve {
            pool: self.handle.raw(),
            bytes,
            ..Default::default()
        };
        context
            .call(&mut carve)
            .map_err(|errno| Error::call(Call::PoolCarve, errno, format!(", {bytes} bytes")))?;
        Buffer::adopt(context, carve.handle, carve.mmap_offset, carve.bytes)
    }

    /// What the pool has.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn query(&self) -> Result<PoolInfo> {
        let mut query = abi::PoolQuery {
            pool: self.handle.raw(),
            ..Default::default()
        };
        let asked = self.handle.context().call(&mut query);
        asked.map_err(|errno| Error::call(Call::PoolQuery, errno, ""))?;
        Ok(PoolInfo {
            bytes: query.bytes,
            free_bytes: query.free_bytes,
            longest_bytes: query.longest_bytes,
            carved: query.carved,
            carves: query.carves,
            refusals: query.refusals,
            regions: query.regions,
            node: u32::try_from(query.node).ok(),
        })
    }

    /// The driver's name of the pool.
    pub fn raw_handle(&self) -> u32 {
        self.handle.raw()
    }
}
