// SPDX-License-Identifier: MIT OR Apache-2.0

//! What observing costs: tracepoints compiled out, off and on, histograms on and off, each at the rate of NOPs and of 4 KiB
//! WRITE_IMMs. The variants take turns, and each is compared with its reference of the same turn.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, Entry, GrantTerms, Listener, Placement,
    RemoteGrant,
};
use dmaplane_observe::tracefs::Recording;
use dmaplane_testkit::module;

use crate::row::{Row, median};

/// Names the module that was built without trace events; `cargo xtask bench` sets it.
const PLAIN: &str = "DMAPLANE_KO_PLAIN";
/// Counts latencies or not.
const HISTOGRAMS: &str = "/sys/kernel/debug/dmaplane/state/histograms_enabled";
/// Longest that one batch may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Entries for each system call.
const BATCH: u32 = 16;
/// Bytes of a WRITE_IMM.
const BYTES: u32 = 4096;

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// Tracepoints compiled out.
    Plain,
    /// Tracepoints off.
    Off,
    /// As `Off`, measured once more: the difference is the noise of the run.
    OffAgain,
    /// As `Off`, without histograms.
    NoHistograms,
    /// Every event is recorded.
    On,
}

/// All, in the order of a turn.
const VARIANTS: [Variant; 5] = [
    Variant::Plain,
    Variant::Off,
    Variant::NoHistograms,
    Variant::OffAgain,
    Variant::On,
];

/// A comparison: what, with what, and both names.
const COMPARED: [(Variant, Variant, &str, &str); 4] = [
    (Variant::OffAgain, Variant::Off, "noise", "the same again"),
    (
        Variant::Off,
        Variant::Plain,
        "off",
        "tracepoints compiled out",
    ),
    (
        Variant::Off,
        Variant::NoHistograms,
        "histograms",
        "histograms off",
    ),
    (Variant::On, Variant::Off, "on", "tracepoints off"),
];

/// One turn's rates, by variant.
type Turn = [f64; VARIANTS.len()];

fn place(variant: Variant) -> usize {
    VARIANTS
        .iter()
        .position(|other| *other == variant)
        .unwrap_or(0)
}

pub(crate) fn measure(accel: &str, quick: bool) -> Result<Vec<Row>> {
    let plain = std::env::var_os(PLAIN).with_context(|| format!("{PLAIN} is not set"))?;
    let modules = (PathBuf::from(plain), module::path()?);
    let (turns, nops, writes) = if quick {
        (3, 16_000, 320)
    } else {
        (15, 800_000, 6400)
    };
    let mut rates: [Vec<Turn>; 2] = Default::default();
    // The first turn warms up.
    for turn in 0..=turns {
        let mut now = [[0.0; VARIANTS.len()]; 2];
        for step in 0..VARIANTS.len() {
            // Each variant has each place in a turn once, so that drift affects all alike.
            let variant = VARIANTS[(step + turn) % VARIANTS.len()];
            let (nop, write) = one(variant, &modules, nops, writes)?;
            now[0][place(variant)] = nop;
            now[1][place(variant)] = write;
        }
        if turn > 0 {
            rates[0].push(now[0]);
            rates[1].push(now[1]);
        }
    }
    // Whoever looks for leaks afterwards finds the ordinary module.
    load(&modules.1)?;
    let cases = [
        ("nop", 0, &rates[0]),
        ("write_imm", u64::from(BYTES), &rates[1]),
    ];
    let mut rows = Vec::new();
    for (case, size, turns) in cases {
        for (variant, other, name, reference) in COMPARED {
            let rate = |turn: &Turn| turn[place(variant)];
            let mut values: Vec<_> = turns.iter().map(rate).collect();
            let ratio = |turn: &Turn| rate(turn) / turn[place(other)];
            let mut ratios: Vec<_> = turns.iter().map(ratio).collect();
            let value = median(&mut values).context("no turns")?;
            let ratio = median(&mut ratios).context("no turns")?;
            let (low, high) = (ratios[0], ratios[ratios.len() - 1]);
            println!(
                "{case:9} {name:10} {value:12.0} operations/s, {:+.2} % of {reference} ({:+.2} to {:+.2} %)",
                (ratio - 1.0) * 100.0,
                (low - 1.0) * 100.0,
                (high - 1.0) * 100.0
            );
            rows.push(Row {
                bench: "overhead",
                case: format!("{case} {name}"),
                size,
                depth: BATCH,
                value,
                unit: "operations/s",
                reference,
                ratio,
                accel: accel.to_owned(),
            });
        }
    }
    Ok(rows)
}

