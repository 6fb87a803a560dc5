// SPDX-License-Identifier: GPL-2.0-only

//! dmaplane: buffer orchestration beneath AI transport libraries. ARCHITECTURE.md is the map.

use crate::{
    base::{delay_points::DelayPoints, gauges::Gauges, tuning::Tuning},
    context::Node,
    memory::placement::Counters,
};
use kernel::{
    debugfs::{Dir, Scope},
    miscdevice::MiscDeviceOptions,
    pci,
    prelude::*,
};

mod base;
mod buffer;
mod channel;
mod context;
mod device;
mod dispatch;
mod kx;
#[allow(dead_code, unreachable_pub)]
// Reason: a library of its own, of which the driver uses a part.
mod logic;
mod memory;
mod observe;
mod rdma;
#[allow(dead_code, unreachable_pub)] // Reason: the driver uses a part of it, user space the other.
#[path = "../uapi/src/abi/mod.rs"]
mod uapi;

module! {
    type: Dmaplane,
    name: "dmaplane",
    authors: ["The dmaplane developers"],
    description: "Buffer orchestration for AI transport libraries",
    license: "GPL",
    imports_ns: ["DMA_BUF"],
    params: {
        max_buffer_mib: u64 {
            default: 65536,
            description: "Largest buffer that one call may create, in MiB",
        },
        max_context_mib: u64 {
            default: 1048576,
            description: "Quota of buffers in one open file, in MiB",
        },
        max_endpoints: u32 {
            default: 4096,
            description: "Quota of endpoints in one open file",
        },
        max_channels: u32 {
            default: 4096,
            description: "Quota of channels in one open file",
        },
        max_listeners: u32 {
            default: 64,
            description: "Quota of listeners in one open file",
        },
        max_provider_mib: u32 {
            default: 512,
            description: "Quota of what RDMA devices take for endpoints and registrations of one open file, an estimate in MiB",
        },
        max_context_pollers: u32 {
            default: 8,
            description: "Quota of polling threads of channels in one open file",
        },
        max_pollers: u32 {
            default: 16,
            description: "Most polling threads of channels, of all open files together",
        },
        device_rdma_percent: u32 {
            default: 50,
            description: "Share of a device's memory that gets struct pages and is uncached, 1 to 98",
        },
        heartbeat_ms: u32 {
            default: 1000,
            description: "Time between heartbeats to a peer in milliseconds, 10 to 60000",
        },
    },
}

/// The loaded module. Field order is drop order: first no new users, then no more devices, then the global lists;
/// debugfs last, so that the gauges can be watched until the end.
#[pin_data]
struct Dmaplane {
    /// Before the lists that it shows.
    #[pin]
    _state: Scope<&'static context::State>,
    _attributes: kx::sysfs::Attributes,
    #[pin]
    _node: kx::miscdev::Registration<Node>,
    #[pin]
    _devices: kernel::driver::Registration<pci::Adapter<device::Ivshmem>>,
    _client: kx::rdma::client::Registration<rdma::Client>,
    _importing: kx::dmabuf::device::Importing,
    _registry: rdma::RegistryLife,
    _memory_devices: device::DevicesLife,
    _contexts: context::ContextsLife,
    #[pin]
    _gauges: Scope<&'static Gauges>,
    #[pin]
    _delay_points: Scope<&'static DelayPoints>,
    #[pin]
    _placement: Scope<&'static Counters>,
    #[pin]
    _tuning: Scope<&'static Tuning>,
    _faults: kx::fault::Folder,
    _dir: Dir,
}

impl kernel::InPlaceModule for Dmaplane {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // First thing: what follows locks them.
        let registry = rdma::RegistryLife::begin(module);
        let memory_devices = device::DevicesLife::begin(module);
        let contexts = context::ContextsLife::begin(module);
        let dir = Dir::new(c"dmaplane");
        try_pin_init!(Self {
            _gauges <- base::gauges::debugfs(&dir),
            _delay_points <- base::delay_points::debugfs(&dir),
            _state <- context::debugfs(&dir),
            _attributes: kx::sysfs::Attributes::new(module, observe::attribute)?,
            _importing: kx::dmabuf::device::Importing::begin()?,
            _placement <- memory::placement::debugfs(&dir),
            _tuning <- base::tuning::debugfs(&dir),
            _faults: base::faults::debugfs(),
            _client: kx::rdma::client::Registration::new()?,
            _devices <- kernel::driver::Registration::new(c"dmaplane", module),
            _node <- kx::miscdev::Registration::register(MiscDeviceOptions { name: c"dmaplane" }),
            _registry: registry,
            _memory_devices: memory_devices,
            _contexts: contexts,
            _dir: dir,
        })
    }
}
