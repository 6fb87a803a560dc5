// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a process asks for is charged to its memory cgroup, and ends in `ENOMEM` there: nobody is killed.

use dmaplane::{Buffer, Channel, Context, Errno, Error, Placement, Pool};
use dmaplane_testkit::cgroup::MemoryCgroup;
use dmaplane_testkit::{Result, bail, ensure, test};

const MIB: u64 = 1 << 20;
/// The limit, as a small container has it.
const MAX: u64 = 128 * MIB;

/// Makes objects until there is no more memory for them; how many there were.
fn until_refused<T>(mut make: impl FnMut() -> Result<T, Error>) -> Result<Vec<T>> {
    let mut made = Vec::with_capacity(1 << 10);
    loop {
        match make() {
            Ok(one) => made.push(one),
            Err(error) if error.errno() == Some(Errno::NOMEM) => return Ok(made),
            Err(error) => bail!("instead of ENOMEM: {error}"),
        }
    }
}

#[test]
fn accounts_end_in_a_refusal_and_kill_nobody() {
    test(|_| {
        let cgroup = MemoryCgroup::enter("accounts")?;
        cgroup.set_max(Some(MAX))?;
        let context = Context::open()?;
        // The completion ring is twice as large.
        let most = context.limits().max_ring_entries / 2;
        // Only objects that are much larger than what this process needs itself: at the limit, the kernel would kill it
        // for its next touch of new memory.
        let rings = until_refused(|| Channel::builder().entries(most).build(&context))?;
        ensure!(!rings.is_empty() && cgroup.oom_kills()? == 0);
        drop(rings);
        for bytes in [32 * MIB, 4 * MIB] {
            let buffers = until_refused(|| Buffer::create(&context, bytes, Placement::Any))?;
            ensure!(!buffers.is_empty() && cgroup.oom_kills()? == 0);
        }
        let pools = until_refused(|| Pool::builder(8 * MIB).create(&context))?;
        ensure!(!pools.is_empty() && cgroup.oom_kills()? == 0);
        Ok(())
    });
}
