// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main job: prefill of a language model on one side, its KV cache moved between two guests
//! through the driver, decode on the other side, and proof that nothing was lost.
//!
//! | file | concept |
//! |---|---|
//! | model.rs | the model's weights: fetched, verified, or given |
//! | host.rs | prefill, decode and the reference run, on the host |
//! | transfer.rs | the two guests, and the transfer between them |
//! | report.rs | what is printed and what `--json` writes |

mod host;
mod model;
mod report;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::accel::AccelChoice;
use dmaplane_vmtest::guest::session::{Driver, TestEnv};
use dmaplane_vmtest::guest::topology::Topology;
use dmaplane_vmtest::kernel::Profile;
use dmaplane_vmtest::setup::{self, Need};
use host::KvCache;
use report::Report;

/// Long enough for a cache of some megabytes.
const PROMPT: &str = "Remote direct memory access lets one computer read and write the memory of \
    another one without involving its processor. The memory must stay where it is as long as a \
    peer may touch it. If a program dies while its peer still writes, the bytes may land in memory \
    that belongs to somebody else by then. A driver can prevent this: it revokes the key, waits \
    until the adapter is quiet, and only then gives the pages back. Why must the driver wait?";

/// Moves a language model's KV cache between two guests and checks it.
///
/// Prefill reads a prompt on the host and writes its KV cache, layer by layer. Guest a sends it by
/// RDMA WRITE WITH IMMEDIATE through /dev/dmaplane, guest b takes the chunks in any order and
/// checks each layer against the sender's digest. Decode continues on the host from what b received
/// and must produce the tokens of the reference run. The last line is `demo: ok` or
/// `demo: FAILED: why`.
///
/// First provides what is missing: tools, kernel, module, model. The first run takes as long as a
/// kernel build, further ones about a minute.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct DemoArgs {
    /// What the user asks the model.
    #[arg(long, default_value = PROMPT)]
    prompt: String,
    /// Tokens to produce at most.
    #[arg(long, default_value_t = 48, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Bytes of one RDMA write: a power of two from 64, with a suffix of K or M.
    #[arg(long, value_name = "BYTES", default_value = "16K", value_parser = parse_chunk_size)]
    chunk_size: u64,
    /// Uses your own model, GGUF of architecture llama with its tokenizer, instead of the pinned
    /// SmolLM2. This is also the way to supply SmolLM2 by hand.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The memory that holds the cache on both sides: host, or device for a PCI device's memory,
    /// which RDMA reaches directly; device:write-combined and device:cached go through host memory.
    #[arg(long, default_value = "host", value_parser = ["host", "device", "device:uncached",
        "device:write-combined", "device:cached"])]
    memory: String,
    /// Writes everything that was measured to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What executes the guests; `auto` tries a boot with KVM once and remembers the answer.
    #[arg(long, value_enum, default_value = "auto")]
    accel: AccelChoice,
    /// Two guests: a file of vm/topologies, without its extension.
    #[arg(long, value_name = "NAME", default_value = "pair")]
    topology: String,
}

/// The command `demo`.
#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: DemoArgs) -> Result<ExitCode> {
    let mut report = Report::new(&args.prompt);
    let begin = Instant::now();
    let mut result = demo(ctx, &args, &mut report);
    report.finish(begin.elapsed(), result.as_ref().err());
    if let Some(path) = &args.json {
        result = result.and(report.write(path));
    }
    report.print();
    match result {
        Ok(()) => {
            println!("demo: ok");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            println!("demo: FAILED: {}", report::first_line(&error));
            Ok(exit::code_of(&error))
        }
    }
}

fn demo(ctx: &Ctx, args: &DemoArgs, report: &mut Report) -> Result<()> {
    // Mistakes in the arguments are reported before the long steps.
    let topology = Topology::load(&ctx.root, &args.topology)?;
    ensure!(
        topology.guests.len() == 2,
        "the demo needs a topology of two guests, {} has {}",
        topology.name,
        topology.guests.len()
    );
    ensure!(
        args.memory == "host" || topology.guests.iter().all(|guest| !guest.bars.is_empty()),
        "--memory {} needs a topology whose guests have a BAR, {} has none",
        args.memory,
        topology.name
    );
    let ahead = host::Ahead::start(ctx)?;
    let tools = report.stage("setup", || setup::ensure(ctx, Need::Boot))?;
    let python = tools.vng_bin.join("python3");
    let model = report.stage("model", || {
        model::ensure(ctx, &python, args.model.as_deref())
    })?;
    let test_env = report.stage("kernel, module, programs", || {
        TestEnv::prepare(
            ctx,
            &args.topology,
            Profile::Stock,
            args.accel,
            Driver::Loaded,
        )
    })?;
    report.test_env(&test_env);
    let kvcache = report.stage("build of kvcache", || KvCache::build(ctx))?;
    drop(ahead);

    let dir = tempfile::Builder::new()
        .prefix("demo-")
        .tempdir_in(ctx.cache_sub("run")?)?;
    let work = host::Work::new(dir.path(), model);
    let prefill = report.stage("prefill", || {
        kvcache.prefill(ctx, &work, &args.prompt, args.chunk_size)
    })?;
    report.prefill(&prefill);
    let sent = report.stage("guests", || {
        transfer::run(ctx, &test_env, &work, &args.memory)
    })?;
    report.transfer(&sent);
    report.bitwise_identical(host::same_bytes(&work.kv, &work.received)?)?;
    let decode = report.stage("decode", || kvcache.decode(ctx, &work, args.tokens))?;
    let reference = report.stage("reference run", || {
        kvcache.reference(ctx, &work, &args.prompt, args.tokens)
    })?;
    report.tokens(&decode, &reference)
}

/// Reads a chunk size; kvcache decides whether it suits the cache.
fn parse_chunk_size(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes >= 64 && bytes.is_power_of_two())
        .ok_or_else(|| "give a power of two from 64 bytes, such as 4096, 64K or 1M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_checked_before_the_long_steps() {
        assert_eq!(parse_chunk_size("16K"), Ok(16384));
        assert_eq!(parse_chunk_size("64"), Ok(64));
        for wrong in [
            "",
            "0",
            "K",
            "100",
            "192K",
            "1G",
            "99999999999999999999",
            "18446744073709551615M",
        ] {
            assert!(parse_chunk_size(wrong).is_err(), "{wrong}");
        }
    }
}
