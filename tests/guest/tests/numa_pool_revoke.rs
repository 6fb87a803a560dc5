// SPDX-License-Identifier: MIT OR Apache-2.0

//! Parts of pools that are revoked, shared, or pinned: none of it affects another part.

use std::os::fd::AsFd as _;
use std::path::Path;

use dmaplane::{
    Buffer, Channel, Context, Entry, Errno, GrantTerms, Placement, Pool, Standing, State,
};
use dmaplane_guest_tests::numa::{self, MIB, PAGE, carved};
use dmaplane_guest_tests::race::{against, at_delay_points, once_each};
use dmaplane_guest_tests::{Loopback, complete, holds, one, refusal};
use dmaplane_testkit::sys::{self, Words};
use dmaplane_testkit::{ErrorContext as _, Gauges, ensure, gauges, pattern, test};

#[test]
fn numa_pool_part_is_revoked_alone() {
    test(|guest| {
        let before = Gauges::read()?;
        let context = Context::open()?;
        let pool = Pool::builder(2 * MIB).create(&context)?;
        let (one_part, other) = (pool.carve(MIB)?, pool.carve(MIB)?);
        pattern::fill_memory(&one_part, 0, MIB, 1, 0);
        pattern::fill_memory(&other, 0, MIB, 2, 0);
        let child = sys::fork(|| {
            // Mapped, and touched after the parent has taken it back.
            while one_part
                .memory()
                .is_ok_and(|info| info.standing != Standing::Revoked)
            {}
            one_part.write_at(0, &[1]);
            true
        })?;
        one_part.revoke()?;
        ensure!(child.wait_signal()? == 7, "not SIGBUS");
        holds(&other, MIB, 2, 0)?;
        ensure!(other.memory()?.standing == Standing::Live);
        let mut channel = Channel::builder().entries(8).build(&context)?;
        let gone = one(
            &mut channel,
            guest,
            Entry::copy(one_part.range(0, 64), &other, 0),
        )?;
        ensure!(gone.state() == State::Revoked, "{gone:?}");
        let lives = one(
            &mut channel,
            guest,
            Entry::copy(other.range(0, 64), &other, PAGE),
        )?;
        ensure!(lives.is_ok(), "{lives:?}");
        // Its name still keeps the part, which nobody else gets meanwhile.
        ensure!(refusal(pool.carve(PAGE))? == Errno::NOSPC);
        drop(one_part);
        let next = pool.carve(MIB).context("the part is back")?;
        pattern::fill_memory(&next, 0, MIB, 3, 0);
        holds(&next, MIB, 3, 0)?;
        drop((next, other, channel, pool, context));
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn numa_pool_part_is_revoked_under_transfer() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let (target, _own, grant) = local.granted_bytes(guest, MIB, &GrantTerms::default())?;
        let pool = Pool::builder(2 * MIB).create(&local.near_context)?;
        let neighbour = pool.carve(MIB)?;
        let delay_points = ["use_begun", "revocation_begun", "drained"];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |round| {
            let mut channel = Channel::builder().entries(64).build(&local.near_context)?;
            let part = pool.carve(MIB)?;
            for name in 0..32 {
                let from = if name % 4 == 3 { &neighbour } else { &part };
                let entry = Entry::write(from.range(0, 32 << 10), grant.at(name * (32 << 10)));
                channel.push(entry.user_data(name))?;
            }
            let done = against(&part, || complete(&mut channel, 32, limit))?;
            once_each(&done, 32, &[State::Ok, State::Revoked])?;
            for done in done.iter().filter(|done| done.user_data() % 4 == 3) {
                ensure!(done.is_ok(), "the neighbour's: {done:?}");
            }
            // The registration is the pool's, and serves the next owner of the part.
            drop(part);
            carved(&pool, 1, limit)?;
            let next = pool.carve(MIB)?;
            pattern::fill_memory(&next, 0, PAGE, round, 0);
            let sent = one(
                &mut channel,
                guest,
                Entry::write(next.range(0, 4096), grant.at(0)),
            )?;
            ensure!(sent.is_ok(), "{sent:?}");
            let wrong = pattern::mismatch_in_memory(&target, 0, PAGE, round, 0);
            ensure!(wrong.is_none(), "byte {wrong:?} came from elsewhere");
            ensure!(pool.query()?.regions == 1, "{:?}", pool.query()?);
            drop(next);
            carved(&pool, 1, limit)
        })
    });
}

#[test]
fn numa_pool_part_is_taken_as_long_as_it_is_shared() {
    test(|guest| {
        let before = Gauges::read()?;
        let context = Context::open()?;
        let other = Context::open()?;
        let pool = Pool::builder(MIB).create(&context)?;
        let part = pool.carve(MIB)?;
        pattern::fill_memory(&part, 0, MIB, 1, 0);
        let fd = part.export()?;
        let import = Buffer::import(&other, fd.as_fd())?;
        let mapped = Words::map(fd.as_fd(), 0, 4096)?;
        drop(part);
        holds(&import, MIB, 1, 0)?;
        ensure!(refusal(pool.carve(PAGE))? == Errno::NOSPC, "by its dma-buf");
        drop((fd, mapped));
        ensure!(refusal(pool.carve(PAGE))? == Errno::NOSPC, "by an import");
        drop((import, other));
        // An import is given up by a work item.
        carved(&pool, 0, guest.limit(5))?;
        pool.carve(MIB).context("when the last has let go")?;
        drop((pool, context));
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn numa_pool_pages_are_nobodys_to_keep() {
    test(|_| {
        let context = Context::open()?;
        let pool = Pool::builder(2 * MIB).create(&context)?;
        // get_mempolicy(2) pins the page that it looks at, as direct I/O does.
        let ordinary = Buffer::create(&context, PAGE, Placement::Any)?;
        numa::page_nodes(&ordinary, 1)?;
        let part = pool.carve(PAGE)?;
        let pinned = numa::page_nodes(&part, 1);
        ensure!(
            pinned.is_err(),
            "a page that will be another buffer's is pinned"
        );
        let fd = part.export()?;
        let mapped = Words::map(fd.as_fd(), 0, 4096)?;
        let pinned = sys::page_nodes(std::ptr::from_ref(mapped.at(0)).cast(), 1, 4096);
        ensure!(pinned.is_err(), "so it is through a dma-buf");
        Ok(())
    });
}

#[test]
fn numa_pool_is_shown() {
    test(|_| {
        let context = Context::open()?;
        let pool = Pool::builder(MIB).create(&context)?;
        let _part = pool.carve(3 * PAGE)?;
        ensure!(refusal(pool.carve(MIB))? == Errno::NOSPC);
        let file = Path::new("/sys/kernel/debug/dmaplane/state/pools");
        let text = std::fs::read_to_string(file)?;
        let handle = format!(" handle={} ", pool.raw_handle());
        let mut lines = text.lines();
        let line = lines.find(|line| line.contains(&handle));
        let line = line.with_context(|| format!("no line in {text}"))?;
        for part in [
            "bytes=1048576",
            "free=1032192",
            "longest=524288",
            "carved=1",
            "carves=1",
            "refusals=1",
        ] {
            ensure!(line.split(' ').any(|word| word == part), "{part}: {line}");
        }
        Ok(())
    });
}
