// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the driver shows of memory that was taken away and of objects that are ending, and what it shows nowhere.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::time::Duration;

use dmaplane::{Buffer, Channel, Context, Entry, Placement};
use dmaplane_guest_tests::{Loopback, complete};
use dmaplane_observe::state::{self, State};
use dmaplane_observe::trace::Event;
use dmaplane_observe::tracefs::Recording;
use dmaplane_testkit::delay_point::DelayPoint;
use dmaplane_testkit::iproute2::rdma;
use dmaplane_testkit::{ErrorContext as _, Result, anyhow, ensure, poll, test};

const BYTES: u64 = 16 << 10;

/// A registration that a revocation ended used to be shown as live until its buffer was gone, and only then traced as
/// ended.
#[test]
fn observe_regions_end_with_their_memory() {
    test(|guest| {
        let recording = Recording::start(&["region_revoke"])?;
        let local = Loopback::new(guest)?;
        let granted = local.granted_whole(guest, BYTES)?;
        let serial = |state: &State| -> Result<String> {
            let handle = granted.mine.raw_handle().to_string();
            let mut buffers = state.buffers.iter();
            let own = buffers.find(|line| line.text("handle") == handle);
            Ok(own
                .context("the buffer is not shown")?
                .text("buffer")
                .to_owned())
        };
        let shown = State::read()?;
        let buffer = serial(&shown)?;
        let states = |state: &State| -> Vec<String> {
            let of_buffer = state
                .regions
                .iter()
                .filter(|line| line.text("buffer") == buffer);
            of_buffer
                .map(|line| line.text("state").to_owned())
                .collect()
        };
        ensure!(states(&shown) == ["live"], "{:?}", shown.regions);
        granted.mine.revoke()?;
        let shown = State::read()?;
        ensure!(states(&shown) == ["revoked"], "{:?}", shown.regions);
        let own = shown
            .buffers
            .iter()
            .find(|line| line.text("buffer") == buffer);
        let revoked = own.is_some_and(|line| line.text("state") == "revoked");
        ensure!(revoked, "{:?}", shown.buffers);
        let number = buffer.parse::<u64>()?;
        let ends = |event: &&Event| event.number("buffer") == Some(number);
        let events = recording.events()?;
        ensure!(events.iter().filter(ends).count() == 1, "{events:?}");
        Ok(())
    });
}

/// They used to be reported with no bytes at all.
#[test]
fn observe_all_memory_has_its_size_and_place() {
    test(|_| {
        let recording = Recording::start(&["buffer_alloc"])?;
        let context = Context::open()?;
        let host = Buffer::create(&context, BYTES, Placement::Any)?;
        let import = Buffer::import(&context, host.export()?.as_fd())?;
        let pool = dmaplane::Pool::builder(4 * BYTES).create(&context)?;
        let carved = pool.carve(BYTES)?;
        let events = recording.events()?;
        let sizes: Vec<_> = events.iter().map(|event| event.number("bytes")).collect();
        let wanted = [BYTES, BYTES, 4 * BYTES, BYTES].map(Some);
        ensure!(sizes == wanted, "{sizes:?}");
        let shown = State::read()?;
        for (buffer, kind) in [(&host, "host"), (&import, "import")] {
            let handle = buffer.raw_handle().to_string();
            let mut lines = shown.buffers.iter();
            let line = lines.find(|line| line.text("handle") == handle);
            let line = line.context("it is not shown")?;
            ensure!(line.text("kind") == kind, "{line:?}");
            let mut pages = 0;
            for on_node in line.text("nodes").split(',') {
                let (_node, count) = on_node.split_once(':').context("no pages")?;
                pages += count.parse::<u64>()?;
            }
            ensure!(pages == BYTES / 4096, "{line:?}");
        }
        drop(carved);
        Ok(())
    });
}

#[test]
fn observe_watches_of_memory_wait_for_its_revocation() {
    test(|guest| {
        let context = Context::open()?;
        let buffer = Buffer::create(&context, BYTES, Placement::Any)?;
        let mut channel = Channel::builder().entries(128).build(&context)?;
        for _ in 0..100 {
            channel.push(Entry::watch_buffer(&buffer).trace_id(77))?;
        }
        channel.submit()?;
        let shown = State::read()?;
        let waits = shown
            .operations
            .iter()
            .filter(|line| line.text("waits_on") == "revocation" && line.text("trace_id") == "77");
        ensure!(waits.count() == 64, "{:?}", shown.operations);
        // What is not shown is counted.
        let text = fs::read_to_string(Path::new(state::DEBUGFS).join("operations"))?;
        ensure!(text.contains(" more=36 waits_on=revocation"), "{text}");
        buffer.revoke()?;
        complete(&mut channel, 100, guest.limit(10))?;
        Ok(())
    });
}

