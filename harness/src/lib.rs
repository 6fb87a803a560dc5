// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels, guests and verdicts: what tests a kernel module in virtual machines.
//!
//! | module | what it is |
//! |---|---|
//! | [`setup`] | the tools of the host, and how they come to it |
//! | [`kernel`] | pinned kernels: Debian's own, and those that are built from its source |
//! | [`driver`] | the module, built against one of them |
//! | [`guest`] | topologies, guests, what they print, and the verdict over it |
//! | [`exec`], [`hash`], [`interrupt`], [`exit`], [`ui`] | processes, downloads, signals, exit codes, progress |
//!
//! Data decides what is built and booted: `vm/kernel/`, `vm/topologies/` and `vm/splats/` of the checkout that
//! [`ctx::Ctx`] finds.

pub mod ctx;
pub mod driver;
pub mod exec;
pub mod exit;
pub mod guest;
pub mod hash;
pub mod interrupt;
pub mod kernel;
pub mod setup;
pub mod ui;
