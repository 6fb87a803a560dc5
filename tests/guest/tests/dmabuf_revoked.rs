// SPDX-License-Identifier: MIT OR Apache-2.0

//! Shared memory that is taken back: what happens to those who have it, and races against other operations, at each
//! delay point.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use dmaplane::{
    Buffer, Channel, Context, Entry, Errno, ExportAccess, GrantTerms, Placement, Standing, State,
};
use dmaplane_guest_tests::import::{device_camera, is_gone};
use dmaplane_guest_tests::race::{against, at_delay_points, once_each};
use dmaplane_guest_tests::{Loopback, complete, holds, refusal};
use dmaplane_testkit::dmabuf::vgem::Vgem;
use dmaplane_testkit::dmabuf::vivid::{Kind, Vivid};
use dmaplane_testkit::dmabuf::{self, Access};
use dmaplane_testkit::sys::{self, Words};
use dmaplane_testkit::{ErrorContext as _, Gauges, Result, ensure, gauges, pattern, test};
use dmaplane_uapi as abi;
use rustix::fs::{Mode, OFlags};

const PAGE: u64 = 4096;
const BYTES: u64 = 256 << 10;
/// Room for a frame of the camera.
const FRAMES: u64 = 2 << 20;

#[test]
fn dmabuf_import_is_taken_back() {
    test(|guest| {
        let before = Gauges::read()?;
        let (giver, taker) = (Context::open()?, Context::open()?);
        let own = Buffer::create(&giver, BYTES, Placement::Any)?;
        pattern::fill_memory(&own, 0, BYTES, 1, 0);
        let fd = own.export()?;
        let import = Buffer::import(&taker, fd.as_fd())?;
        holds(&import, BYTES, 1, 0)?;
        let mut channel = Channel::builder().entries(8).build(&taker)?;
        channel.push(Entry::watch_buffer(&import))?;
        channel.submit()?;
        let child = sys::fork(|| {
            // Mapped, and touched after the parent has taken it back.
            while import
                .memory()
                .is_ok_and(|info| info.standing != Standing::Revoked)
            {}
            import.write_at(0, &[1]);
            true
        })?;
        own.revoke()?;
        let done = complete(&mut channel, 1, guest.limit(10))?[0];
        ensure!(
            done.is_ok() && done.imm() == abi::REVOKE_EXPORTER,
            "{done:?}"
        );
        ensure!(child.wait_signal()? == 7, "not SIGBUS");
        is_gone(guest, &taker, &import)?;
        // New uses of the dma-buf.
        ensure!(refusal(own.export())? == Errno::STALE);
        ensure!(refusal(Buffer::import(&taker, fd.as_fd()))? == Errno::NODEV);
        for kind in [Kind::Device, Kind::Mapping] {
            let held = Vivid::open(kind)?.hold(fd.as_fd())?;
            ensure!(held.is_err(), "{kind:?}: {held:?}");
        }
        let mapped = Words::map(fd.as_fd(), 0, 4096).err();
        ensure!(mapped.is_some(), "it can still be mapped");
        let synced = dmabuf::sync(fd.as_fd(), Access::Read, true);
        ensure!(synced == Err(Errno::NODEV), "{synced:?}");
        drop((import, channel, fd, own, giver, taker));
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn dmabuf_importer_that_never_unmaps() {
    test(|guest| {
        let before = Gauges::read()?;
        let context = Context::open()?;
        let own = Buffer::create(&context, FRAMES, Placement::Strict(0))?;
        let fd = own.export()?;
        let camera = device_camera(guest)?;
        ensure!(camera.hold(fd.as_fd())?.is_ok());
        let begun = Instant::now();
        // The camera cannot be notified: everybody else lost the memory, and the errno says that somebody did not.
        ensure!(refusal(own.revoke())? == Errno::BUSY);
        ensure!(begun.elapsed() < guest.limit(2), "{:?}", begun.elapsed());
        ensure!(own.memory()?.standing == Standing::Revoked);
        let buffers = Gauges::read()?.get("buffers");
        drop((own, context, fd));
        let now = Gauges::read()?.get("buffers");
        ensure!(now == buffers, "the camera's pages are gone");
        camera.let_go()?;
        gauges::settle(&before, guest.limit(5))
    });
}

/// Importers of several exports, whose devices are at work for longer than a revocation waits.
#[test]
fn dmabuf_importers_are_waited_for_together() {
    test(|guest| {
        const EXPORTS: u64 = 8;
        // Longest wait for importers (docs/interface.md).
        const LET_GO: Duration = Duration::from_secs(1);
        let before = Gauges::read()?;
        let vgem = Vgem::open()?;
        let context = Context::open()?;
        let own = Buffer::create(&context, EXPORTS * FRAMES, Placement::Strict(0))?;
        let range = |number| number * FRAMES..(number + 1) * FRAMES;
        let fds: Vec<_> = (0..EXPORTS)
            .map(|number| own.export_range(range(number), ExportAccess::ReadWrite))
            .collect::<Result<_, _>>()?;
        let objects: Vec<_> = fds
            .iter()
            .map(|fd| vgem.import(fd.as_fd()))
            .collect::<Result<_, _>>()?;
        let camera = device_camera(guest)?;
        let held: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
        ensure!(camera.hold_all(&held)?.is_ok());
        // vgem's fences signal after 10 s.
        for object in objects {
            vgem.fence(object, true)?;
        }
        let begun = Instant::now();
        ensure!(refusal(own.revoke())? == Errno::BUSY);
        let took = begun.elapsed();
        ensure!(took >= LET_GO, "it did not wait for anybody: {took:?}");
        ensure!(
            took < LET_GO * 4,
            "they were waited for one after the other: {took:?}"
        );
        camera.let_go()?;
        drop((own, context, fds, vgem));
        gauges::settle(&before, guest.limit(5))
    });
}

#[test]
fn dmabuf_import_under_transfer_is_taken_back() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let giver = Context::open()?;
        let host = Buffer::create(&local.far_context, BYTES, Placement::Any)?;
        let limit = guest.limit(10);
        let grant = local
            .far
            .grant_on(&host, 0..BYTES, &GrantTerms::default(), limit)?;
        let given = local.near.wait_grant(limit)?;
        for round in 0..guest.pick(50, 5) {
            let own = Buffer::create(&giver, BYTES, Placement::Any)?;
            let fd = own.export()?;
            let import = Buffer::import(&local.near_context, fd.as_fd())?;
            let mut channel = Channel::builder().entries(64).build(&local.near_context)?;
            for name in 0..32 {
                let entry = match name % 3 {
                    0 => Entry::copy(import.range(0, 4096), &import, PAGE),
                    _ => Entry::write(import.range(0, 65536), given.at(0)),
                };
                channel.push(entry.user_data(name))?;
            }
            let done = against(&own, || complete(&mut channel, 32, limit))?;
            once_each(&done, 32, &[State::Ok, State::Revoked])
                .with_context(|| format!("round {round}"))?;
            is_gone(guest, &local.near_context, &import)?;
        }
        drop(grant);
        Ok(())
    });
}

