// SPDX-License-Identifier: MIT OR Apache-2.0

//! The other side of a connection: a process that obeys requests, one JSON object a line.
//!
//! `dmaplane-peer --listen ADDRESS` starts one process for each connection, so that a test can kill
//! it like any other program that uses the driver. Requests are carried out in order by one thread;
//! [`protocol::Request::Kill`] and [`protocol::Request::Progress`] are answered at once by another,
//! also while a transfer runs.

pub mod agent;
pub mod client;
pub mod protocol;
pub mod serve;
