// SPDX-License-Identifier: MIT OR Apache-2.0

//! 128 chunks of 1 MiB by WRITE_IMM, as a KV cache goes, next to `ib_write_bw`.

use anyhow::{Context as _, Result};

use crate::perftest::Perftest;
use crate::row::{Row, median};
use crate::stream::{Kind, stream};

const CHUNK: u32 = 1 << 20;
const CHUNKS: u64 = 128;
const DEPTHS: [u32; 2] = [8, 32];
/// Chunks that lie in memory at once; the guests are small.
const PLACES: u64 = 64;
const RUNS: usize = 3;

pub(crate) fn measure(accel: &str, quick: bool) -> Result<Vec<Row>> {
    let mut perftest = Perftest::new()?;
    let runs = if quick { 1 } else { RUNS };
    let mut rows = Vec::new();
    for depth in DEPTHS {
        let (mut values, mut references) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            references.push(perftest.write_bandwidth(CHUNK.into(), depth, CHUNKS)?);
            values.push(stream(Kind::WriteImm, CHUNK, depth, CHUNKS, PLACES)?);
        }
        let reference = median(&mut references).context("no runs")?;
        let value = median(&mut values).context("no runs")?;
        let ratio = value / reference;
        println!(
            "{CHUNKS} chunks x {depth:2}: {:.1} MB/s, {ratio:.2} x ib_write_bw",
            value / 1e6
        );
        rows.push(Row {
            bench: "kv",
            case: "chunks".to_owned(),
            size: CHUNK.into(),
            depth,
            value,
            unit: "bytes/s",
            reference: "ib_write_bw",
            ratio,
            accel: accel.to_owned(),
        });
    }
    Ok(rows)
}