#[test]
fn dmabuf_delay_point_export() {
    test(|guest| {
        let context = Context::open()?;
        let delay_points = [
            "dmabuf_exported",
            "use_begun",
            "revocation_begun",
            "drained",
        ];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let own = Buffer::create(&context, PAGE, Placement::Any)?;
            match against(&own, || Ok(own.export()))? {
                // It came first, and is dead all the same.
                Ok(fd) => {
                    let synced = dmabuf::sync(fd.as_fd(), Access::Read, true);
                    ensure!(synced == Err(Errno::NODEV), "{synced:?}");
                }
                Err(error) => ensure!(error.errno() == Some(Errno::STALE), "{error}"),
            }
            Ok(())
        })
    });
}

#[test]
fn dmabuf_delay_point_import() {
    test(|guest| {
        let (giver, taker) = (Context::open()?, Context::open()?);
        let delay_points = [
            "dmabuf_attached",
            "use_begun",
            "revocation_begun",
            "drained",
        ];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let own = Buffer::create(&giver, PAGE, Placement::Any)?;
            let fd = own.export()?;
            let import = || Buffer::import_unmapped(&taker, fd.as_fd());
            match against(&own, || Ok(import()))? {
                Ok(import) => is_gone(guest, &taker, &import)?,
                Err(error) => ensure!(error.errno() == Some(Errno::NODEV), "{error}"),
            }
            Ok(())
        })
    });
}

