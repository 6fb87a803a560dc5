// SPDX-License-Identifier: GPL-2.0-only

//! The driver's points at which tests interfere with verbs.

use crate::{
    base::{
        delay_points::DELAY_POINTS,
        faults::{FAULTS, LATE_MS},
    },
    kx::rdma::hooks::Hooks,
};

/// Those of all connections and regions.
pub(super) static HOOKS: Hooks = Hooks {
    dma_map: &FAULTS.dma_map,
    map_region: &FAULTS.map_region,
    post_send: &FAULTS.post_send,
    post_part: &FAULTS.post_part,
    post_message: &FAULTS.post_message,
    post_receive: &FAULTS.post_receive,
    post_register: &FAULTS.post_register,
    complete_error: &FAULTS.complete_error,
    complete_part: &FAULTS.complete_part,
    complete_flush: &FAULTS.complete_flush,
    complete_message: &FAULTS.complete_message,
    complete_receive: &FAULTS.complete_receive,
    complete_register: &FAULTS.complete_register,
    complete_delay: &FAULTS.complete_delay,
    late_ms: LATE_MS,
    registration_done: || DELAY_POINTS.registration_done.pass(),
};