fn load(path: &Path) -> Result<()> {
    module::unload(LIMIT)?;
    module::load(path, LIMIT)
}

/// Rates of NOPs and of writes of one variant.
fn one(
    variant: Variant,
    (plain, ordinary): &(PathBuf, PathBuf),
    nops: u32,
    writes: u32,
) -> Result<(f64, f64)> {
    load(if variant == Variant::Plain {
        plain
    } else {
        ordinary
    })?;
    let histograms = if variant == Variant::NoHistograms {
        "0"
    } else {
        "1"
    };
    std::fs::write(HISTOGRAMS, histograms).with_context(|| format!("cannot write {HISTOGRAMS}"))?;
    let recording = match variant {
        Variant::On => Some(Recording::start(&[])?),
        _ => None,
    };
    let rates = (nop_rate(nops)?, write_rate(writes)?);
    drop(recording);
    Ok(rates)
}

fn nop_rate(count: u32) -> Result<f64> {
    let context = Context::open()?;
    let mut channel = Channel::builder().entries(BATCH).build(&context)?;
    batches(&mut channel, count, Entry::nop)
}

/// Runs `count` operations in batches, and returns how many there were per second.
fn batches(channel: &mut Channel, count: u32, entry: impl Fn() -> Entry) -> Result<f64> {
    // A tenth first: what is made on first use is made by then.
    let mut start = Instant::now();
    let rounds = count / BATCH;
    for round in 0..rounds + rounds / 10 {
        if round == rounds / 10 {
            start = Instant::now();
        }
        for _ in 0..BATCH {
            channel.push(entry())?;
        }
        let done = channel.submit_and_wait(BATCH, LIMIT)?;
        ensure!(done.available >= BATCH, "{done:?} instead of {BATCH}");
        let ok = channel.completions().filter(|done| done.is_ok()).count();
        ensure!(ok == BATCH as usize, "{ok} of {BATCH} ended well");
    }
    Ok(f64::from(rounds * BATCH) / start.elapsed().as_secs_f64())
}

fn write_rate(count: u32) -> Result<f64> {
    let near = Context::open()?;
    let far = Context::open()?;
    let address: std::net::IpAddr = std::env::var("DMAPLANE_LOCAL_IP")?.parse()?;
    let listener = Listener::bind(&far, (address, 0).into(), 1)?;
    let (sender, receiver) = std::thread::scope(|scope| {
        let accept = scope.spawn(|| listener.accept(2 * BATCH, LIMIT));
        let sender = Endpoint::connect(&near, listener.local(), &ConnectOptions::default());
        (sender, accept.join())
    });
    let receiver = receiver.map_err(|_| anyhow::anyhow!("the accepting thread panicked"))??;
    let sender = sender?;
    let target = Buffer::create(&far, BYTES.into(), Placement::Any)?;
    let _grant = receiver.grant_on(&target, 0..BYTES.into(), &GrantTerms::default(), LIMIT)?;
    let grant: RemoteGrant = sender.wait_grant(LIMIT)?;
    let source = Buffer::create(&near, BYTES.into(), Placement::Any)?;
    let mut sends = Channel::builder().entries(BATCH).build(&near)?;
    let receives = Channel::builder()
        .entries(BATCH)
        .completions(4 * BATCH)
        .build(&far)?;
    let total = count / BATCH * BATCH + count / BATCH / 10 * BATCH;
    std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(receives, &receiver, total));
        let rate = batches(&mut sends, count, || {
            Entry::write_imm(source.range(0, BYTES), grant.at(0), 0).trace_id(1)
        });
        let received = receiving
            .join()
            .map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        received.and(rate)
    })
}

/// Keeps receives posted until `total` have completed.
fn receive(mut channel: Channel, endpoint: &Endpoint, total: u32) -> Result<()> {
    let (mut posted, mut done) = (0, 0);
    while done < total {
        while posted < total && posted - done < 2 * BATCH {
            if channel.push(Entry::recv(endpoint)).is_err() {
                break;
            }
            posted += 1;
        }
        channel.submit_and_wait(1, LIMIT)?;
        for completion in channel.completions() {
            completion.result()?;
            done += 1;
        }
    }
    Ok(())
}
