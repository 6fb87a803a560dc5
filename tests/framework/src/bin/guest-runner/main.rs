// SPDX-License-Identifier: MIT OR Apache-2.0
//! `guest-runner`: the first and the only long-lived process of a test guest.
//!
//! The kernel starts it as init from the host's root file system. It builds a writable root, forks
//! the worker (itself, with `work` as argument), reaps whatever is orphaned, and powers off when
//! the worker is gone, for whatever reason. The worker does what the [`dmaplane_vmtest_plan::Plan`] in the shared
//! folder says and writes a [`dmaplane_vmtest_plan::Report`].
//!
//! A distribution's init would take longer to start than a whole test suite on an emulated CPU.

mod checks;
mod init;
mod jobs;
mod kmsg;
mod network;
mod rendezvous;
mod stacks;
mod symbols;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("work") => work::main(),
        _ if std::process::id() == 1 => init::main(),
        _ => {
            eprintln!(
                "guest-runner is the init process of dmaplane's test guests; it is started by \
                 `cargo xtask vm-test` and does nothing elsewhere"
            );
            ExitCode::from(2)
        }
    }
}
