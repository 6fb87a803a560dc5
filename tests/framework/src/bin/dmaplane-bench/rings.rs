// SPDX-License-Identifier: MIT OR Apache-2.0

//! NOPs through a channel: what an entry costs, and what a system call.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dmaplane::{Channel, Context, Entry, Polling};

use crate::row::{Row, median};

/// Entries for each system call; the first one is the reference.
const BATCHES: [u32; 4] = [1, 32, 64, 256];
/// Runs of which the median counts. They take turns, so that other work of the host affects all cases alike.
const RUNS: usize = 5;
/// Longest that one batch may take.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn measure(accel: &str, quick: bool) -> Result<Vec<Row>> {
    let context = Context::open()?;
    let mut channel = Channel::builder().entries(256).build(&context)?;
    let entries = if quick { 20_000 } else { 400_000 };
    let mut rates = BATCHES.map(|_| Vec::new());
    for run in 0..=RUNS {
        for (batch, rates) in BATCHES.iter().zip(&mut rates) {
            // Small batches take longer for each entry: fewer entries.
            let rate = rate(&mut channel, *batch, entries / (32 / (*batch).min(32)))?;
            // The first run warms up.
            if run > 0 {
                rates.push(rate);
            }
        }
    }
    let mut rows = Vec::new();
    let mut reference = None;
    for (batch, rates) in BATCHES.iter().zip(&mut rates) {
        let value = median(rates).context("no runs")?;
        let reference = *reference.get_or_insert(value);
        println!("{batch:4} entries for each system call: {value:12.0} entries/s");
        rows.push(Row {
            bench: "rings",
            case: "nop".to_owned(),
            size: 0,
            depth: *batch,
            value,
            unit: "entries/s",
            reference: "one system call per entry",
            ratio: value / reference,
            accel: accel.to_owned(),
        });
    }
    rows.push(polling_thread(&context, entries, reference, accel)?);
    Ok(rows)
}

/// Entries per second that a polling thread takes, without a system call.
fn polling_thread(
    context: &Context,
    entries: u32,
    reference: Option<f64>,
    accel: &str,
) -> Result<Row> {
    const DEPTH: u32 = 256;
    // As long as the whole run lasts, nobody has to wake it.
    let polling = Polling {
        node: None,
        idle: Duration::from_secs(1),
    };
    let builder = Channel::builder().entries(DEPTH).polling(polling);
    let mut channel = builder.build(context)?;
    let mut rates = Vec::new();
    for run in 0..=RUNS {
        let start = Instant::now();
        let (mut pushed, mut done) = (0, 0);
        while done < entries {
            while pushed < entries && channel.push(Entry::nop()).is_ok() {
                pushed += 1;
            }
            channel.submit()?;
            let came = channel.completions().filter(|done| done.is_ok()).count();
            done += u32::try_from(came)?;
            if came == 0 {
                std::hint::spin_loop();
            }
        }
        if run > 0 {
            rates.push(f64::from(entries) / start.elapsed().as_secs_f64());
        }
    }
    let value = median(&mut rates).context("no runs")?;
    let reference = reference.context("no reference")?;
    println!("     the polling thread: {value:27.0} entries/s");
    Ok(Row {
        bench: "rings",
        case: "nop, polling thread".to_owned(),
        size: 0,
        depth: DEPTH,
        value,
        unit: "entries/s",
        reference: "one system call per entry",
        ratio: value / reference,
        accel: accel.to_owned(),
    })
}

/// Entries per second, completions taken included.
fn rate(channel: &mut Channel, batch: u32, entries: u32) -> Result<f64> {
    let batches = (entries / batch).max(1);
    let start = Instant::now();
    for _ in 0..batches {
        for _ in 0..batch {
            channel.push(Entry::nop())?;
        }
        let done = channel.submit_and_wait(batch, LIMIT)?;
        ensure!(done.available == batch, "{done:?} instead of {batch}");
        let ok = channel.completions().filter(|done| done.is_ok()).count();
        ensure!(ok == batch as usize, "{ok} of {batch} ended well");
    }
    Ok(f64::from(batches * batch) / start.elapsed().as_secs_f64())
}
