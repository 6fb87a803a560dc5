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

/// How a case configures its channel.
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
            wait_for(&mut there, 0, 1)?;
            for _ in 1..rounds {
                send(&far, &mut there)?;
                wait_for(&mut there, 1, 1)?;
            }
            send(&far, &mut there)?;
            wait_for(&mut there, 1, 0)
        });
        let start = Instant::now();
        for _ in 0..rounds {
            send(&near, &mut here)?;
            wait_for(&mut here, 1, 1)?;
        }
        let took = start.elapsed();
        echo.join()
            .map_err(|_| anyhow!("the other side panicked"))??;
        Ok(took)
    })?;
    Ok(took.as_secs_f64() * 1e6 / (2.0 * rounds as f64))
}

/// Sends, and posts the receive that the last arrival has used up. Both go with the wait that follows, in one call.
fn send(side: &Side, channel: &mut Channel) -> Result<()> {
    let source = side.buffer.range(0, BYTES);
    channel.push(Entry::write_imm(source, side.taken.at(0), 1))?;
    channel.push(Entry::recv(&side.endpoint))?;
    Ok(())
}

/// Waits until so many own messages are sent and so many of the other side's have come.
fn wait_for(channel: &mut Channel, sent: u32, came: u32) -> Result<()> {
    let (mut to_send, mut to_come) = (sent, came);
    while to_send + to_come > 0 {
        let done = channel.submit_and_wait(to_send + to_come, LIMIT)?;
        ensure!(done.available > 0, "nothing for {LIMIT:?}");
        for done in channel.completions() {
            done.result()?;
            let left = if done.op() == dmaplane_uapi::OP_RECV {
                &mut to_come
            } else {
                &mut to_send
            };
            *left = left.checked_sub(1).context("more than was sent")?;
        }
    }
    Ok(())
}
