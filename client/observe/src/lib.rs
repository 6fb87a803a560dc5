// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the driver shows of itself: trace events, latencies, and everything alive.
//!
//! Needs no open file of the driver, but for [`numa`], which measures what distance between nodes costs. [`state`] reads what debugfs (root) and sysfs (anybody) show, [`files`] finds
//! the processes that have the driver open, [`histogram`] compares
//! latencies of two readings, [`trace`] reads trace events and follows one trace id across machines, [`tracefs`] records
//! them, and [`scripts`] are for bpftrace. [`lockdown`] explains when kernel lockdown is why the kernel refuses a file.

pub mod chrome;
pub mod files;
pub mod follow;
pub mod histogram;
pub mod lockdown;
pub mod metrics;
pub mod numa;
pub mod scripts;
pub mod state;
pub mod trace;
pub mod tracefs;
