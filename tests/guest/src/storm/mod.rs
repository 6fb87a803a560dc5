// SPDX-License-Identifier: MIT OR Apache-2.0

//! A storm: operations of every kind from several threads, while what they work on ends and comes back.

pub mod field;
pub mod ledger;
pub mod worker;
