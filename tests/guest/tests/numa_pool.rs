// SPDX-License-Identifier: MIT OR Apache-2.0

//! Pools: carving and giving back, where parts are, whose data they show, their registration, and how long they live.

use dmaplane::{Buffer, Channel, Context, Entry, Errno, GrantTerms, Placement, Pool, State};
use dmaplane_guest_tests::numa::{self, MIB, PAGE, carved, nodes_with_memory};
use dmaplane_guest_tests::{Loopback, complete, refusal};
use dmaplane_testkit::cgroup::MemoryCgroup;
use dmaplane_testkit::pattern::Numbers;
use dmaplane_testkit::{
    ErrorContext as _, Gauges, Result, anyhow, ensure, gauges, pattern, seed, test,
};

#[test]
fn numa_pool_is_carved_without_overlap_and_whole_again() {
    test(|guest| {
        let context = Context::open()?;
        let bytes = 8 * MIB + 5 * PAGE;
        let pool = Pool::builder(bytes).create(&context)?;
        ensure!(pool.len() == bytes);
        let before = pool.query()?;
        ensure!(
            before.free_bytes == bytes && before.longest_bytes == 8 * MIB,
            "{before:?}"
        );
        let mut numbers = Numbers::new(seed()?);
        let mut buffers: Vec<(Buffer, u64)> = Vec::new();
        for step in 0..guest.pick(2000, 150) {
            if numbers.below(2) == 0 && !buffers.is_empty() {
                let (buffer, tag) =
                    buffers.swap_remove(numbers.below(buffers.len() as u64) as usize);
                let wrong = pattern::mismatch_in_memory(&buffer, 0, buffer.len(), tag, 0);
                ensure!(wrong.is_none(), "byte {wrong:?} is another buffer's");
                continue;
            }
            let most = PAGE << numbers.below(8);
            let asked = 1 + numbers.below(most);
            match pool.carve(asked) {
                Ok(buffer) => {
                    let whole = asked.next_multiple_of(PAGE);
                    ensure!(buffer.len() == whole, "{asked} bytes gave {}", buffer.len());
                    pattern::fill_memory(&buffer, 0, buffer.len(), step, 0);
                    buffers.push((buffer, step));
                }
                Err(error) => {
                    ensure!(error.errno() == Some(Errno::NOSPC), "{error}");
                    let longest = pool.query()?.longest_bytes;
                    let part = asked.next_multiple_of(PAGE).next_power_of_two();
                    ensure!(longest < part, "{longest} bytes in a row, {asked} refused");
                }
            }
        }
        for (buffer, tag) in &buffers {
            let wrong = pattern::mismatch_in_memory(buffer, 0, buffer.len(), *tag, 0);
            ensure!(wrong.is_none(), "byte {wrong:?} is another buffer's");
        }
        let full = pool.query()?;
        ensure!(
            full.carved as usize == buffers.len() && full.carves > 0,
            "{full:?}"
        );
        drop(buffers);
        let after = pool.query()?;
        ensure!(
            (after.free_bytes, after.longest_bytes, after.carved)
                == (before.free_bytes, before.longest_bytes, 0),
            "{after:?}"
        );
        Ok(())
    });
}

#[test]
fn numa_pool_refuses_what_it_cannot_give() {
    test(|_| {
        let context = Context::open()?;
        let pool = Pool::builder(3 * PAGE).create(&context)?;
        for (bytes, errno) in [
            (0, Errno::INVAL),
            (3 * PAGE, Errno::TOOBIG),
            (u64::MAX, Errno::TOOBIG),
        ] {
            let got = refusal(pool.carve(bytes))?;
            ensure!(got == errno, "{bytes} bytes: {got}");
        }
        let _two = pool.carve(2 * PAGE)?;
        let _one = pool.carve(1)?;
        let errno = refusal(pool.carve(1))?;
        ensure!(errno == Errno::NOSPC, "a full pool: {errno}");
        ensure!(pool.query()?.refusals == 1, "{:?}", pool.query()?);
        for (bytes, errno) in [
            (0, Errno::INVAL),
            (context.limits().max_buffer_bytes + 1, Errno::TOOBIG),
        ] {
            let got = refusal(Pool::builder(bytes).create(&context))?;
            ensure!(got == errno, "a pool of {bytes} bytes: {got}");
        }
        let anywhere = Pool::builder(PAGE).strict().create(&context);
        ensure!(refusal(anywhere)? == Errno::INVAL, "strict anywhere");
        Ok(())
    });
}

