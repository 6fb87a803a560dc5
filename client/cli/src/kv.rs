// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands `dmaplane kv send` and `dmaplane kv recv`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use dmaplane::{Address, Context, Listener, MemoryInfo, MemoryKind, Placement, RdmaPath, terminal};
use dmaplane_kv::atomic_file::AtomicFile;
use dmaplane_kv::file::{self, KvFile};
use dmaplane_kv::transfer::{
    self, Limits, MemoryLocation, Order, ReceiveOptions, Received, SendOptions, Source,
};
use dmaplane_kv::transfer::{Stats, TransferError};
use dmaplane_kv::{Digest, Manifest, Tracker, parse_size, sample};

/// Connections that may wait while an earlier one turns out not to be a sender.
const BACKLOG: u32 = 8;
/// How often a running transfer reports its progress.
const PROGRESS: Duration = Duration::from_secs(2);

/// Moving the KV cache of a language model.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Send a KV cache file to a machine that runs `dmaplane kv recv`.
    ///
    /// The file is copied into a buffer of the driver. Its manifest goes first; then each chunk is
    /// an RDMA WRITE whose immediate names layer and chunk. The receiver checks every layer against
    /// its SHA-256 and answers with a verdict: success here means that it has the same bits.
    #[command(after_help = "Example: dmaplane kv send --kv prompt.kv --to 10.77.0.2:7472")]
    Send(SendArgs),
    /// Receive a KV cache and write it to a file.
    ///
    /// Waits for one sender, takes its chunks in any order, checks each layer as soon as it is
    /// complete, and writes a safetensors file with all tensors of the sender's: those of the layers,
    /// `layers.N.k` and `layers.N.v` or `layers.N.latent`, and those beside them, such as scales.
    #[command(after_help = "Example: dmaplane kv recv --listen 10.77.0.2:7472 --out received.kv")]
    Recv(RecvArgs),
    /// Write a KV cache that belongs to no model, to try a transfer with. Needs no driver.
    #[command(after_help = "Example: dmaplane kv sample --out sample.kv")]
    Sample(SampleArgs),
}

/// Arguments of `dmaplane kv sample`.
#[derive(Debug, clap::Args)]
pub(crate) struct SampleArgs {
    /// Where to write the cache.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Layers of the cache.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    layers: u32,
    /// Tokens of the cache, of 2 KiB in each layer.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    tokens: u64,
}

/// Arguments of `dmaplane kv send`.
#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// The KV cache: a file as `kvcache prefill` and `dmaplane kv recv` write it.
    #[arg(long, value_name = "FILE")]
    kv: PathBuf,
    /// Address and port where the receiver listens; the address of an RDMA device. A link-local one names its
    /// interface, as in [fe80::1%eth0]:7472.
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: Address,
    /// Local address to connect from; routing chooses one if it is not given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    from: Option<Address>,
    /// Bytes of one write, a power of two with a suffix of K or M; as in the file if not given.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    chunk_size: Option<u64>,
    /// Writes in flight at once.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Whose memory the cache is sent from: host, or device for that of a PCI device such as a GPU;
    /// device:write-combined and device:cached choose how it is mapped, and RDMA then goes through
    /// host memory.
    #[arg(long, default_value = "host", value_parser = str::parse::<MemoryLocation>)]
    memory: MemoryLocation,
    /// Order of the chunks; the receiver takes any.
    #[arg(long, value_enum, default_value_t)]
    order: Order,
    /// Seconds to wait for the connection; attempts are repeated while nobody listens there.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    connect_timeout: u32,
    /// Seconds without any progress after which to give up.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    idle_timeout: u32,
}

/// Arguments of `dmaplane kv recv`.
#[derive(Debug, clap::Args)]
pub(crate) struct RecvArgs {
    /// Address and port to listen on; the address of an RDMA device.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Address,
    /// Where to write the cache. The file appears when everything has arrived, is verified and is on the disk; it then
    /// replaces a file of this name as a whole. The sender learns of success after that.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Receives posted ahead: chunks that the sender may have in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    depth: u32,
    /// Whose memory the cache is received into: host or device, as for `kv send`.
    #[arg(long, default_value = "host", value_parser = str::parse::<MemoryLocation>)]
    memory: MemoryLocation,
    /// Where the host's memory comes from: any, interleave, preferred:NODE, strict:NODE,
    /// near-rdma:DEVICE or near-pci:ADDRESS.
    #[arg(long, value_parser = str::parse::<Placement>, conflicts_with = "memory")]
    placement: Option<Placement>,
    /// Bytes of the largest cache to accept, with a suffix of K, M or G.
    #[arg(long, value_name = "BYTES", default_value = "64G", value_parser = parse_size)]
    max_bytes: u64,
    /// Seconds to wait for a sender.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    accept_timeout: u32,
    /// Seconds without any progress after which to give up.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    idle_timeout: u32,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    role: &'static str,
    model: &'a str,
    dtype: dmaplane_kv::DType,
    layers: u32,
    kv_heads: u32,
    head_dim: u32,
    tokens: u64,
    /// Tensors beside those of the layers.
    auxiliary_tensors: usize,
    chunk_size: u64,
    digest: Digest,
    /// The RDMA device.
    device: String,
    peer: Address,
    /// Whose memory the cache is in on this side, and how RDMA reached it.
    memory: MemoryInfo,
    /// Every layer has the sender's digest.
    verified: bool,
    connect_ms: f64,
    #[serde(flatten)]
    stats: Stats,
}

