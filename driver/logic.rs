// SPDX-License-Identifier: GPL-2.0-only

//! The arithmetic and state machines of `logic/`, which the host tests.

#[path = "../logic/src/alias.rs"]
pub(crate) mod alias;
#[path = "../logic/src/buddy.rs"]
pub(crate) mod buddy;
#[path = "../logic/src/extents.rs"]
pub(crate) mod extents;
#[path = "../logic/src/flow.rs"]
pub(crate) mod flow;
#[path = "../logic/src/handle.rs"]
pub(crate) mod handle;
#[path = "../logic/src/heartbeat.rs"]
pub(crate) mod heartbeat;
#[path = "../logic/src/histogram.rs"]
pub(crate) mod histogram;
#[path = "../logic/src/name.rs"]
pub(crate) mod name;
#[path = "../logic/src/operation.rs"]
pub(crate) mod operation;
#[path = "../logic/src/outcome.rs"]
pub(crate) mod outcome;
#[path = "../logic/src/pace.rs"]
pub(crate) mod pace;
#[path = "../logic/src/placement.rs"]
pub(crate) mod placement;
#[path = "../logic/src/range.rs"]
pub(crate) mod range;
#[path = "../logic/src/revocation.rs"]
pub(crate) mod revocation;
#[path = "../logic/src/ring.rs"]
pub(crate) mod ring;
#[path = "../logic/src/window.rs"]
pub(crate) mod window;
#[path = "../logic/src/wire.rs"]
pub(crate) mod wire;
