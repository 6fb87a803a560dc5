// SPDX-License-Identifier: GPL-2.0-only

//! Staging abstractions: everything `unsafe`, one file for each that could go upstream. The head of each file names the
//! part of the kernel crate (`rust/kernel`) that it extends or would become.
//!
//! Nothing in here knows what a buffer, a channel or a grant is. Code above this folder is safe Rust.

pub(crate) mod bar;
pub(crate) mod box_queue;
pub(crate) mod charged;
pub(crate) mod completion;
pub(crate) mod delayed_work;
pub(crate) mod dmabuf;
pub(crate) mod eventfd;
pub(crate) mod fault;
pub(crate) mod fifo;
pub(crate) mod global;
pub(crate) mod mapping_space;
pub(crate) mod miscdev;
pub(crate) mod net;
pub(crate) mod nodes;
pub(crate) mod pages;
pub(crate) mod rdma;
pub(crate) mod shared;
pub(crate) mod sysfs;
pub(crate) mod task;
pub(crate) mod thread;
pub(crate) mod timed_work;
pub(crate) mod trace;
pub(crate) mod turn;
pub(crate) mod user;
pub(crate) mod vec;
pub(crate) mod vma;
pub(crate) mod waitq;

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

/// Keeps the module loaded for good, unless it is being unloaded already. For something that calls the module and
/// cannot be stopped.
pub(crate) fn stay_loaded() {
    // SAFETY: This is code of the module, so that it is loaded; this reference is never given back.
    unsafe { raw::dmaplane_module_stay() };
}
