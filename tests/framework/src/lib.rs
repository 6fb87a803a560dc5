// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a test inside a guest needs.
//!
//! | module | concept |
//! |---|---|
//! | [`run`] | [`test()`]: kernel-log markers, gauges back to where they were, skips |
//! | [`guest`] | [`Guest`]: topology, profile, addresses and scaled time limits |
//! | [`gauges`] | the driver's counts of what lives |
//! | [`mod@peer`] | the other side of a connection: a process that obeys JSON lines |
//! | [`transfer`] | streams of writes and receives, counted one by one |
//! | [`counters`] | what was missed in placing memory, and the driver's settings |
//! | [`frames`] | the page frames behind a mapping, as the kernel shows them |
//! | [`pattern`] | data whose bytes show where they belong |
//! | [`poll`] | waiting for a condition where there is no event |
//! | [`netem`] | bad networks, and interfaces that come and go |
//! | [`netns`], [`rdma`], [`cgroup`], [`module`] | namespaces, rxe links, memory limits, module |
//! | [`dmabuf`] | other drivers that export and import dma-bufs |
//! | [`faults`] | the driver's and the kernel's fault points, and the sweep over every fallible step |
//! | [`hostile`] | a process that ill-treats the driver at random |
//! | [`kcov`] | which of the driver's code a thread has run |
//! | [`sys`] | raw system calls that the library rightly does not offer |
//!
//! ```no_run
//! use dmaplane_testkit::{ensure, test};
//!
//! # fn open_twice() {
//! test(|guest| {
//!     let first = dmaplane::Context::open()?;
//!     let second = dmaplane::Context::open()?;
//!     ensure!(first.query()? == second.query()?, "two files of {guest:?} disagree");
//!     Ok(())
//! });
//! # }
//! ```

pub mod cgroup;
pub mod counters;
pub mod delay_point;
pub mod disposable;
pub mod dmabuf;
pub mod faults;
pub mod frames;
pub mod gauges;
pub mod guest;
pub mod hostile;
pub mod iproute2;
pub mod kcov;
pub mod module;
pub mod netem;
pub mod netns;
pub mod pattern;
pub mod peer;
pub mod poll;
pub mod processors;
pub mod rdma;
pub mod run;
pub mod sys;
pub mod transfer;

pub use anyhow::{Context as ErrorContext, Error, Result, anyhow, bail, ensure};
pub use gauges::Gauges;
pub use guest::{Guest, Profile, Topology};
pub use peer::client::Peer;
pub use run::{Skip, seed, test};