/// Fails unless the driver reports each page of a part on its wanted node. get_mempolicy(2) and pagemap do not show
/// pages that nobody may pin.
fn is_on(part: &Buffer, wanted: impl Fn(usize) -> u32) -> Result<()> {
    let residency = part.residency()?;
    let mut by_node = vec![0; residency.pages_by_node.len()];
    for page in 0..numa::pages(part) {
        by_node[wanted(page) as usize] += 1;
    }
    ensure!(
        residency.pages_by_node == by_node && residency.misplaced_pages == 0,
        "not {by_node:?}, but {residency:?}"
    );
    for (node, pages) in by_node.iter().enumerate() {
        let folios = part.folios(u32::try_from(node)?)?;
        ensure!(
            folios.pages_by_order.iter().sum::<u64>() == *pages && folios.misplaced_pages == 0,
            "{folios:?} of {pages} pages"
        );
    }
    Ok(())
}

#[test]
fn numa_pool_is_where_it_was_wanted() {
    test(|_| {
        let context = Context::open()?;
        let nodes: Vec<u32> = nodes_with_memory()?.iter().map(|node| node.id).collect();
        for node in &nodes {
            let strict = Placement::Strict(*node);
            let pool = Pool::builder(8 * MIB).placement(strict).create(&context)?;
            ensure!(pool.query()?.node == Some(*node), "{:?}", pool.query()?);
            let _first = pool.carve(PAGE)?;
            let buffer = pool.carve(3 * MIB)?;
            is_on(&buffer, |_| *node)?;
        }
        // Turns go on where the part begins.
        let turns = Pool::builder(16 * MIB).placement(Placement::Interleave);
        let pool = turns.create(&context)?;
        let unit = (16 * MIB / nodes.len() as u64 / PAGE).min(512);
        let unit = if unit.is_power_of_two() {
            unit
        } else {
            unit.next_power_of_two() / 2
        };
        let mut seen = vec![0; nodes.len()];
        // All at once, or each would be the first part again.
        let mut parts = Vec::new();
        for part in 0..4 {
            let buffer = pool.carve(4 * MIB)?;
            let first = part * (4 * MIB / PAGE) as usize;
            is_on(&buffer, |page| {
                nodes[(first + page) / unit as usize % nodes.len()]
            })
            .with_context(|| format!("part {part}, units of {unit} pages"))?;
            for (sum, node) in seen.iter_mut().zip(&nodes) {
                *sum += buffer.residency()?.pages_by_node[*node as usize];
            }
            parts.push(buffer);
        }
        let share = 16 * MIB / PAGE / nodes.len() as u64;
        ensure!(seen.iter().all(|pages| *pages == share), "{seen:?}");
        Ok(())
    });
}

#[test]
fn numa_pool_shows_nobody_elses_data() {
    test(|_| {
        let context = Context::open()?;
        let zeroed = Pool::builder(4 * MIB).zeroed().create(&context)?;
        let plain = Pool::builder(4 * MIB).create(&context)?;
        for pool in [&zeroed, &plain] {
            let first = pool.carve(4 * MIB)?;
            let data = first.to_vec(0..first.len());
            ensure!(
                data.iter().all(|byte| *byte == 0),
                "a new pool shows what was there before"
            );
            pattern::fill_memory(&first, 0, first.len(), 1, 0);
        }
        let second = zeroed.carve(4 * MIB)?;
        let dirty = second
            .to_vec(0..second.len())
            .iter()
            .position(|byte| *byte != 0);
        ensure!(dirty.is_none(), "byte {dirty:?} shows the buffer before");
        // As documented: without the flag it is the own data of before.
        let second = plain.carve(4 * MIB)?;
        ensure!(pattern::mismatch_in_memory(&second, 0, second.len(), 1, 0).is_none());
        Ok(())
    });
}

