// SPDX-License-Identifier: MIT OR Apache-2.0

//! Latency histograms: every operation is counted once, even while others read and empty the histograms.

use std::mem::offset_of;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use dmaplane::{
    Buffer, Channel, Entry, Errno, GrantTerms, Latency, OpKind, Placement, RemoteGrant, Rights,
    Stage,
};
use dmaplane_guest_tests::{Loopback, complete};
use dmaplane_testkit::faults::{self, Point, record};
use dmaplane_testkit::{Guest, Result, ensure, sys, test};
use dmaplane_uapi as abi;

const TERMS: GrantTerms = GrantTerms {
    rights: Rights::WRITE,
    label: 0,
    time_to_live: None,
    max_uses: 0,
};

/// Writes `count` times, one after the other, and returns the longest latency that the user saw.
fn write(guest: &Guest, local: &Loopback, given: &RemoteGrant, count: u32) -> Result<u64> {
    let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
    let mut near = Channel::builder().entries(8).build(&local.near_context)?;
    let mut longest = 0;
    for _ in 0..count {
        near.push(Entry::write(source.range(0, 64), given.at(0)))?;
        let done = complete(&mut near, 1, guest.limit(10))?[0];
        done.result()?;
        longest = longest.max(u64::try_from(done.latency().as_nanos())?);
    }
    Ok(longest)
}

/// Whether a reported latency is within the stated error.
fn is_close(wanted: u64, got: std::time::Duration) -> bool {
    let got = u64::try_from(got.as_nanos()).unwrap_or(u64::MAX);
    got.abs_diff(wanted) <= (wanted / 64).max(4)
}

fn sound(latency: &Latency) -> bool {
    let counted: u64 = latency.buckets.iter().sum();
    counted == latency.count
        && latency.p50 <= latency.p99
        && latency.p99 <= latency.p999
        && latency.p999 <= latency.max
        && latency.lost == 0
}

#[test]
fn stats_count_each_operation_and_its_stages() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_target, _own, given) = local.granted(guest, &TERMS)?;
        let count = guest.pick(500, 50);
        let longest = write(guest, &local, &given, count)?;
        for stage in [Stage::Queued, Stage::Provider, Stage::Total] {
            let latency = local.near.latency(OpKind::Write, stage, false)?;
            ensure!(
                latency.count == u64::from(count),
                "{stage:?}: {}",
                latency.count
            );
            ensure!(sound(&latency), "{stage:?}: {latency:?}");
        }
        let total = local.near.latency(OpKind::Write, Stage::Total, false)?;
        ensure!(
            is_close(longest, total.max),
            "{longest} is reported as {:?}",
            total.max
        );
        let provider = local.near.latency(OpKind::Write, Stage::Provider, false)?;
        ensure!(provider.max <= total.max, "{provider:?}");
        // Other histograms are separate.
        ensure!(local.near.latency(OpKind::Read, Stage::Total, false)?.count == 0);
        ensure!(local.far.latency(OpKind::Write, Stage::Total, false)?.count == 0);
        // Failed operations are not counted.
        let source = Buffer::create(&local.near_context, 4096, Placement::Any)?;
        let mut near = Channel::builder().entries(8).build(&local.near_context)?;
        near.push(Entry::write(source.range(0, 64), given.at(4096)))?;
        let done = complete(&mut near, 1, guest.limit(10))?[0];
        ensure!(done.result().is_err(), "{done:?}");
        ensure!(
            local
                .near
                .latency(OpKind::Write, Stage::Total, false)?
                .count
                == u64::from(count)
        );
        Ok(())
    });
}

#[test]
fn stats_report_what_found_no_memory() {
    test(|guest| {
        faults::require()?;
        faults::quiet()?;
        let local = Loopback::new(guest)?;
        let (_target, _own, given) = local.granted(guest, &TERMS)?;
        let refused = Point::always("alloc_histogram")?;
        write(guest, &local, &given, 3)?;
        ensure!(refused.fired()? > 0, "no histogram was refused");
        drop(refused);
        let latency = || local.near.latency(OpKind::Write, Stage::Total, false);
        let before = latency()?;
        ensure!(before.count == 0 && before.lost >= 3, "{before:?}");
        write(guest, &local, &given, 2)?;
        let after = latency()?;
        ensure!(after.count == 2 && after.lost == before.lost, "{after:?}");
        record(|_| ())
    });
}

