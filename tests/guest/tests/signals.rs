// SPDX-License-Identifier: MIT OR Apache-2.0

//! Frequent signals, as a profiler's timer sends them, do not keep calls from making memory.

use std::time::Duration;

use dmaplane::{Buffer, Context, Placement, Pool};
use dmaplane_guest_tests::device;
use dmaplane_testkit::sys::process::Profiler;
use dmaplane_testkit::{ensure, test};

const MIB: u64 = 1 << 20;

#[test]
fn signals_do_not_keep_memory_from_being_made() {
    test(|guest| {
        let context = Context::open()?;
        let bytes = guest.pick(256, 64) * MIB;
        for restart in [true, false] {
            let profiler = Profiler::start(Duration::from_millis(1), restart)?;
            let buffer = Buffer::create(&context, bytes, Placement::Any)?;
            drop(buffer);
            let pool = Pool::builder(bytes).zeroed().create(&context)?;
            let part = pool.carve(bytes / 2)?;
            drop((part, pool));
            if let Ok(info) = device::device(guest, &context) {
                for tier in info.tiers.iter().filter(|tier| tier.free > 0) {
                    let free = tier.free;
                    drop(Buffer::on_device(
                        &context,
                        info.number,
                        tier.tier,
                        free,
                        None,
                    )?);
                }
            }
            ensure!(profiler.handled() > 0, "no signal came");
        }
        Ok(())
    });
}