/// Runs one of the commands.
///
/// `open` opens the driver, for the commands that need it.
///
/// # Errors
/// The reason, as a sentence for the user.
pub(crate) fn run(
    open: impl FnOnce() -> Result<Context>,
    command: &Command,
    json: bool,
) -> Result<()> {
    match command {
        Command::Send(args) => send(&open()?, args, json),
        Command::Recv(args) => recv(&open()?, args, json),
        Command::Sample(args) => sample(args, json),
    }
}

fn sample(args: &SampleArgs, json: bool) -> Result<()> {
    let manifest = sample::write(&args.out, args.layers, args.tokens)?;
    let (bytes, digest) = (manifest.bytes(), manifest.digest());
    let text = if json {
        serde_json::to_string_pretty(&serde_json::json!({
            "file": args.out, "bytes": bytes, "digest": digest,
        }))?
    } else {
        format!("{}: {bytes} bytes\nsha256 {digest}", args.out.display())
    };
    terminal::print(&(text + "\n")).context("cannot write to standard output")
}

fn send(context: &Context, args: &SendArgs, json: bool) -> Result<()> {
    let file = KvFile::read(&args.kv)?;
    let mut manifest = file.manifest().clone();
    if let Some(chunk_size) = args.chunk_size {
        manifest = manifest.with_chunk_size(chunk_size)?;
    }
    let source = Source::new(context, manifest, file.data(), args.memory)?;
    drop(file);
    let limits = limits(args.connect_timeout, args.idle_timeout);
    let begin = Instant::now();
    let endpoint = transfer::connect(
        context,
        args.to.0,
        args.from.map(|from| from.0),
        limits.connect,
    )?;
    let link = Link {
        took: begin.elapsed(),
        device: endpoint.query()?.device,
        peer: args.to,
    };
    terminal::note(format_args!(
        "connected to {} through {}",
        link.peer,
        terminal::escape(&link.device)
    ));
    let options = SendOptions {
        depth: args.depth,
        order: args.order,
        limits,
    };
    let mut pace = Pace::new(source.manifest().bytes());
    let stats = transfer::send(&endpoint, &source, &options, |bytes| pace.report(bytes))?;
    report(
        "sender",
        source.manifest(),
        source.memory(),
        link,
        stats,
        json,
    )
}

fn recv(context: &Context, args: &RecvArgs, json: bool) -> Result<()> {
    // Checked first, not after gigabytes have crossed the network.
    AtomicFile::check(&args.out).map_err(dmaplane_kv::Error::from)?;
    let listener = Listener::bind(context, args.listen.0, BACKLOG)?;
    terminal::note(format_args!("listening on {}", Address(listener.local())));
    let options = ReceiveOptions {
        depth: args.depth,
        location: args.placement.map_or(args.memory, MemoryLocation::Host),
        max_bytes: args.max_bytes,
        limits: limits(args.accept_timeout, args.idle_timeout),
    };
    let begin = Instant::now();
    let mut pace = None;
    let (received, link) = loop {
        // Peers that are not senders do not extend the wait for one.
        let mut remaining = options;
        remaining.limits.connect = options.limits.connect.saturating_sub(begin.elapsed());
        let endpoint = transfer::accept(&listener, &remaining)?;
        let link = Link {
            took: begin.elapsed(),
            device: endpoint.query()?.device,
            peer: endpoint.peer().into(),
        };
        terminal::note(format_args!(
            "connected from {} through {}",
            link.peer,
            terminal::escape(&link.device)
        ));
        let progress = |_, tracker: &Tracker| {
            let total = tracker.plan().iter().map(|chunk| chunk.len).sum();
            pace.get_or_insert_with(|| Pace::new(total))
                .report(tracker.bytes());
        };
        let keep = |received: &Received| save(&args.out, received);
        match transfer::receive_and_keep(context, &endpoint, &options, progress, keep) {
            Ok((received, ())) => break (received, link),
            Err(error @ TransferError::NotASender(_)) => terminal::note(format_args!(
                "{}: {error}; waiting for another one",
                link.peer
            )),
            Err(error) => return Err(error.into()),
        }
    };
    report(
        "receiver",
        &received.manifest,
        received.memory,
        link,
        received.stats,
        json,
    )
}