/// An endpoint that takes long to end, and a file that takes long to close, used to be hidden: nobody saw what was
/// stuck.
#[test]
fn observe_shows_what_is_ending() {
    test(|guest| {
        for close in [false, true] {
            let Loopback {
                near,
                far,
                near_context,
                far_context,
            } = Loopback::new(guest)?;
            let link = State::read()?
                .endpoints
                .first()
                .context("none")?
                .text("link")
                .to_owned();
            let delay = DelayPoint::open("ending", Duration::from_secs(1))?;
            let seen = std::thread::scope(|scope| -> Result<_> {
                let ender = scope.spawn(move || {
                    if close {
                        // Its file goes before what it names.
                        let fd = near_context.as_fd().as_raw_fd();
                        dmaplane_testkit::sys::close_behind(near_context.as_fd())?;
                        drop((near, near_context));
                        Ok(fd)
                    } else {
                        drop(near);
                        drop(near_context);
                        Ok(-1)
                    }
                });
                let seen = poll::until(guest.limit(10), || {
                    let shown = State::read()?;
                    let mut endpoints = shown.endpoints.iter();
                    let ending = endpoints.find(|line| line.number("ending") == 1);
                    let of_link = ending.is_some_and(|line| {
                        line.text("link") == link && line.text("handle") == "0"
                    });
                    let closing = shown
                        .contexts
                        .iter()
                        .any(|line| line.number("closing") == 1);
                    Ok((of_link && closing == close).then_some(()))
                })?;
                let ended: Result<i32> = ender
                    .join()
                    .map_err(|_| anyhow!("the ending thread panicked"))?;
                ended?;
                Ok(seen)
            })?;
            drop(delay);
            seen.with_context(|| format!("never shown, close: {close}"))?;
            drop((far, far_context));
        }
        Ok(())
    });
}

/// Every text that the driver writes for somebody to read.
fn texts(guest_fd: i32, recording: &Recording) -> Result<Vec<(String, String)>> {
    let mut texts = vec![("trace".to_owned(), recording.text()?)];
    let mut folders = vec![
        Path::new("/sys/kernel/debug/dmaplane").to_owned(),
        Path::new("/sys/module/dmaplane").to_owned(),
    ];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // The kernel's own: where the module's sections are is for root to see.
                if !["sections", "notes", "holders"]
                    .iter()
                    .any(|name| entry.file_name() == *name)
                {
                    folders.push(entry.path());
                }
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                texts.push((entry.path().display().to_string(), text));
            }
        }
    }
    let fdinfo = format!("/proc/self/fdinfo/{guest_fd}");
    texts.push((fdinfo.clone(), fs::read_to_string(fdinfo)?));
    Ok(texts)
}

/// The keys of all regions, which `rdma resource show` shows to root.
#[test]
fn observe_keys_are_nowhere() {
    test(|guest| {
        let recording = Recording::start(&[])?;
        let local = Loopback::new(guest)?;
        let mut granted = local.granted_whole(guest, BYTES)?;
        granted.here.push(granted.whole()?)?;
        complete(&mut granted.here, 1, guest.limit(10))?;
        let shown = rdma("-d -j resource show mr")?;
        let mut keys = Vec::new();
        let regions: serde_json::Value = serde_json::from_str(&shown)?;
        for region in regions.as_array().context("no list")? {
            for name in ["rkey", "lkey"] {
                if let Some(text) = region[name].as_str() {
                    let digits = text.trim_start_matches("0x");
                    keys.push(u32::from_str_radix(digits, 16)?);
                }
            }
        }
        keys.retain(|key| *key != 0);
        // A granted region and a registered one: without them the test would search for nothing.
        ensure!(keys.len() >= 2, "{shown}");
        let fd = local.near_context.as_fd().as_raw_fd();
        for (name, text) in texts(fd, &recording)? {
            let words = text.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words {
                let digits = word.trim_start_matches("0x");
                let said = [
                    word.parse::<u32>().ok(),
                    u32::from_str_radix(digits, 16).ok(),
                ];
                let key = said
                    .into_iter()
                    .flatten()
                    .find(|number| keys.contains(number));
                ensure!(key.is_none(), "{name} shows a key: {word}");
            }
            ensure!(!text.contains("ffff8"), "{name} shows an address");
        }
        Ok(())
    });
}
