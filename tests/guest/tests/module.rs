// SPDX-License-Identifier: MIT OR Apache-2.0

//! The module comes and goes. Needs the driver for itself.

use dmaplane::{Buffer, Channel, Context, Entry, Placement};
use dmaplane_guest_tests::complete;
use dmaplane_testkit::run::test_without_gauges;
use dmaplane_testkit::{ErrorContext as _, Gauges, ensure, gauges, module};

#[test]
fn module_loads_and_unloads_again_and_again() {
    test_without_gauges(|guest| {
        let path = module::path()?;
        let limit = guest.limit(5);
        for cycle in 0..guest.pick(100, 10) {
            module::unload(limit).with_context(|| format!("cycle {cycle}"))?;
            ensure!(!module::is_loaded(), "cycle {cycle}: it is still there");
            module::load(&path, limit).with_context(|| format!("cycle {cycle}"))?;
            let before = Gauges::read()?;
            ensure!(
                gauges::NAMES.iter().all(|name| before.get(name) == 0),
                "{before}"
            );

            let context = Context::open()?;
            ensure!(
                context.query()?.rdma_devices > 0,
                "cycle {cycle}: no RDMA device"
            );
            let _buffer = Buffer::create(&context, 1 << 20, Placement::Any)?;
            let mut channel = Channel::builder().entries(8).build(&context)?;
            channel.push(Entry::nop())?;
            complete(&mut channel, 1, limit)?[0].result()?;
        }
        Ok(())
    });
}
