// SPDX-License-Identifier: MIT OR Apache-2.0

//! Streams of WRITE and WRITE_IMM by size and depth, next to `ib_write_bw`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use dmaplane::{Channel, Entry};

use crate::pairing::{LIMIT, RECEIVES, Side, pair};
use crate::perftest::Perftest;
use crate::row::{Row, median};

/// Bytes of an operation, and how many of them are measured.
const SIZES: [(u32, u64); 4] = [
    (4 << 10, 2048),
    (64 << 10, 512),
    (1 << 20, 48),
    (4 << 20, 16),
];
/// Operations at once.
const DEPTHS: [u32; 4] = [1, 4, 16, 64];
/// Runs of which the median counts, in turns with the reference's.
const RUNS: usize = 3;

/// What is streamed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Writes that do not notify the other side.
    Write,
    /// Each takes a receive of the other side's.
    WriteImm,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::WriteImm => "write_imm",
        }
    }
}

pub(crate) fn measure(accel: &str, quick: bool) -> Result<Vec<Row>> {
    let mut perftest = Perftest::new()?;
    let mut rows = Vec::new();
    let runs = if quick { 1 } else { RUNS };
    for (size, count) in SIZES {
        for depth in DEPTHS {
            let count = count.max(depth.into());
            let mut references = Vec::new();
            let mut values = [Vec::new(), Vec::new()];
            for _ in 0..runs {
                references.push(perftest.write_bandwidth(size.into(), depth, count)?);
                for (kind, values) in [Kind::Write, Kind::WriteImm].into_iter().zip(&mut values) {
                    values.push(stream(kind, size, depth, count, 1)?);
                }
            }
            let reference = median(&mut references).context("no runs")?;
            for (kind, values) in [Kind::Write, Kind::WriteImm].into_iter().zip(&mut values) {
                let value = median(values).context("no runs")?;
                let row = Row {
                    bench: "stream",
                    case: kind.name().to_owned(),
                    size: size.into(),
                    depth,
                    value,
                    unit: "bytes/s",
                    reference: "ib_write_bw",
                    ratio: value / reference,
                    accel: accel.to_owned(),
                };
                println!(
                    "{:>10} {size:8} x {depth:2}: {:7.1} MB/s, {:.2} x ib_write_bw",
                    row.case,
                    value / 1e6,
                    row.ratio
                );
                rows.push(row);
            }
        }
    }
    Ok(rows)
}

/// Bytes per second: from the first submission to the last completion here, and there if the other side is notified.
/// `places` of the buffers are used in turns.
pub(crate) fn stream(kind: Kind, size: u32, depth: u32, count: u64, places: u64) -> Result<f64> {
    let (near, far) = pair(u64::from(size) * places)?;
    let mut here = Channel::builder().entries(depth.next_power_of_two());
    here = here.completions(2 * depth.next_power_of_two());
    let mut here = here.build(&near.context)?;
    // Registered before the measured time begins, as perftest does it.
    write(&near, &mut here, (size, places), 0, Kind::Write)?;
    here.submit_and_wait(1, LIMIT)?;
    for done in here.completions() {
        done.result()?;
    }
    let ready = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<f64> {
        let arrivals = (kind == Kind::WriteImm).then(|| {
            let (far, ready) = (&far, &ready);
            scope.spawn(move || arrivals(far, depth, count, ready))
        });
        while arrivals.is_some() && !ready.load(Ordering::Acquire) {
            ensure!(arrivals.as_ref().is_none_or(|all| !all.is_finished()));
            std::thread::yield_now();
        }
        let start = Instant::now();
        let (mut sent, mut done) = (0, 0);
        while done < count {
            while sent < count && sent - done < u64::from(depth) {
                write(&near, &mut here, (size, places), sent, kind)?;
                sent += 1;
            }
            here.submit_and_wait(1, LIMIT)?;
            for completion in here.completions() {
                completion.result()?;
                done += 1;
            }
        }
        if let Some(arrivals) = arrivals {
            arrivals
                .join()
                .map_err(|_| anyhow!("the other side panicked"))??;
        }
        let took: Duration = start.elapsed();
        Ok((count * u64::from(size)) as f64 / took.as_secs_f64())
    })
}

fn write(
    side: &Side,
    channel: &mut Channel,
    (size, places): (u32, u64),
    index: u64,
    kind: Kind,
) -> Result<()> {
    let at = (index % places) * u64::from(size);
    let (source, target) = (side.buffer.range(at, size), side.taken.at(at));
    channel.push(match kind {
        Kind::Write => Entry::write(source, target),
        Kind::WriteImm => Entry::write_imm(source, target, index as u32),
    })?;
    Ok(())
}

/// Takes `count` arrivals, in order.
fn arrivals(side: &Side, depth: u32, count: u64, ready: &AtomicBool) -> Result<()> {
    // Whatever the depth, as perftest does it where it needs receives (512 of them): the sender is not to wait for any.
    let receives = RECEIVES;
    let builder = Channel::builder().entries(receives).completions(receives);
    let mut channel = builder.build(&side.context)?;
    let (mut posted, mut came) = (0, 0);
    while came < count {
        while posted < count && posted - came < u64::from(receives) {
            channel.push(Entry::recv(&side.endpoint))?;
            posted += 1;
        }
        let done = channel.submit()?;
        ready.store(true, Ordering::Release);
        if done.available == 0 {
            // Woken for a part of what is under way, not for each.
            let left = count - came;
            let part = u64::from(depth.div_ceil(2)).min(left);
            channel.wait(part as u32, LIMIT)?;
        }
        for done in channel.completions() {
            done.result()?;
            ensure!(
                done.imm() == came as u32,
                "{} instead of {came}",
                done.imm()
            );
            came += 1;
        }
    }
    Ok(())
}
