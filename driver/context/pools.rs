// SPDX-License-Identifier: GPL-2.0-only

//! The ioctls of pools.

use super::{
    ioctl::{max_buffer_bytes, zero},
    Context, Object,
};
use crate::{buffer::Pool, kx::user::Arg, logic::handle::Handle, memory::Placement, rdma, uapi};
use kernel::{prelude::*, sync::Arc};

impl Context {
    /// The pool that a handle names.
    fn pool(&self, handle: u32) -> Result<Arc<Pool>> {
        match self.table.lock().get(handle)? {
            Object::Pool(pool) => Ok(pool.clone()),
            _ => Err(ENOENT),
        }
    }

    pub(super) fn pool_create(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::PoolCreate>::read(arg)?;
        let want = &mut arg.value;
        let known = uapi::POOL_ZERO | uapi::POOL_STRICT;
        zero(&[want.flags & !known, want.reserved])?;
        if want.bytes == 0 {
            return Err(EINVAL);
        }
        if want.bytes > max_buffer_bytes() {
            return Err(E2BIG);
        }
        let strict = want.flags & uapi::POOL_STRICT;
        let policy = (want.placement, want.node);
        let placement = Placement::new(policy, &want.near, strict, rdma::node_of)?;
        let zeroes = want.flags & uapi::POOL_ZERO != 0;
        let pool = Pool::new(want.bytes, placement, zeroes, self.owner())?;
        want.bytes = pool.bytes();
        want.handle = self.insert(Object::Pool(pool))?;
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    pub(super) fn pool_carve(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::PoolCarve>::read(arg)?;
        let want = &mut arg.value;
        zero(&[want.flags])?;
        if want.bytes == 0 {
            return Err(EINVAL);
        }
        let pool = self.pool(want.pool)?;
        let (buffer, offset) = pool.carve(want.bytes, &self.owner())?;
        want.bytes = buffer.memory().bytes();
        want.offset = offset;
        want.handle = self.insert(Object::Buffer(buffer))?;
        want.mmap_offset = Handle::from_raw(want.handle).mmap_offset();
        let handle = want.handle;
        self.hand_out(&arg, handle)
    }

    pub(super) fn pool_query(&self, arg: usize) -> Result {
        let mut arg = Arg::<uapi::PoolQuery>::read(arg)?;
        zero(&[arg.value.flags, arg.value.reserved])?;
        self.pool(arg.value.pool)?.describe(&mut arg.value);
        arg.write()
    }
}
