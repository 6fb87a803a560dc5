// SPDX-License-Identifier: GPL-2.0-only

//! The values of the module's attributes in sysfs, in the order of the table in `kx/sysfs.c`.

use crate::{base::gauges::GAUGES, module_parameters, uapi};

/// The value of an attribute; 0 for one that the table does not have.
pub(crate) fn attribute(which: u32) -> u64 {
    let gauge = match which {
        0 => return uapi::ABI_VERSION.into(),
        1 => &GAUGES.contexts,
        2 => &GAUGES.buffers,
        3 => &GAUGES.bytes,
        4 => &GAUGES.regions,
        5 => &GAUGES.grants,
        6 => &GAUGES.channels,
        7 => &GAUGES.listeners,
        8 => &GAUGES.endpoints,
        9 => &GAUGES.operations,
        15 => &GAUGES.exports,
        16 => &GAUGES.imports,
        17 => &GAUGES.pollers,
        18 => &GAUGES.pools,
        _ => return limit(which),
    };
    gauge.value() as u64
}

fn limit(which: u32) -> u64 {
    let limit: u32 = match which {
        10 => return module_parameters::max_buffer_mib.value(),
        11 => return module_parameters::max_context_mib.value(),
        12 => module_parameters::max_endpoints.value(),
        13 => module_parameters::max_channels.value(),
        14 => module_parameters::heartbeat_ms.value(),
        19 => module_parameters::max_listeners.value(),
        20 => module_parameters::max_context_pollers.value(),
        21 => module_parameters::max_pollers.value(),
        22 => module_parameters::max_provider_mib.value(),
        _ => 0,
    };
    limit.into()
}
