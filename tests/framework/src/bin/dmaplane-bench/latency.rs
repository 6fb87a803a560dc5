// SPDX-License-Identifier: MIT OR Apache-2.0

//! A message of 4 KiB there and another back, by WRITE_IMM, next to `ib_send_lat`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use dmaplane::{Channel, ChannelBuilder, Entry, Polling};

use crate::pairing::{LIMIT, Side, pair};
use crate::perftest::Perftest;
use crate::row::{Row, median};

const BYTES: u32 = 4096;
/// Runs of which the median counts, in turns with the reference's.
const RUNS: usize = 5;
/// Receives that each side keeps posted.
const RECEIVES: u32 = 64;

/// What a case makes of a channel.
type Build = fn(ChannelBuilder) -> ChannelBuilder;

/// How a side waits.
const CASES: [(&str, Build); 3] = [
    ("sleeping", |builder| builder),
    ("spinning", |builder| builder.spin(Duration::from_millis(2))),
    ("polling thread", |builder| {
        builder.polling(Polling::default())
    }),
];

pub(crate) fn measure(accel: &str, quick: bool) -> Result<Vec<Row>> {
    let rounds = if quick { 300 } else { 2000 };
    let mut perftest = Perftest::new()?;
    let mut references = Vec::new();
    let mut values = CASES.map(|_| Vec::new());
    for run in 0..=RUNS {
        let (average, _) = perftest.send_latency(BYTES.into(), rounds)?;
        let took = CASES.map(|(_, build)| ping_pong(build, rounds));
        // The first run warms up.
        if run > 0 {
            references.push(average);
            for (values, took) in values.iter_mut().zip(took) {
                values.push(took?);
            }
        }
    }
    let reference = median(&mut references).context("no runs")?;
    println!("{:>16}: {reference:8.1} us one way", "ib_send_lat");
    let mut rows = Vec::new();
    for ((case, _), values) in CASES.iter().zip(&mut values) {
        let value = median(values).context("no runs")?;
        println!("{case:>16}: {value:8.1} us one way");
        rows.push(Row {
            bench: "latency",
            case: (*case).to_owned(),
            size: BYTES.into(),
            depth: 1,
            value,
            unit: "us",
            reference: "ib_send_lat",
            ratio: value / reference,
            accel: accel.to_owned(),
        });
    }
    Ok(rows)
}

/// Microseconds that a message takes one way.
fn ping_pong(build: Build, rounds: u64) -> Result<f64> {
    let (near, far) = pair(BYTES.into())?;
    let channel =
        |side: &Side| build(Channel::builder().entries(2 * RECEIVES)).build(&side.context);
    let (mut here, mut there) = (channel(&near)?, channel(&far)?);
    // As the reference does it: receives ahead of what comes, so that none is waited for.
    for (side, channel) in [(&near, &mut here), (&far, &mut there)] {
        for _ in 0..RECEIVES {
            channel.push(Entry::recv(&side.endpoint))?;
        }
        channel.submit()?;
    }
    let took = std::thread::scope(|scope| -> Result<Duration> {
        let echo = scope.spawn(|| {
            for _ in 0..rounds {
                arrival(&mut there)?;
                send(&far, &mut there)?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let start = Instant::now();
        for _ in 0..rounds {
            send(&near, &mut here)?;
            arrival(&mut here)?;
        }
        let took = start.elapsed();
        echo.join()
            .map_err(|_| anyhow!("the other side panicked"))??;
        Ok(took)
    })?;
    Ok(took.as_secs_f64() * 1e6 / (2.0 * rounds as f64))
}

/// Sends, and posts the receive that the last arrival has used up.
fn send(side: &Side, channel: &mut Channel) -> Result<()> {
    let source = side.buffer.range(0, BYTES);
    channel.push(Entry::write_imm(source, side.taken.at(0), 1))?;
    channel.push(Entry::recv(&side.endpoint))?;
    channel.submit()?;
    Ok(())
}

/// Waits for the other side's message. Completions of this side's own are taken as they come.
fn arrival(channel: &mut Channel) -> Result<()> {
    loop {
        while let Some(done) = channel.next_completion() {
            done.result()?;
            if done.op() == dmaplane_uapi::OP_RECV {
                return Ok(());
            }
        }
        let done = channel.wait(1, LIMIT)?;
        ensure!(done.available > 0, "nothing for {LIMIT:?}");
    }
}
