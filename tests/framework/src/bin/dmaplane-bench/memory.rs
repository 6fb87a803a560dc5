// SPDX-License-Identifier: MIT OR Apache-2.0

//! Memory: what making, registering and reaching it costs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dmaplane::{
    Buffer, Channel, ConnectOptions, Context, Endpoint, Entry, Listener, Placement, Pool, Rights,
};
use dmaplane_observe::numa::{self, Plan};
use dmaplane_testkit::Guest;
use dmaplane_testkit::counters::Tuned;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::row::{Row, median};

/// Runs of which the median counts. Cases take turns, so that other work of the host affects all alike.
const RUNS: usize = 5;
/// Orders of folios that are compared: single pages, 64 KiB, 2 MiB.
const ORDERS: [u32; 3] = [0, 4, 9];
/// Work items that zero.
const WORKERS: [u64; 3] = [1, 2, 4];
const GIB: f64 = (1u64 << 30) as f64;
const LIMIT: Duration = Duration::from_secs(30);

/// The parameters of one run.
struct Bench<'a> {
    accel: &'a str,
    bytes: u64,
    rows: Vec<Row>,
}

pub(crate) fn measure(accel: &str, quick: bool) -> Result<Vec<Row>> {
    let mut bench = Bench {
        accel,
        bytes: if quick { 16 << 20 } else { 128 << 20 },
        rows: Vec::new(),
    };
    bench.making()?;
    bench.zeroing()?;
    bench.registering()?;
    bench.warm(if quick { 20 } else { 200 })?;
    bench.distances(quick)?;
    Ok(bench.rows)
}

impl Bench<'_> {
    fn row(&mut self, case: String, depth: u32, values: &mut [f64], against: (&'static str, f64)) {
        let Some(value) = median(values) else { return };
        let (reference, base) = against;
        println!("{case:24} {value:12.2} ms/GiB, {reference} {base:12.2}");
        self.rows.push(Row {
            bench: "memory",
            case,
            size: self.bytes,
            depth,
            value,
            unit: "ms/GiB",
            reference,
            ratio: value / base,
            accel: self.accel.to_owned(),
        });
    }

    fn per_gib(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e3 * GIB / self.bytes as f64
    }

    /// Allocating and zeroing by the largest folio, one processor, next to memory that the kernel gives page by page.
    fn making(&mut self) -> Result<()> {
        let context = Context::open()?;
        let mut references = Vec::new();
        let mut times = ORDERS.map(|_| Vec::new());
        for _ in 0..RUNS {
            references.push(self.per_gib(touch_anonymous(self.bytes)?));
            for (order, times) in ORDERS.iter().zip(&mut times) {
                let _order = Tuned::set("folio_order", u64::from(*order))?;
                let _workers = Tuned::set("zero_workers", 1)?;
                times.push(self.per_gib(make(&context, self.bytes)?));
            }
        }
        let base = median(&mut references).context("no runs")?;
        for (order, times) in ORDERS.iter().zip(&mut times) {
            let case = format!("alloc+zero order {order}");
            self.row(case, 1, times, ("anonymous mmap, touched", base));
        }
        Ok(())
    }

    /// Allocating and zeroing in the largest folios, by work items that zero.
    fn zeroing(&mut self) -> Result<()> {
        let context = Context::open()?;
        let mut times = WORKERS.map(|_| Vec::new());
        for _ in 0..RUNS {
            for (workers, times) in WORKERS.iter().zip(&mut times) {
                let _workers = Tuned::set("zero_workers", *workers)?;
                times.push(self.per_gib(make(&context, self.bytes)?));
            }
        }
        let base = median(&mut times[0]).context("no runs")?;
        for (workers, times) in WORKERS.iter().zip(&mut times) {
            let case = format!("alloc+zero {workers} workers");
            self.row(case, *workers as u32, times, ("one worker", base));
        }
        Ok(())
    }

    /// Registering by the largest folio: a grant over the whole buffer, whose message is the same for all.
    fn registering(&mut self) -> Result<()> {
        let pair = Pair::connect()?;
        let mut times = ORDERS.map(|_| Vec::new());
        for _ in 0..RUNS {
            for (order, times) in ORDERS.iter().zip(&mut times) {
                let _order = Tuned::set("folio_order", u64::from(*order))?;
                let buffer = Buffer::create(&pair.near_context, self.bytes, Placement::Any)?;
                times.push(self.per_gib(pair.grant(&buffer)?));
            }
        }
        let base = median(&mut times[0]).context("no runs")?;
        for (order, times) in ORDERS.iter().zip(&mut times) {
            self.row(
                format!("register order {order}"),
                1,
                times,
                ("single pages", base),
            );
        }
        Ok(())
    }

    /// A buffer that is made, sent from once and dropped, next to the same with one that is carved out of a warm pool.
    fn warm(&mut self, rounds: u32) -> Result<()> {
        const BYTES: u64 = 1 << 20;
        let pair = Pair::connect()?;
        let target = Buffer::create(&pair.far_context, BYTES, Placement::Any)?;
        let _own = pair.far.grant(&target, 0..BYTES, Rights::WRITE, 0, LIMIT)?;
        let grant = pair.near.wait_grant(LIMIT)?;
        let mut channel = Channel::builder().entries(4).build(&pair.near_context)?;
        let pool = Pool::builder(4 * BYTES).create(&pair.near_context)?;
        let mut send = |buffer: &Buffer| -> Result<()> {
            channel.push(Entry::write(buffer.range(0, 4096), grant.at(0)))?;
            let done = channel.submit_and_wait(1, LIMIT)?;
            ensure!(done.available == 1, "no completion within {LIMIT:?}");
            for done in channel.completions() {
                done.result()?;
            }
            Ok(())
        };
        let make = || Buffer::create(&pair.near_context, BYTES, Placement::Any);
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..RUNS {
            times[0].push(each(rounds, || make().map(drop).map_err(Into::into))?);
            times[1].push(each(rounds, || {
                pool.carve(BYTES).map(drop).map_err(Into::into)
            })?);
            times[2].push(each(rounds, || send(&make()?))?);
            times[3].push(each(rounds, || send(&pool.carve(BYTES)?))?);
        }
        let cases = [
            "create+drop",
            "carve+drop",
            "create+register+send",
            "carve+send",
        ];
        let mut medians = Vec::new();
        for times in &mut times {
            medians.push(median(times).context("no runs")?);
        }
        for (index, (case, value)) in cases.into_iter().zip(&medians).enumerate() {
            // Each pair is compared with its first.
            let base = medians[index / 2 * 2];
            println!(
                "{case:24} {value:12.2} us, {:.3} x {}",
                value / base,
                cases[index / 2 * 2]
            );
            self.rows.push(Row {
                bench: "memory",
                case: case.to_owned(),
                size: BYTES,
                depth: 1,
                value: *value,
                unit: "us",
                reference: cases[index / 2 * 2],
                ratio: value / base,
                accel: self.accel.to_owned(),
            });
        }
        Ok(())
    }

    /// Every node's processors at every node's memory, next to their own.
    fn distances(&mut self, quick: bool) -> Result<()> {
        let context = Context::open()?;
        let mut plan = Plan::default();
        if quick {
            plan.time = Duration::from_millis(10);
            plan.sizes.truncate(4);
        }
        let matrix = numa::measure(&context, &plan, &mut |step| {
            println!("distances: {} of {}", step.done, step.total);
        })?;
        if let Some(what) = numa::emulation() {
            println!("{what}: placement is verified, bandwidth and latency are not meaningful");
        }
        for cell in &matrix.cells {
            let local = matrix.cell(cell.cpu_node, cell.cpu_node).unwrap_or(cell);
            let case = format!("copy cpu {} mem {}", cell.cpu_node, cell.memory_node);
            let sizes = matrix.sizes.iter();
            for (index, size) in sizes.enumerate() {
                let (rate, own) = (cell.bytes_per_second[index], local.bytes_per_second[index]);
                self.cell(&case, *size, (rate / 1e6, rate / own), "MB/s");
            }
            let case = format!("latency cpu {} mem {}", cell.cpu_node, cell.memory_node);
            let ratio = cell.latency_ns / local.latency_ns;
            self.cell(&case, matrix.headline_bytes, (cell.latency_ns, ratio), "ns");
        }
        Ok(())
    }

    fn cell(&mut self, case: &str, size: u64, (value, ratio): (f64, f64), unit: &'static str) {
        self.rows.push(Row {
            bench: "memory",
            case: case.to_owned(),
            size,
            depth: 1,
            value,
            unit,
            reference: "memory of the own node",
            ratio,
            accel: self.accel.to_owned(),
        });
    }
}

