// SPDX-License-Identifier: MIT OR Apache-2.0

//! Buffers follow the caller's memory policy and cpuset, as memory of user space does.

use dmaplane::{Buffer, Context, Errno, Placement, Pool};
use dmaplane_guest_tests::numa::{MIB, PAGE, nodes_with_memory};
use dmaplane_guest_tests::refusal;
use dmaplane_testkit::cgroup::CpusetCgroup;
use dmaplane_testkit::sys::process::{Policy, set_policy};
use dmaplane_testkit::{Guest, Result, Skip, ensure, test};

/// Two nodes with memory. Skips the test where there are fewer.
fn two(guest: &Guest) -> Result<(u32, u32)> {
    let nodes = nodes_with_memory()?;
    match nodes.as_slice() {
        [first, second, ..] => Ok((first.id, second.id)),
        _ => Err(Skip::new(format!("{:?} has one node", guest.topology)).into()),
    }
}

/// Pages of a buffer on a node.
fn on(buffer: &Buffer, node: u32) -> Result<u64> {
    Ok(buffer.residency()?.pages_by_node[node as usize])
}

/// Runs `work` under a policy.
fn under(policy: Policy, work: impl FnOnce() -> Result<()>) -> Result<()> {
    set_policy(policy)?;
    let done = work();
    set_policy(Policy::Default)?;
    done
}

#[test]
fn policies_of_the_caller_are_followed() {
    test(|guest| {
        let (first, second) = two(guest)?;
        let context = Context::open()?;
        let bytes = guest.pick(32, 8) * MIB;
        for node in [first, second] {
            under(Policy::Bind(1 << node), || {
                for bytes in [PAGE, 16 * PAGE, bytes] {
                    let buffer = Buffer::create(&context, bytes, Placement::Any)?;
                    ensure!(
                        on(&buffer, node)? == bytes / PAGE,
                        "{:?}",
                        buffer.residency()?
                    );
                }
                let coherent = Buffer::builder(64 << 10).coherent().create(&context)?;
                ensure!(on(&coherent, node)? == 16, "{:?}", coherent.residency()?);
                let pool = Pool::builder(bytes).create(&context)?;
                let part = pool.carve(bytes / 2)?;
                ensure!(
                    on(&part, node)? == bytes / 2 / PAGE,
                    "{:?}",
                    part.residency()?
                );
                Ok(())
            })?;
        }
        under(Policy::Interleave(1 << first | 1 << second), || {
            let buffer = Buffer::create(&context, bytes, Placement::Any)?;
            let (here, there) = (on(&buffer, first)?, on(&buffer, second)?);
            let most = 512 + (here + there) / 8;
            ensure!(here.abs_diff(there) <= most, "{here} and {there} pages");
            Ok(())
        })?;
        // The buffer's own policy has precedence.
        under(Policy::Bind(1 << first), || {
            let buffer = Buffer::create(&context, bytes, Placement::Strict(second))?;
            ensure!(
                on(&buffer, second)? == bytes / PAGE,
                "{:?}",
                buffer.residency()?
            );
            Ok(())
        })
    });
}

#[test]
fn policies_never_leave_the_cpuset() {
    test(|guest| {
        let (first, second) = two(guest)?;
        let context = Context::open()?;
        let all = nodes_with_memory()?;
        let of_first = all.iter().find(|node| node.id == first);
        let more = of_first.map_or(0, |node| node.total_bytes);
        let _cpuset = CpusetCgroup::enter("policies", &first.to_string())?;
        for placement in [Placement::Strict(second), Placement::Preferred(second)] {
            let refused = refusal(Buffer::create(&context, MIB, placement))?;
            ensure!(refused == Errno::INVAL, "{placement:?}: {refused}");
        }
        let bytes = guest.pick(32, 8) * MIB;
        for placement in [
            Placement::Interleave,
            Placement::Any,
            Placement::Preferred(first),
        ] {
            let buffer = Buffer::create(&context, bytes, placement)?;
            ensure!(
                on(&buffer, first)? == bytes / PAGE,
                "{placement:?}: {:?}",
                buffer.residency()?
            );
        }
        // More than the node has: not from another, and without the out-of-memory killer.
        for placement in [
            Placement::Interleave,
            Placement::Any,
            Placement::Preferred(first),
        ] {
            let refused = refusal(Buffer::create(&context, more, placement))?;
            ensure!(refused == Errno::NOMEM, "{placement:?}: {refused}");
        }
        Ok(())
    });
}
