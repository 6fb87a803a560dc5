// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command-line tool of dmaplane.

fn main() {}
