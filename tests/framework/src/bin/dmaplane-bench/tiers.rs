// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device's memory by mapping tier: to it and from it, by the process through its mapping and by COPY in the kernel,
//! each next to the same copy between host buffers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dmaplane::{Buffer, Channel, Context, DeviceInfo, Entry, Placement};

use crate::row::{Row, median};

/// Bytes of one copy; those beyond a tier's zone are left out.
const SIZES: [u64; 8] = [
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
];
/// Runs of which the median counts.
const RUNS: usize = 3;
/// Longest that one COPY may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How bytes are moved.
#[derive(Clone, Copy)]
enum How {
    /// By the process, to the memory.
    Store,
    /// By the process, from the memory.
    Load,
    /// By the kernel, to the memory.
    CopyTo,
    /// By the kernel, from the memory.
    CopyFrom,
}

const HOWS: [(How, &str); 4] = [
    (How::Store, "store"),
    (How::Load, "load"),
    (How::CopyTo, "copy-to"),
    (How::CopyFrom, "copy-from"),
];

struct Bench {
    context: Context,
    channel: Channel,
    host: Buffer,
    plain: Vec<u8>,
    quick: bool,
}

pub(crate) fn measure(accel: &str, quick: bool) -> Result<Vec<Row>> {
    let context = Context::open()?;
    let devices = DeviceInfo::list(&context)?;
    let device = devices
        .first()
        .context("the guest has no device with memory")?;
    let most = SIZES[SIZES.len() - 1];
    let mut bench = Bench {
        channel: Channel::builder().entries(64).build(&context)?,
        host: Buffer::create(&context, most, Placement::Any)?,
        plain: vec![0x5a; usize::try_from(most)?],
        context,
        quick,
    };
    let mut rows = Vec::new();
    for size in SIZES {
        let target = Buffer::create(&bench.context, size, Placement::Any)?;
        let mut references = Vec::new();
        for (how, _) in HOWS {
            references.push(bench.rate(how, &target)?);
        }
        for info in &device.tiers {
            if size > info.bytes {
                continue;
            }
            let number = device.number;
            let target = Buffer::on_device(&bench.context, number, info.tier, size, None)?;
            for ((how, name), reference) in HOWS.into_iter().zip(&references) {
                let value = bench.rate(how, &target)?;
                let case = format!("{} {name}", info.tier);
                println!("{size:9} bytes, {case}: {value:10.1} MB/s, host memory {reference:10.1}");
                rows.push(Row {
                    bench: "tiers",
                    case,
                    size,
                    depth: 1,
                    value,
                    unit: "MB/s",
                    reference: "the same with host memory",
                    ratio: value / reference,
                    accel: accel.to_owned(),
                });
            }
        }
    }
    Ok(rows)
}

impl Bench {
    /// Megabytes per second, the median of a few runs.
    fn rate(&mut self, how: How, target: &Buffer) -> Result<f64> {
        let bytes = target.len();
        // About as many bytes in each run, whatever the size.
        let budget = if self.quick { 1 << 20 } else { 16 << 20 };
        let rounds = (budget / bytes).max(1);
        let mut rates = Vec::new();
        for run in 0..=RUNS {
            let start = Instant::now();
            for _ in 0..rounds {
                self.once(how, target)?;
            }
            let rate = (rounds * bytes) as f64 / start.elapsed().as_secs_f64() / 1e6;
            // The first run warms up, page tables included.
            if run > 0 {
                rates.push(rate);
            }
        }
        median(&mut rates).context("no runs")
    }

    fn once(&mut self, how: How, target: &Buffer) -> Result<()> {
        let bytes = target.len();
        let plain = self
            .plain
            .get_mut(..usize::try_from(bytes)?)
            .context("too large")?;
        match how {
            How::Store => target.write_at(0, plain),
            How::Load => target.read_at(0, plain),
            How::CopyTo => self.copy(bytes, |host, at, length| {
                Entry::copy(host.range(at, length), target, at)
            })?,
            How::CopyFrom => self.copy(bytes, |host, at, length| {
                Entry::copy(target.range(at, length), host, at)
            })?,
        }
        Ok(())
    }

    /// Copies in the kernel, in as many operations as it takes.
    fn copy(&mut self, bytes: u64, entry: impl Fn(&Buffer, u64, u32) -> Entry) -> Result<()> {
        let most = self.context.limits().max_op_bytes;
        let mut at = 0;
        let mut count = 0;
        while at < bytes {
            let length = u32::try_from(most.min(bytes - at))?;
            self.channel.push(entry(&self.host, at, length))?;
            at += u64::from(length);
            count += 1;
        }
        let done = self.channel.submit_and_wait(count, LIMIT)?;
        ensure!(done.available == count, "{done:?} instead of {count}");
        let ok = self
            .channel
            .completions()
            .filter(|done| done.is_ok())
            .count();
        ensure!(ok == count as usize, "{ok} of {count} ended well");
        Ok(())
    }
}
