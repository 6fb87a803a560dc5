// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device's memory as dma-bufs: what importers and processes see of it, who is refused, and how all of them lose it, by
//! its owner and with the device, at each delay point.

use std::os::fd::{AsFd as _, OwnedFd};

use dmaplane::{
    Buffer, Channel, Context, Entry, Errno, GrantTerms, ImportLack, Placement, RdmaPath, Standing,
    State, Tier,
};
use dmaplane_guest_tests::device::{Bound, device, rebound};
use dmaplane_guest_tests::import::{bounces, is_gone};
use dmaplane_guest_tests::race::{against, at_delay_points, once_each};
use dmaplane_guest_tests::{Loopback, complete, holds, one, refusal};
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::dmabuf::vivid::{Kind, Vivid};
use dmaplane_testkit::dmabuf::{self, Access};
use dmaplane_testkit::sys::{self, Words};
use dmaplane_testkit::{ErrorContext as _, Gauges, Guest, Result, ensure, gauges, pattern, test};

const PAGE: u64 = 4096;
const BYTES: u64 = 64 << 10;
/// Room for a frame of the camera.
const FRAMES: u64 = 256 << 10;

/// A range of the guest's device with what belongs to `seed`, and its dma-buf.
fn exported(context: &Context, number: u64, tier: Tier, seed: u64) -> Result<(Buffer, OwnedFd)> {
    let own = Buffer::on_device(context, number, tier, BYTES, None)?;
    pattern::fill_memory(&own, 0, BYTES, seed, 0);
    let fd = own.export()?;
    Ok((own, fd))
}

/// Fails unless nothing can be done with a dma-buf whose memory was taken away.
fn is_dead(fd: &OwnedFd, context: &Context) -> Result<()> {
    let mapped = Words::map(fd.as_fd(), 0, 4096).err();
    ensure!(mapped == Some(Errno::NODEV), "mapped: {mapped:?}");
    let synced = dmabuf::sync(fd.as_fd(), Access::Read, true);
    ensure!(synced == Err(Errno::NODEV), "{synced:?}");
    let imported = refusal(Buffer::import_unmapped(context, fd.as_fd()))?;
    ensure!(imported == Errno::NODEV, "imported: {imported}");
    Ok(())
}

#[test]
fn bar_export_shows_what_is_there() {
    test(|guest| {
        let before = Gauges::read()?;
        let (giver, taker) = (Context::open()?, Context::open()?);
        let device = device(guest, &giver)?;
        let host = Buffer::create(&taker, BYTES, Placement::Any)?;
        let mut channel = Channel::builder().entries(8).build(&taker)?;
        for info in &device.tiers {
            let (own, whole) = exported(&giver, device.number, info.tier, 1)?;
            // A part, so that offsets are not all 0.
            let access = dmaplane::ExportAccess::ReadWrite;
            let part = own.export_range(4 * PAGE..8 * PAGE, access)?;
            let import = Buffer::import(&taker, part.as_fd())?;
            ensure!(import.len() == 4 * PAGE, "{} bytes", import.len());
            let can = import.imported().context("no import")?;
            let lack = match info.rdma {
                RdmaPath::Direct => None,
                _ => Some(ImportLack::Pages),
            };
            ensure!(
                can.copied && can.writable && can.mappable && can.lack == lack,
                "{can:?}"
            );
            // By COPY, by the import's mapping, and by one of the dma-buf itself.
            let out = Entry::copy(import.range(0, 4 * 4096), &host, 0);
            ensure!(one(&mut channel, guest, out)?.is_ok(), "COPY out");
            holds(&host, 4 * PAGE, 1, 4 * PAGE)?;
            holds(&import, 4 * PAGE, 1, 4 * PAGE)?;
            let mapped = Words::map(whole.as_fd(), 0, usize::try_from(BYTES)?)?;
            holds(&mapped, BYTES, 1, 0)?;
            // And back.
            pattern::fill_memory(&host, 0, BYTES, 2, 0);
            let back = Entry::copy(host.range(0, 2 * 4096), &import, PAGE);
            ensure!(one(&mut channel, guest, back)?.is_ok(), "COPY in");
            let wrong = pattern::mismatch_in_memory(&own, 5 * PAGE, 2 * PAGE, 2, 0);
            ensure!(wrong.is_none(), "{info:?}: byte {wrong:?}");
            let around = pattern::mismatch_in_memory(&own, 0, 5 * PAGE, 1, 0);
            ensure!(around.is_none(), "{info:?}: byte {around:?} was written");
            pattern::fill_memory(&mapped, 0, BYTES, 3, 0);
            holds(&own, BYTES, 3, 0)?;
        }
        drop((channel, host, giver, taker));
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn bar_export_is_reached_by_rdma_where_it_has_pages() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let giver = Context::open()?;
        let device = device(guest, &giver)?;
        let (target, _own, given) = local.granted(guest, &GrantTerms::default())?;
        let mut channel = Channel::builder().entries(8).build(&local.near_context)?;
        for info in &device.tiers {
            let (own, fd) = exported(&giver, device.number, info.tier, 4)?;
            let import = Buffer::import_unmapped(&local.near_context, fd.as_fd())?;
            let sent = Entry::write(import.range(PAGE, 4096), given.at(0));
            let done = one(&mut channel, guest, sent)?;
            if info.rdma == RdmaPath::Direct {
                ensure!(done.is_ok(), "{done:?}");
                holds(&target, PAGE, 4, PAGE)?;
            } else {
                let errno = done.result().err().map(|error| error.errno());
                ensure!(errno == Some(Errno::OPNOTSUPP), "{done:?}");
            }
            own.revoke()?;
            is_gone(guest, &local.near_context, &import)?;
        }
        Ok(())
    });
}

