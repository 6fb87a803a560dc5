// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests: booting them, running tests in them, judging what came back.

pub(crate) mod cli;
