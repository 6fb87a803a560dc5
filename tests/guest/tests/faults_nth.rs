// SPDX-License-Identifier: MIT OR Apache-2.0

//! Every fallible step of every call fails once: allocations, pages, copies from and to user space, and the driver's own
//! points. Nothing leaks, the errors are documented, and the next ordinary transfer works.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, Entry, Errno, Listener, Placement, Pool,
    Tier,
};
use dmaplane_guest_tests::device::device;
use dmaplane_guest_tests::scenario::{Plan, Steps, scenario};
use dmaplane_guest_tests::swept::{CONNECTING, GRANTING, as_documented, ordinary, swept};
use dmaplane_testkit::faults::{self, Swept};
use dmaplane_testkit::{Guest, Result, anyhow, ensure, test};

/// Checks that a sweep met what it was for, and that all is well afterwards.
fn swept_well(guest: &Guest, done: Swept, least: u32) -> Result<()> {
    let least = least / if faults::full() { 1 } else { guest.pick(5, 12) };
    ensure!(
        done.failures >= least,
        "{done:?}: fewer than {least} failures, so that the sweep did not reach the call"
    );
    ordinary(guest)
}

/// Bytes that more than one thread zeroes.
const PARALLEL: u64 = 16 << 20;

/// What exporting may end in besides: the file system of dma-bufs says so when it has no memory for a file.
const EXPORTING: &[Errno] = &[Errno::NFILE];

#[test]
fn nth_open_query_and_close() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "open, query, close", |nth| {
            let opened = nth.step(Context::open)?;
            let mut failed = as_documented(&opened, &[])?;
            if let Ok(context) = opened {
                failed |= as_documented(&nth.step(|| context.query())?, &[])?;
                nth.step(|| drop(context))?;
            }
            Ok(failed)
        })?;
        swept_well(guest, done, 3)
    });
}

#[test]
fn nth_buffer() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let small = Buffer::builder(16 << 10);
        let near = device(guest, &Context::open()?)?.address.parse()?;
        for (kind, builder) in [
            ("", small),
            (" strictly placed", small.placement(Placement::Strict(0))),
            (
                " preferably placed",
                small.placement(Placement::Preferred(0)),
            ),
            (" interleaved", small.placement(Placement::Interleave)),
            (" near a device", small.placement(Placement::NearPci(near))),
            (" coherent", small.coherent()),
            (" zeroed by several threads", Buffer::builder(PARALLEL)),
        ] {
            let name = format!("buffer{kind}: create, mmap, query, destroy");
            let done = swept(guest, &name, |nth| {
                let context = Context::open()?;
                let made = nth.step(|| builder.create(&context))?;
                let mut failed = as_documented(&made, &[])?;
                if let Ok(buffer) = made {
                    failed |= as_documented(&nth.step(|| buffer.residency())?, &[])?;
                    failed |= as_documented(&nth.step(|| buffer.map(0..4096))?, &[])?;
                    nth.step(|| drop(buffer))?;
                }
                Ok(failed)
            })?;
            swept_well(guest, done, 8)?;
        }
        Ok(())
    });
}

/// Freeing memory that could not be made used to wait for the device's lock, which its maker held.
#[test]
fn nth_device_buffer() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let watching = Context::open()?;
        let number = device(guest, &watching)?.number;
        let done = swept(guest, "device buffer: create, query, destroy", |nth| {
            let context = Context::open()?;
            let made =
                nth.step(|| Buffer::on_device(&context, number, Tier::Uncached, 16 << 10, None))?;
            let mut failed = as_documented(&made, &[])?;
            if let Ok(buffer) = made {
                failed |= as_documented(&nth.step(|| buffer.memory())?, &[])?;
                nth.step(|| drop(buffer))?;
            }
            // A failed call has given its range back, at the latest with the context: destroying may fail as well.
            drop(context);
            let device = device(guest, &watching)?;
            for tier in &device.tiers {
                ensure!(tier.free == tier.bytes, "{tier:?}");
            }
            Ok(failed)
        })?;
        swept_well(guest, done, 8)
    });
}

#[test]
fn nth_pool() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "pool: create, carve, query, destroy", |nth| {
            let context = Context::open()?;
            let made = nth.step(|| Pool::builder(64 << 10).zeroed().create(&context))?;
            let mut failed = as_documented(&made, &[])?;
            if let Ok(pool) = made {
                let carved = nth.step(|| pool.carve(8 << 10))?;
                failed |= as_documented(&carved, &[])?;
                failed |= as_documented(&nth.step(|| pool.query())?, &[])?;
                if carved.is_err() {
                    let info = pool.query()?;
                    ensure!(info.longest_bytes == pool.len(), "{info:?}");
                }
                nth.step(|| drop(carved))?;
                nth.step(|| drop(pool))?;
            }
            Ok(failed)
        })?;
        swept_well(guest, done, 12)
    });
}