/// Microseconds for each round.
fn each(rounds: u32, mut round: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..rounds {
        round()?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds))
}

/// Makes a buffer, and drops it only after the end of the measured time.
fn make(context: &Context, bytes: u64) -> Result<Duration> {
    let start = Instant::now();
    let buffer = Buffer::create(context, bytes, Placement::Any)?;
    let time = start.elapsed();
    ensure!(
        buffer.len() == bytes,
        "{} bytes instead of {bytes}",
        buffer.len()
    );
    Ok(time)
}

/// What a program without the driver does: anonymous memory, populated.
fn touch_anonymous(bytes: u64) -> Result<Duration> {
    let bytes = usize::try_from(bytes)?;
    let start = Instant::now();
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    let both = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: A new mapping at an address of the kernel's choice touches no existing memory.
    let memory = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, both, flags) }?;
    let time = start.elapsed();
    // SAFETY: The mapping is this function's, and nobody uses it.
    unsafe { munmap(memory, bytes) }?;
    Ok(time)
}

/// Both sides of a connection.
struct Pair {
    near: Endpoint,
    far: Endpoint,
    near_context: Context,
    far_context: Context,
}

impl Pair {
    fn connect() -> Result<Self> {
        let address = Guest::from_env()?.local;
        let near_context = Context::open()?;
        let far_context = Context::open()?;
        let listener = Listener::bind(&far_context, SocketAddr::new(address, 0), 1)?;
        let options = ConnectOptions {
            timeout: LIMIT,
            ..Default::default()
        };
        let (near, far) = std::thread::scope(|scope| {
            let accept = scope.spawn(|| listener.accept(64, LIMIT));
            let near = Endpoint::connect(&near_context, listener.local(), &options);
            (near, accept.join())
        });
        let Ok(far) = far else {
            bail!("the accepting thread panicked");
        };
        Ok(Self {
            near: near?,
            far: far?,
            near_context,
            far_context,
        })
    }

    /// How long a grant over all of a buffer takes.
    fn grant(&self, buffer: &Buffer) -> Result<Duration> {
        let start = Instant::now();
        let grant = self
            .near
            .grant(buffer, 0..buffer.len(), Rights::WRITE, 0, LIMIT)?;
        let time = start.elapsed();
        drop(grant);
        Ok(time)
    }
}
