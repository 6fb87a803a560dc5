// SPDX-License-Identifier: GPL-2.0-only

//! Staging abstractions: everything `unsafe`, one file for each that could go upstream.
//!
//! Nothing in here knows what a buffer, a channel or a grant is. Code above this folder is safe Rust.

pub(crate) mod bar;
pub(crate) mod chain;
pub(crate) mod dmabuf;
pub(crate) mod eventfd;
pub(crate) mod fault;
pub(crate) mod fifo;
pub(crate) mod global;
pub(crate) mod miscdev;
pub(crate) mod net;
pub(crate) mod nodes;
pub(crate) mod pages;
pub(crate) mod rdma;
pub(crate) mod shared;
pub(crate) mod signal;
pub(crate) mod space;
pub(crate) mod sysfs;
pub(crate) mod task;
pub(crate) mod thread;
pub(crate) mod tick;
pub(crate) mod trace;
pub(crate) mod user;
pub(crate) mod vec;
pub(crate) mod vma;

/// Bindings that the kernel crate does not have; `Kbuild` generates them from `bindings.h`.
#[allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)] // Reason: generated code.
// Likewise; only newer compilers have this lint.
#[cfg_attr(dmaplane_transmute_lint, allow(unnecessary_transmutes))]
mod raw {
    use kernel::bindings::*;
    use kernel::ffi;
    include!(env!("DMAPLANE_BINDINGS"));
}

/// Keeps the module loaded for good: something that calls it can never be ended.
pub(crate) fn stay_loaded() {
    // SAFETY: This is code of the module, so that it is loaded; the reference is never given back.
    unsafe { raw::dmaplane_module_stay() };
}