#[test]
fn bar_export_is_refused_to_who_cannot_let_go() {
    test(|guest| {
        let before = Gauges::read()?;
        let context = Context::open()?;
        let device = device(guest, &context)?;
        let own = Buffer::on_device(&context, device.number, Tier::Uncached, FRAMES, None)?;
        let fd = own.export()?;
        for kind in [Kind::Device, Kind::Mapping] {
            let camera = Vivid::open(kind)?;
            // It accepts as much host memory: so the device is the reason for the refusal.
            let host = Buffer::create(&context, 2 << 20, Placement::Strict(0))?;
            let held = camera.hold(host.export()?.as_fd())?;
            let refused = kind == Kind::Device && bounces(guest);
            ensure!(held.is_err() == refused, "{kind:?}, host memory: {held:?}");
            camera.let_go()?;
            let held = camera.hold(fd.as_fd())?;
            ensure!(held.is_err(), "{kind:?} has a device's memory");
        }
        // Nobody holds it: no EBUSY.
        own.revoke()?;
        drop((own, fd, context));
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn bar_export_is_taken_back_by_its_owner() {
    test(|guest| {
        let before = Gauges::read()?;
        let (giver, taker) = (Context::open()?, Context::open()?);
        let device = device(guest, &giver)?;
        for info in &device.tiers {
            let (own, fd) = exported(&giver, device.number, info.tier, 1)?;
            let import = Buffer::import(&taker, fd.as_fd())?;
            let mapped = Words::map(fd.as_fd(), 0, 4096)?;
            for through_import in [false, true] {
                let gone = sys::fork(|| {
                    while own
                        .memory()
                        .is_ok_and(|info| info.standing != Standing::Revoked)
                    {}
                    if through_import {
                        import.write_at(0, &[1]);
                    } else {
                        mapped.at(0).store(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    true
                })?;
                own.revoke()?;
                ensure!(gone.wait_signal()? == 7, "not SIGBUS");
            }
            is_gone(guest, &taker, &import)?;
            is_dead(&fd, &taker)?;
            ensure!(refusal(own.export())? == Errno::STALE);
            // The range is free, and nobody who had it sees what is there next.
            let zone = Buffer::on_device(&giver, device.number, info.tier, info.bytes, None)?;
            drop((zone, mapped, import, fd, own));
        }
        drop((giver, taker));
        gauges::settle(&before, guest.limit(5))
    });
}

/// COPY in both directions through an import while `take` takes the memory away.
fn under_copies(
    guest: &Guest,
    taker: &Context,
    fd: &OwnedFd,
    take: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let import = Buffer::import_unmapped(taker, fd.as_fd())?;
    let host = Buffer::create(taker, BYTES, Placement::Any)?;
    let mapped = Words::map(fd.as_fd(), 0, 4096)?;
    let mut channel = Channel::builder().entries(64).build(taker)?;
    for name in 0..32 {
        let entry = match name % 2 {
            0 => Entry::copy(import.range(0, 16 << 10), &host, 0),
            _ => Entry::copy(host.range(0, 16 << 10), &import, PAGE),
        };
        channel.push(entry.user_data(name))?;
    }
    let done = std::thread::scope(|scope| {
        let worker = scope.spawn(|| complete(&mut channel, 32, guest.limit(20)));
        take()?;
        let joined = worker.join();
        joined.map_err(|_| dmaplane_testkit::anyhow!("a thread panicked"))?
    })?;
    once_each(&done, 32, &[State::Ok, State::Revoked])?;
    is_gone(guest, taker, &import)?;
    is_dead(fd, taker)?;
    drop(mapped);
    Ok(())
}

#[test]
fn bar_export_delay_points_of_the_owner() {
    test(|guest| {
        let (giver, taker) = (Context::open()?, Context::open()?);
        let device = device(guest, &giver)?;
        let delay_points = [
            "entry_accepted",
            "dmabuf_attached",
            "use_begun",
            "revocation_begun",
            "drained",
        ];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |round| {
            let tier = device.tiers[round as usize % device.tiers.len()].tier;
            let (own, fd) = exported(&giver, device.number, tier, round)?;
            under_copies(guest, &taker, &fd, || Ok(own.revoke()?))
        })?;
        // An import, and an export, that the revocation meets on the way.
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |round| {
            let (own, fd) = exported(&giver, device.number, Tier::Uncached, round)?;
            let import = || Buffer::import_unmapped(&taker, fd.as_fd());
            match against(&own, || Ok(import()))? {
                Ok(import) => is_gone(guest, &taker, &import)?,
                Err(error) => ensure!(error.errno() == Some(Errno::NODEV), "{error}"),
            }
            is_dead(&fd, &taker)
        })?;
        let delay_points = [
            "dmabuf_exported",
            "use_begun",
            "revocation_begun",
            "drained",
        ];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let own = Buffer::on_device(&giver, device.number, Tier::Uncached, PAGE, None)?;
            match against(&own, || Ok(own.export()))? {
                Ok(fd) => is_dead(&fd, &taker),
                Err(error) => {
                    ensure!(error.errno() == Some(Errno::STALE), "{error}");
                    Ok(())
                }
            }
        })
    });
}

/// The import knows the pages, and they are gone before there is memory of them: it used to look at them all the same.
#[test]
fn bar_export_goes_with_the_device_under_an_import() {
    test(|guest| {
        let (giver, taker) = (Context::open()?, Context::open()?);
        device(guest, &giver)?;
        // The import reaches its delay point first, and stays there until the device's memory is gone.
        let leaving = DelayPoint::open("device_removal", guest.limit(1) / 20)?;
        let lent = DelayPoint::open("pages_mapped", guest.limit(1) / 2)?;
        let mut imports = 0;
        for _ in 0..guest.pick(5, 2) {
            let device = rebound(guest, &giver, 0)?;
            let bound = Bound::of(&device)?;
            let (own, fd) = exported(&giver, device.number, Tier::Uncached, 1)?;
            let (import, unbound) = std::thread::scope(|scope| {
                let import = scope.spawn(|| Buffer::import_unmapped(&taker, fd.as_fd()));
                let unbound = bound.unbind();
                (import.join(), unbound)
            });
            bound.bind()?;
            unbound?;
            let import = import.map_err(|_| dmaplane_testkit::anyhow!("a thread panicked"))?;
            match import {
                Ok(import) => {
                    imports += 1;
                    is_gone(guest, &taker, &import)?;
                }
                Err(error) => ensure!(error.errno() == Some(Errno::NODEV), "{error}"),
            }
            is_dead(&fd, &taker)?;
            ensure!(own.memory()?.standing == Standing::Revoked);
        }
        drop((leaving, lent));
        ensure!(imports > 0, "no import was under way");
        rebound(guest, &giver, 0)?;
        Ok(())
    });
}

#[test]
fn bar_export_goes_with_the_device() {
    test(|guest| {
        let before = Gauges::read()?;
        let (giver, taker) = (Context::open()?, Context::open()?);
        // Skips where there is none: only then is the next one waited for.
        device(guest, &giver)?;
        let delay_points = ["device_removal", "use_begun", "revocation_begun", "drained"];
        at_delay_points(guest, &delay_points, guest.pick(10, 2), |round| {
            let device = rebound(guest, &giver, 0)?;
            let bound = Bound::of(&device)?;
            let tier = device.tiers[round as usize % device.tiers.len()].tier;
            let (own, fd) = exported(&giver, device.number, tier, round)?;
            let taken = under_copies(guest, &taker, &fd, || bound.unbind());
            // Whatever came of it, others have the device after this test.
            bound.bind()?;
            taken?;
            ensure!(own.memory()?.standing == Standing::Revoked);
            Ok(())
        })?;
        rebound(guest, &giver, 0)?;
        drop((giver, taker));
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn bar_export_lives_and_orders_of_letting_go() {
    test(|guest| {
        let before = Gauges::read()?;
        let (giver, taker) = (Context::open()?, Context::open()?);
        let device = device(guest, &giver)?;
        let mut zone = None;
        for round in 0..guest.pick(500, 60) {
            let tier = device.tiers[round as usize % device.tiers.len()].tier;
            let (own, fd) = exported(&giver, device.number, tier, round)?;
            let import = Buffer::import(&taker, fd.as_fd())?;
            let mapped = Words::map(fd.as_fd(), 0, 4096)?;
            match round % 4 {
                0 => drop((own, fd)),
                1 => drop((fd, own)),
                2 => own.revoke()?,
                _ => drop(own),
            }
            if round % 4 != 2 {
                // Whoever is left keeps the memory, which is still the device's.
                holds(&import, BYTES, round, 0)?;
                holds(&mapped, 4096, round, 0)?;
            }
            drop((import, mapped));
            let info = dmaplane_guest_tests::device::device(guest, &giver)?;
            zone = Some(info);
        }
        drop((giver, taker));
        gauges::settle(&before, guest.limit(5))?;
        // All of it is the device's again.
        let context = Context::open()?;
        let after = dmaplane_guest_tests::device::device(guest, &context)?;
        let free =
            |tiers: &[dmaplane::TierInfo]| -> u64 { tiers.iter().map(|tier| tier.free).sum() };
        ensure!(
            free(&after.tiers) == free(&device.tiers),
            "{after:?}, in the end of the rounds {zone:?}"
        );
        Ok(())
    });
}