#[test]
fn nth_dmabuf() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "dma-buf: export, import, destroy", |nth| {
            let context = Context::open()?;
            let buffer = Buffer::create(&context, 16 << 10, Placement::Any)?;
            let exported = nth.step(|| buffer.export())?;
            let mut failed = as_documented(&exported, EXPORTING)?;
            if let Ok(dmabuf) = exported {
                let imported = nth.step(|| Buffer::import(&context, dmabuf.as_fd()))?;
                failed |= as_documented(&imported, &[])?;
                nth.step(|| drop(imported))?;
                nth.step(|| drop(dmabuf))?;
            }
            Ok(failed)
        })?;
        swept_well(guest, done, 10)
    });
}

#[test]
fn nth_channel() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "channel: create, mmap, enter, destroy", |nth| {
            let context = Context::open()?;
            let made = nth.step(|| Channel::builder().entries(8).event().build(&context))?;
            let mut failed = as_documented(&made, &[])?;
            if let Ok(mut channel) = made {
                for name in 0..8 {
                    channel.push(Entry::nop().user_data(name))?;
                }
                let limit = guest.limit(1);
                let entered = nth.step(|| channel.submit_and_wait(8, limit))?;
                failed |= as_documented(&entered, &[])?;
                // What was not taken is taken now; nothing twice.
                channel.submit_and_wait(8, guest.limit(10))?;
                let names: Vec<u64> = channel.completions().map(|done| done.user_data()).collect();
                ensure!(names == [0, 1, 2, 3, 4, 5, 6, 7], "{names:?}");
                nth.step(|| drop(channel))?;
            }
            Ok(failed)
        })?;
        swept_well(guest, done, 5)
    });
}

#[test]
fn nth_listen() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "listen, destroy", |nth| {
            let context = Context::open()?;
            let bound = nth.step(|| Listener::bind(&context, guest.local_any_port(), 4))?;
            let failed = as_documented(&bound, CONNECTING)?;
            nth.step(|| drop(bound))?;
            Ok(failed)
        })?;
        swept_well(guest, done, 5)
    });
}

#[test]
fn nth_accept() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let done = swept(guest, "accept", |nth| {
            let near = Context::open()?;
            let far = Context::open()?;
            let listener = Listener::bind(&far, guest.local_any_port(), 4)?;
            let over = AtomicBool::new(false);
            let options = ConnectOptions {
                recv_depth: 64,
                timeout: guest.limit(10),
                ..Default::default()
            };
            std::thread::scope(|scope| {
                let connector = scope.spawn(|| {
                    let connected = Endpoint::connect(&near, listener.local(), &options);
                    over.store(true, Ordering::Release);
                    connected
                });
                let limit = guest.limit(10);
                let accepted = nth.step(|| listener.accept(64, limit))?;
                let mut failed = as_documented(&accepted, CONNECTING)?;
                // The one that waits is refused, or taken now.
                while failed && !over.load(Ordering::Acquire) {
                    let late = listener.accept(64, Duration::from_millis(20));
                    as_documented(&late, CONNECTING)?;
                }
                let connected = connector
                    .join()
                    .map_err(|_| anyhow!("the connecting thread panicked"))?;
                failed |= as_documented(&connected, CONNECTING)?;
                Ok(failed)
            })
        })?;
        swept_well(guest, done, 20)
    });
}

#[test]
fn nth_grant_wait_gives_the_grant_again() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = dmaplane_guest_tests::Loopback::new(guest)?;
        let theirs = Buffer::create(&local.far_context, 4096, Placement::Any)?;
        let terms = dmaplane::GrantTerms::default();
        let limit = guest.limit(10);
        // Once for all: the buffer's registration, and room in the handle tables.
        let _first = local.far.grant_on(&theirs, 0..4096, &terms, limit)?;
        let _warm = local.near.wait_grant(limit)?;
        let mut label = 0;
        let done = swept(guest, "wait for a grant", |nth| {
            label += 1;
            let terms = dmaplane::GrantTerms {
                label,
                ..Default::default()
            };
            let own = local.far.grant_on(&theirs, 0..4096, &terms, limit)?;
            let given = nth.step(|| local.near.wait_grant(limit))?;
            let failed = as_documented(&given, GRANTING)?;
            let given = match given {
                Ok(given) => given,
                // What could not be handed out is not lost.
                Err(_) => local.near.wait_grant(limit)?,
            };
            ensure!(given.label() == label, "the grant {}", given.label());
            drop(given);
            drop(own);
            Ok(failed)
        })?;
        drop(theirs);
        drop(local);
        swept_well(guest, done, 3)
    });
}

#[test]
fn nth_scenario() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let plan = Plan::default();
        let done = swept(guest, "connect, grant, transfer, revoke, teardown", |nth| {
            let mut steps = Steps::new(Some(nth));
            scenario(guest, &mut steps, &plan)?;
            Ok(steps.failed)
        })?;
        swept_well(guest, done, 40)
    });
}

#[test]
fn nth_scenario_with_a_polling_thread() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let plan = Plan {
            polled: true,
            ..Plan::default()
        };
        let done = swept(guest, "the same, with a polling thread", |nth| {
            let mut steps = Steps::new(Some(nth));
            scenario(guest, &mut steps, &plan)?;
            Ok(steps.failed)
        })?;
        swept_well(guest, done, 40)
    });
}