#[test]
fn numa_pool_belongs_to_its_file() {
    test(|_| {
        use dmaplane_uapi as abi;
        use std::os::fd::AsFd as _;
        let context = Context::open()?;
        let other = Context::open()?;
        let pool = Pool::builder(MIB).create(&context)?;
        let mut carve = vec![0; size_of::<abi::PoolCarve>()];
        carve[0] = carve.len() as u8;
        carve[8..12].copy_from_slice(&pool.raw_handle().to_ne_bytes());
        carve[16..24].copy_from_slice(&PAGE.to_ne_bytes());
        let mut again = carve.clone();
        let foreign = dmaplane_testkit::sys::ioctl(other.as_fd(), abi::IOC_POOL_CARVE, &mut carve);
        ensure!(
            foreign == Err(Errno::NOENT),
            "another file carves it: {foreign:?}"
        );
        dmaplane_testkit::sys::ioctl(context.as_fd(), abi::IOC_POOL_CARVE, &mut again)?;
        // A pool is no buffer, and a buffer no pool.
        again[8..12].copy_from_slice(
            &Buffer::create(&context, PAGE, Placement::Any)?
                .raw_handle()
                .to_ne_bytes(),
        );
        let buffer = dmaplane_testkit::sys::ioctl(context.as_fd(), abi::IOC_POOL_CARVE, &mut again);
        ensure!(buffer.is_err(), "a buffer is carved");
        Ok(())
    });
}

#[test]
fn numa_pool_outlives_its_name_and_frees_parts_with_their_last_keeper() {
    test(|guest| {
        let before = Gauges::read()?;
        let context = Context::open()?;
        let pool = Pool::builder(2 * MIB).create(&context)?;
        let buffer = pool.carve(MIB)?;
        let part = buffer.map(0..PAGE)?;
        drop(buffer);
        // A mapping of one page keeps the part.
        ensure!(pool.query()?.carved == 1, "{:?}", pool.query()?);
        ensure!(refusal(pool.carve(2 * MIB))? == Errno::NOSPC);
        drop(part);
        carved(&pool, 0, guest.limit(2))?;
        pool.carve(2 * MIB).context("the whole after all is back")?;

        let buffer = pool.carve(MIB)?;
        pattern::fill_memory(&buffer, 0, MIB, 2, 0);
        let mapping = buffer.into_mapping();
        drop(pool);
        drop(context);
        ensure!(
            Gauges::read()?.get("pools") == before.get("pools") + 1,
            "the pool went too early"
        );
        let wrong = pattern::mismatch_in_memory(&mapping, 0, MIB, 2, 0);
        ensure!(
            wrong.is_none(),
            "byte {wrong:?} is wrong after the pool's end"
        );
        drop(mapping);
        gauges::settle(&before, guest.limit(2))
    });
}

#[test]
fn numa_pool_is_registered_once_for_all() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let (target, _own, grant) = local.granted_bytes(guest, MIB, &GrantTerms::default())?;
        let pool = Pool::builder(4 * MIB).create(&local.near_context)?;
        let mut channel = Channel::builder().entries(8).build(&local.near_context)?;
        ensure!(
            pool.query()?.regions == 0,
            "registered before its first use"
        );
        let regions = |gauges: &Gauges| gauges.get("regions");
        let mut kept = Vec::new();
        let mut warm = None;
        for round in 0..6u64 {
            // At changing places of the pool.
            let buffer = pool.carve(MIB / 2 + round * PAGE)?;
            pattern::fill_memory(&buffer, 0, buffer.len(), round, 0);
            channel.push(Entry::write(
                buffer.range(3 * PAGE, 64 << 10),
                grant.at(round * PAGE),
            ))?;
            complete(&mut channel, 1, limit)?[0].result()?;
            let wrong =
                pattern::mismatch_in_memory(&target, round * PAGE, 64 << 10, round, 3 * PAGE);
            ensure!(
                wrong.is_none(),
                "round {round}: byte {wrong:?} came from elsewhere"
            );
            ensure!(pool.query()?.regions == 1, "{:?}", pool.query()?);
            ensure!(buffer.residency()?.regions == 1);
            let now = regions(&Gauges::read()?);
            ensure!(
                *warm.get_or_insert(now) == now,
                "another registration: {now} regions"
            );
            if round % 2 == 0 && round < 4 {
                kept.push(buffer);
            }
        }
        Ok(())
    });
}