#[test]
fn stats_lose_nothing_to_readings_that_empty() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let (_target, _own, given) = local.granted(guest, &TERMS)?;
        let count = guest.pick(2000, 100);
        let over = AtomicBool::new(false);
        let (written, read) = std::thread::scope(|scope| {
            let readers = [(); 2].map(|()| {
                scope.spawn(|| -> Result<u64> {
                    let mut sum = 0;
                    while !over.load(Ordering::Relaxed) {
                        let latency = local.near.latency(OpKind::Write, Stage::Total, true)?;
                        ensure!(sound(&latency), "{latency:?}");
                        sum += latency.count;
                    }
                    Ok(sum)
                })
            });
            let written = write(guest, &local, &given, count);
            over.store(true, Ordering::Relaxed);
            let read = readers.map(std::thread::ScopedJoinHandle::join);
            (written, read)
        });
        written?;
        let mut sum = local.near.latency(OpKind::Write, Stage::Total, true)?.count;
        for part in read {
            sum += part.map_err(|_| dmaplane_testkit::anyhow!("a reader panicked"))??;
        }
        ensure!(sum == u64::from(count), "{sum} of {count} were read");
        ensure!(
            local
                .near
                .latency(OpKind::Write, Stage::Total, false)?
                .count
                == 0
        );
        Ok(())
    });
}

#[test]
fn stats_can_be_switched_off() {
    test(|guest| {
        const SWITCH: &str = "/sys/kernel/debug/dmaplane/state/histograms_enabled";
        let local = Loopback::new(guest)?;
        let (_target, _own, given) = local.granted(guest, &TERMS)?;
        std::fs::write(SWITCH, "0")?;
        let written = write(guest, &local, &given, 10);
        std::fs::write(SWITCH, "1")?;
        written?;
        ensure!(
            local
                .near
                .latency(OpKind::Write, Stage::Total, false)?
                .count
                == 0
        );
        write(guest, &local, &given, 10)?;
        ensure!(
            local
                .near
                .latency(OpKind::Write, Stage::Total, false)?
                .count
                == 10
        );
        Ok(())
    });
}

#[test]
fn stats_are_refused_for_what_has_none() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let handle = (offset_of!(abi::StatsQuery, handle), local.near.raw_handle());
        let op = |op: u32| (offset_of!(abi::StatsQuery, op), op);
        let stage = |stage: u32| (offset_of!(abi::StatsQuery, stage), stage);
        let write = op(abi::OP_WRITE.into());
        let total = stage(abi::STAGE_TOTAL);
        let flags = (offset_of!(abi::StatsQuery, flags), 2);
        let nobody = (handle.0, 0x7fff_ffff);
        let nowhere = (offset_of!(abi::StatsQuery, buckets), 8);
        let room = (offset_of!(abi::StatsQuery, bucket_count), 4);
        type Case<'a> = (&'a [(usize, u32)], std::result::Result<(), Errno>);
        let wrong: [Case<'_>; 7] = [
            (&[handle, write, total], Ok(())),
            (&[handle, op(abi::OP_NOP.into()), total], Err(Errno::INVAL)),
            (&[handle, op(0x1_0002), total], Err(Errno::INVAL)),
            (&[handle, write, stage(3)], Err(Errno::INVAL)),
            (&[handle, write, total, flags], Err(Errno::INVAL)),
            (&[nobody, write, total], Err(Errno::NOENT)),
            (&[handle, write, total, nowhere, room], Err(Errno::FAULT)),
        ];
        for (members, wanted) in wrong {
            let mut argument = [0; size_of::<abi::StatsQuery>()];
            argument[0] = u8::try_from(argument.len())?;
            for (at, value) in members {
                argument[*at..*at + 4].copy_from_slice(&value.to_ne_bytes());
            }
            let fd = local.near_context.as_fd();
            let result = sys::ioctl(fd, abi::IOC_STATS_QUERY, &mut argument);
            ensure!(result == wanted, "{members:?}: {result:?}");
        }
        Ok(())
    });
}
