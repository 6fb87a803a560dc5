// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests: booting them, running tests in them, judging what came back.
//!
//! | file | concept |
//! |---|---|
//! | topology.rs | what a set of guests looks like: `vm/topologies/*.toml` |
//! | qemu.rs, machine.rs | the command line of a guest; the process |
//! | vng.rs, group.rs | the same by virtme-ng; the processes |
//! | accel.rs, limits.rs, clock.rs | what executes it; how long it may take; its sense of time |
//! | binaries.rs | the programs that it runs |
//! | plan.rs | what host and guest tell each other; shared with the runner inside |
//! | session.rs | boots a topology and runs commands in it: what all else is built on |
//! | scanner.rs, junit.rs, verdict.rs | console rules; the tests' report; the judgement |
//! | suite.rs, report.rs | the integration tests as a session; how results are told |
//! | shell.rs, selftest.rs, cli.rs | `vm`; tests of the harness itself; `vm-test` |

pub(crate) mod accel;
pub(crate) mod binaries;
pub(crate) mod cli;
mod clock;
mod group;
pub(crate) mod junit;
pub(crate) mod limits;
mod machine;
#[path = "../../../tests/framework/src/bin/guest-runner/plan.rs"]
pub(crate) mod plan;
mod qemu;
mod report;
mod rundir;
mod scanner;
mod selftest;
pub(crate) mod session;
mod shell;
pub(crate) mod suite;
pub(crate) mod topology;
pub(crate) mod verdict;
pub(crate) mod vng;
