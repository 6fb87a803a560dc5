// SPDX-License-Identifier: (GPL-2.0-only WITH Linux-syscall-note) OR MIT

//! The user-space interface of the dmaplane driver: ioctl numbers, structures and ring layout.
//!
//! The driver compiles [`abi`] by path, so user space and kernel share one definition. The C header
//! `uapi/include/dmaplane.h` is generated from the same files and `cargo xtask lint` checks that
//! both agree.

#![no_std]

pub mod abi;

pub use abi::*;