#[test]
fn numa_pool_part_is_taken_until_its_transfer_is_over() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let limit = guest.limit(10);
        let (_target, _own, grant) = local.granted(guest, &GrantTerms::default())?;
        let pool = Pool::builder(MIB).create(&local.near_context)?;
        let mut channel = Channel::builder().entries(8).build(&local.near_context)?;
        for end_by_cancel in [false, true] {
            let buffer = pool.carve(MIB)?;
            // It waits for a receive of the peer's.
            channel.push(Entry::write_imm(buffer.range(0, 4096), grant.at(0), 1).user_data(7))?;
            channel.submit()?;
            drop(buffer);
            ensure!(pool.query()?.carved == 1, "given up under a transfer");
            ensure!(
                refusal(pool.carve(PAGE))? == Errno::NOSPC,
                "carved under a transfer"
            );
            if end_by_cancel {
                channel.push(Entry::cancel(&local.near, 7))?;
                let done = complete(&mut channel, 2, limit)?;
                let canceled = done.iter().any(|done| done.state() == State::Canceled);
                ensure!(canceled, "{done:?}");
            } else {
                let mut far = Channel::builder().entries(8).build(&local.far_context)?;
                far.push(Entry::recv(&local.far))?;
                far.submit()?;
                complete(&mut channel, 1, limit)?[0].result()?;
                far.wait(1, limit)?;
            }
            carved(&pool, 0, limit)?;
        }
        Ok(())
    });
}

#[test]
fn numa_pool_is_carved_by_many_threads() {
    test(|guest| {
        let context = Context::open()?;
        let pool = Pool::builder(2 * MIB).create(&context)?;
        let rounds = guest.pick(400, 40);
        let work = &|thread: u64| -> Result<()> {
            let mut numbers = Numbers::new(seed()? ^ thread);
            for round in 0..rounds {
                let Ok(buffer) = pool.carve(PAGE << numbers.below(5)) else {
                    continue;
                };
                let tag = thread << 32 | round;
                pattern::fill_memory(&buffer, 0, buffer.len(), tag, 0);
                std::thread::yield_now();
                let wrong = pattern::mismatch_in_memory(&buffer, 0, buffer.len(), tag, 0);
                ensure!(wrong.is_none(), "byte {wrong:?} is another thread's");
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| scope.spawn(move || work(thread)))
                .collect();
            for thread in threads {
                thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            }
            Ok::<_, dmaplane_testkit::Error>(())
        })?;
        ensure!(pool.query()?.free_bytes == 2 * MIB, "{:?}", pool.query()?);
        Ok(())
    });
}

#[test]
fn numa_pool_is_charged_once() {
    test(|_| {
        let cgroup = MemoryCgroup::enter("dmaplane-pool")?;
        let context = Context::open()?;
        let before = cgroup.current()?;
        let gauges = Gauges::read()?;
        let pool = Pool::builder(32 * MIB).create(&context)?;
        let charged = cgroup.current()?.saturating_sub(before);
        ensure!(
            charged > 31 * MIB,
            "32 MiB were allocated and {charged} bytes charged"
        );
        let _buffer = pool.carve(16 * MIB)?;
        let more = cgroup.current()?.saturating_sub(before + charged);
        ensure!(more < MIB, "carving charged {more} bytes");
        let bytes = Gauges::read()?.get("bytes") - gauges.get("bytes");
        ensure!(bytes == 32 * MIB, "{bytes} bytes are counted");
        Ok(())
    });
}

/// The tables for the pages of a large pool alone exceed the limit of the cgroup: allocating them used to trigger the
/// OOM killer.
#[test]
fn numa_pool_beyond_the_cgroup_kills_nobody() {
    test(|_| {
        let cgroup = MemoryCgroup::enter("dmaplane-large-pool")?;
        let context = Context::open()?;
        let bytes = context.limits().max_buffer_bytes.min(4 << 30);
        // Less than either of the two tables takes, which have 8 and 12 bytes for each page.
        cgroup.set_max(Some(cgroup.current()? + bytes / PAGE * 6))?;
        let refused = refusal(Pool::builder(bytes).create(&context));
        cgroup.set_max(None)?;
        let errno = refused?;
        ensure!(errno == Errno::NOMEM, "{bytes} bytes: {errno}");
        ensure!(cgroup.oom_kills()? == 0, "the kernel killed a process");
        Ok(())
    });
}
