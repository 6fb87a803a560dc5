// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests: booting them, running tests in them, judging what came back.
//!
//! | file | concept |
//! |---|---|
//! | topology.rs | what a set of guests looks like: `vm/topologies/*.toml` |
//! | qemu.rs, machine.rs | the command line of a guest; the process |
//! | vng.rs, group.rs | the same by virtme-ng; the processes |
//! | accel.rs, limits.rs, clock.rs | what executes it; how long it may take; its counter's frequency |
//! | binaries.rs | the programs that it runs |
//! | `plan` | what host and guest exchange; a crate that the runner inside uses too |
//! | session/ | boots a topology and runs commands in it: the base of all else |
//! | scanner.rs, junit.rs, verdict.rs | console rules; the tests' report; the judgement |
//! | suite.rs, report.rs | the integration tests as a session; the report of their results |

pub mod accel;
pub mod binaries;
pub mod clock;
pub mod group;
pub mod junit;
pub mod limits;
pub mod machine;
pub use dmaplane_vmtest_plan as plan;
pub mod qemu;
pub mod report;
pub mod rundir;
pub mod scanner;
pub mod session;
pub mod suite;
pub mod topology;
pub mod verdict;
pub mod vng;
