// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The driver's arithmetic and state machines, free of the kernel so that the host can test them.
//!
//! The driver compiles each of these files by path. Nothing in here allocates, blocks, uses `unsafe`
//! or names the kernel: inputs are values that were copied once from whoever may change them.

#![no_std]
#![forbid(unsafe_code)]

pub mod alias;
pub mod buddy;
pub mod extents;
pub mod flow;
pub mod handle;
pub mod heartbeat;
pub mod histogram;
pub mod name;
pub mod operation;
pub mod outcome;
pub mod pace;
pub mod placement;
pub mod range;
pub mod revocation;
pub mod ring;
pub mod window;
pub mod wire;
