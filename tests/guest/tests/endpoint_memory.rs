// SPDX-License-Identifier: MIT OR Apache-2.0

//! The memory of endpoints is charged to the memory cgroup of their maker, and refused when that has no more: it used
//! to be charged to nobody, or to trigger the OOM killer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dmaplane::{ConnectOptions, Context, Endpoint, Errno, Listener};
use dmaplane_testkit::cgroup::MemoryCgroup;
use dmaplane_testkit::{Guest, Result, anyhow, ensure, test};

/// Receives of each endpoint: the most that there may be.
const DEPTH: u32 = 4096;
/// Bytes of the receives' messages alone.
const RECEIVES: u64 = DEPTH as u64 * 256;

/// Connects `count` times, or until that is refused: both sides of each connection, and how the last one ended.
fn connect_many(
    guest: &Guest,
    (near, far): (&Context, &Context),
    count: usize,
) -> Result<(Vec<Endpoint>, Option<Errno>)> {
    let listener = Listener::bind(far, guest.local_any_port(), 8)?;
    let over = AtomicBool::new(false);
    let options = ConnectOptions {
        recv_depth: DEPTH,
        timeout: guest.limit(10),
        ..Default::default()
    };
    thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            let mut accepted = Vec::with_capacity(count);
            while !over.load(Ordering::Acquire) {
                // The other side reports the refusal.
                accepted.extend(listener.accept(DEPTH, Duration::from_millis(50)));
            }
            accepted
        });
        let mut made = Vec::with_capacity(2 * count);
        let mut refused = None;
        while made.len() < count && refused.is_none() {
            match Endpoint::connect(near, listener.local(), &options) {
                Ok(endpoint) => made.push(endpoint),
                Err(error) => refused = Some(error.errno()),
            }
        }
        over.store(true, Ordering::Release);
        let accepted = accepting
            .join()
            .map_err(|_| anyhow!("the acceptor panicked"))?;
        made.extend(accepted);
        let refused = refused.map(|errno| errno.ok_or_else(|| anyhow!("no errno")));
        Ok((made, refused.transpose()?))
    })
}

#[test]
fn endpoint_memory_is_charged() {
    test(|guest| {
        let cgroup = MemoryCgroup::enter("dmaplane-endpoints")?;
        let contexts = (Context::open()?, Context::open()?);
        let before = cgroup.current()?;
        let (endpoints, refused) = connect_many(guest, (&contexts.0, &contexts.1), 4)?;
        ensure!(refused.is_none() && endpoints.len() == 8, "{refused:?}");
        let grown = cgroup.current()?.saturating_sub(before);
        println!("{grown} bytes for {} endpoints", endpoints.len());
        ensure!(grown >= 8 * RECEIVES, "{grown} bytes for 8 endpoints");
        Ok(())
    });
}

#[test]
fn endpoint_memory_beyond_the_cgroup_kills_nobody() {
    test(|guest| {
        let cgroup = MemoryCgroup::enter("dmaplane-endpoints-limit")?;
        let contexts = (Context::open()?, Context::open()?);
        // Enough for some of them.
        let count = 24;
        cgroup.set_max(Some(cgroup.current()? + (count as u64) * RECEIVES))?;
        let made = connect_many(guest, (&contexts.0, &contexts.1), count);
        cgroup.set_max(None)?;
        let (endpoints, refused) = made?;
        println!("{} endpoints, then {refused:?}", endpoints.len());
        // The other side's refusal is a refused connection here.
        let well = [Errno::NOMEM, Errno::CONNREFUSED, Errno::CONNRESET];
        ensure!(
            refused.is_some_and(|errno| well.contains(&errno)),
            "{refused:?}"
        );
        ensure!(cgroup.oom_kills()? == 0, "the kernel killed a process");
        Ok(())
    });
}
