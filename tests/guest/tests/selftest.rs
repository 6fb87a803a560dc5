// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that misbehave on purpose, for `cargo xtask vm-test --self-test`: each must make the whole
//! run end in an exit code of its own. The profile `guest` leaves them out by default.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use dmaplane::{Buffer, Context, Placement};
use dmaplane_testkit::{ErrorContext as _, Profile, bail, run, test};
use rustix::io::FdFlags;

/// The control: without it, a harness that fails always would pass its tests.
#[test]
fn passes() {
    test(|_| Ok(()));
}

#[test]
fn fails() {
    test(|_| bail!("failed on purpose"));
}

/// The kernel's own crash module warns; the test itself is content. Debian's kernel has no such module, and its source does
/// not build outside of the kernel: there, the line of a warning is written to the kernel's log.
#[test]
fn splats() {
    test(|guest| {
        if guest.profile == Profile::Stock {
            let line =
                "<4>WARNING: tests/guest/tests/selftest.rs:1 at selftest_splats+0x0/0x1, CPU#0";
            return fs::write("/dev/kmsg", line).context("cannot write to /dev/kmsg");
        }
        let file = "/sys/kernel/debug/provoke-crash/DIRECT";
        fs::write(file, "WARNING").with_context(|| format!("{file}: is lkdtm loaded?"))
    });
}

/// A process outlives the test and holds the device open, and with it a buffer.
#[test]
fn leaks() {
    run::test_without_gauges(|_| {
        let context = Context::open()?;
        let _buffer = Buffer::create(&context, 4096, Placement::Any)?;
        rustix::io::fcntl_setfd(&context, FdFlags::empty())?;
        let mut holder = Command::new("setsid");
        holder.args(["sleep", "infinity"]);
        holder
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        holder.spawn().context("a process that stays")?;
        Ok(())
    });
}

/// Longer than any limit.
#[test]
fn hangs() {
    test(|_| {
        loop {
            thread::park();
        }
    });
}