/// Writes a received cache to its file. The file's digests are computed from what is written, after the sender has lost its
/// access.
fn save(path: &Path, received: &Received) -> Result<(), TransferError> {
    let manifest = &received.manifest;
    let written = file::prepare(path, manifest, &received.data)?;
    let (found, expected) = (written.manifest().digest(), manifest.digest());
    let dense = manifest.clone().into_dense()? == *manifest;
    if dense && found != expected {
        let what = "memory changed after it had been verified: the whole cache".to_owned();
        return Err(dmaplane_kv::Error::DigestMismatch {
            what,
            found,
            expected,
        }
        .into());
    }
    written.finish()?;
    Ok(())
}

fn limits(connect: u32, idle: u32) -> Limits {
    let seconds = |n: u32| Duration::from_secs(u64::from(n));
    Limits {
        connect: seconds(connect),
        idle: seconds(idle),
    }
}

/// A connection, and how long it took to make it.
struct Link {
    /// The RDMA device.
    device: String,
    peer: Address,
    took: Duration,
}

fn report(
    role: &'static str,
    manifest: &Manifest,
    memory: MemoryInfo,
    link: Link,
    stats: Stats,
    json: bool,
) -> Result<()> {
    let geometry = manifest.geometry();
    let report = Report {
        role,
        model: &geometry.model,
        dtype: geometry.dtype,
        layers: geometry.layers,
        kv_heads: geometry.kv_heads,
        head_dim: geometry.head_dim,
        tokens: geometry.seq_len,
        auxiliary_tensors: manifest.auxiliary().len(),
        chunk_size: geometry.chunk_size,
        digest: manifest.digest(),
        device: link.device,
        peer: link.peer,
        memory,
        // An unverified transfer has ended with an error before this point.
        verified: true,
        connect_ms: link.took.as_secs_f64() * 1e3,
        stats,
    };
    let text = if json {
        crate::json::text(&report)?
    } else {
        format!(
            "{}: {} layers, {} tokens{}, {} bytes in {} chunks, {:.1} MB/s, verified\n{}\nsha256 {}\n",
            if role == "sender" { "sent" } else { "received" },
            report.layers,
            report.tokens,
            match report.auxiliary_tensors {
                0 => String::new(),
                n => format!(", {n} auxiliary tensors"),
            },
            stats.bytes,
            stats.chunks,
            stats.transfer_mb_per_s,
            whereabouts(&memory),
            report.digest,
        )
    };
    terminal::print(&text)
        .context("the transfer is complete, but its report cannot be written to standard output")
}

/// Whose memory a cache is in, and how RDMA reached it.
fn whereabouts(memory: &MemoryInfo) -> String {
    let whose = match memory.kind {
        MemoryKind::Device { device, tier, .. } => format!("device {device}, {tier}"),
        _ => "host".to_owned(),
    };
    let path = match memory.rdma {
        RdmaPath::Direct => "RDMA direct",
        RdmaPath::StagedByTier => "RDMA through host memory, as the tier has no pages",
        _ => "RDMA through host memory, as the device has no pages",
    };
    format!("memory {whose}: {path}")
}

/// Reports the progress of a transfer on stderr, not too often.
struct Pace {
    total: u64,
    last: Instant,
}

impl Pace {
    fn new(total: u64) -> Self {
        Self {
            total,
            last: Instant::now(),
        }
    }

    fn report(&mut self, bytes: u64) {
        if self.last.elapsed() >= PROGRESS {
            self.last = Instant::now();
            terminal::note(format_args!(
                "{bytes} of {} bytes, {}%",
                self.total,
                bytes * 100 / self.total.max(1)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_are_understood() {
        let line = "kv recv --listen [fd77::2]:7472 --out x --placement strict:1 --max-bytes 1M";
        let Command::Recv(args) = Cli::parse_from(line.split(' ')).command else {
            panic!("not recv");
        };
        assert_eq!(
            (args.placement, args.max_bytes),
            (Some(Placement::Strict(1)), 1 << 20)
        );
        let line = "kv send --kv x --to 10.0.0.1:7 --order reverse --chunk-size 64K";
        let Command::Send(args) = Cli::parse_from(line.split(' ')).command else {
            panic!("not send");
        };
        assert_eq!((args.order, args.chunk_size), (Order::Reverse, Some(65536)));
        for wrong in [
            "--placement near",
            "--placement strict:x",
            "--placement any --memory device",
            "--memory gpu",
            "--depth 0",
        ] {
            let line = format!("kv recv --listen 10.0.0.1:7 --out x {wrong}");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }
}