#[test]
fn dmabuf_delay_point_map() {
    test(|guest| {
        let giver = Context::open()?;
        let camera = device_camera(guest)?;
        // Without a race it holds such a buffer: so a refusal below comes from the race.
        let whole = Buffer::create(&giver, FRAMES, Placement::Strict(0))?;
        camera.hold(whole.export()?.as_fd())??;
        camera.let_go()?;
        let delay_points = [
            "addresses_mapped",
            "use_begun",
            "revocation_begun",
            "drained",
        ];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let own = Buffer::create(&giver, FRAMES, Placement::Strict(0))?;
            let fd = own.export()?;
            let (revoked, held) = std::thread::scope(|scope| -> Result<_> {
                let worker = scope.spawn(|| camera.hold(fd.as_fd()));
                let revoked = own.revoke();
                let held = worker.join();
                let held = held.map_err(|_| dmaplane_testkit::anyhow!("a panic"))??;
                Ok((revoked, held))
            })?;
            // Either it came too late, or the revocation says that somebody has the memory.
            if held.is_ok() {
                ensure!(refusal(revoked)? == Errno::BUSY);
                camera.let_go()?;
            } else {
                revoked?;
            }
            Ok(own.revoke()?)
        })
    });
}

#[test]
fn dmabuf_delay_point_copy_and_registration() {
    test(|guest| {
        let local = Loopback::new(guest)?;
        let giver = Context::open()?;
        let limit = guest.limit(10);
        let (_theirs, _grant, given) = local.granted(guest, &GrantTerms::default())?;
        let delay_points = [
            "entry_accepted",
            "use_begun",
            "work_completed",
            "revocation_begun",
            "dequeued",
            "drained",
        ];
        at_delay_points(guest, &delay_points, guest.pick(20, 3), |_| {
            let own = Buffer::create(&giver, PAGE, Placement::Any)?;
            let fd = own.export()?;
            let import = Buffer::import_unmapped(&local.near_context, fd.as_fd())?;
            let mut channel = Channel::builder().entries(64).build(&local.near_context)?;
            for name in 0..32 {
                let entry = match name % 2 {
                    0 => Entry::copy(import.range(0, 64), &import, 1024),
                    _ => Entry::write(import.range(0, 4096), given.at(0)),
                };
                channel.push(entry.user_data(name))?;
            }
            let done = against(&own, || complete(&mut channel, 32, limit))?;
            once_each(&done, 32, &[State::Ok, State::Revoked])?;
            is_gone(guest, &local.near_context, &import)
        })
    });
}

/// A descriptor opened with O_PATH keeps the dma-buf, but not its file, whose memory another file reuses: revocation
/// must leave that file's mappings alone.
#[test]
fn dmabuf_is_taken_back_when_only_its_path_is_left() {
    test(|guest| {
        let before = Gauges::read()?;
        let context = Context::open()?;
        let path = format!("/run/dmaplane-victim-{}", std::process::id());
        fs::write(&path, [0; PAGE as usize])?;
        let victim = File::open(&path)?;
        let private = Words::map_private(victim.as_fd(), PAGE as usize)?;
        for round in 0..20 {
            private.at(0).store(77, Ordering::Relaxed);
            let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
            let fd = buffer.export()?;
            let own = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
            let name = rustix::fs::open(own, OFlags::PATH, Mode::empty())?;
            drop(fd);
            let others: Result<Vec<_>, _> = (0..200).map(|_| File::open(&path)).collect();
            buffer.revoke()?;
            let left = private.at(0).load(Ordering::Relaxed);
            ensure!(left == 77, "round {round}: a stranger's page is gone");
            drop((others?, name));
        }
        fs::remove_file(&path)?;
        drop(context);
        gauges::settle(&before, guest.limit(10))
    });
}

/// Another driver may map a dma-buf through a file of its own, whose mode the framework ignores. A private mapping
/// reaches the same code without such a driver.
#[test]
fn dmabuf_for_reading_is_never_mapped_for_writing() {
    test(|_| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, PAGE, Placement::Any)?;
        buffer.write_at(0, &[3; 4]);
        let fd = buffer.export_range(0..PAGE, ExportAccess::ReadOnly)?;
        let writable = Words::map(fd.as_fd(), 0, PAGE as usize).err();
        ensure!(writable == Some(Errno::ACCESS), "{writable:?}");
        let past = Words::map_private(fd.as_fd(), PAGE as usize).err();
        ensure!(past == Some(Errno::ACCESS), "{past:?}");
        Ok(())
    });
}
