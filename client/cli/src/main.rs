// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command-line tool of dmaplane.

// Reason: printing by macro panics where the output is full or closed; `terminal` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod info;
mod interrupt;
mod json;
mod kv;
mod man;
mod metrics;
mod numa;
mod output;
mod script;
mod top;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::{Parser, Subcommand};
use dmaplane::{Context, DEVICE_PATH, terminal};

/// Looks at the dmaplane driver and moves data with it.
#[derive(Debug, Parser)]
#[command(
    name = "dmaplane",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 success, 1 failure (the reason is on stderr), 2 wrong usage. An output that nobody reads is not a failure; \
                  one that cannot be written is.\n\
                  Start with `dmaplane info`: it shows whether the driver is there and what it can do."
)]
struct Args {
    /// Device node of the driver.
    #[arg(long, global = true, default_value = DEVICE_PATH, value_name = "PATH")]
    device: PathBuf,

    /// Write JSON to standard output, for machines.
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the driver's version, capabilities and limits, and the RDMA devices.
    ///
    /// The RDMA devices are those of this network namespace; `rdma_devices` of the limits counts
    /// those that the driver can use.
    Info,

    /// Show the NUMA nodes, their devices, where buffers are allocated, and what distance costs.
    ///
    /// Creates a buffer with strict placement on each node that has memory and asks the driver for its pages on each
    /// node. Then threads on each node copy from buffers on every node and measure the latency of loads from them.
    /// Fails when a page is on another node. On an emulated machine placement is still verified, and the report says
    /// that the figures are not meaningful.
    #[command(after_help = "Examples: dmaplane numa --no-measure\n          \
                      dmaplane numa --sizes 1M,64M --plot numa.svg --json")]
    Numa(numa::Args),

    /// Show live what the driver does: throughput, latencies, credits, and what is stuck on what.
    ///
    /// Without root it shows counts and the user's own open files, and says what is missing.
    Top(top::Args),

    /// Record the driver's trace events, and follow one trace id across machines.
    #[command(subcommand)]
    Trace(trace::Command),

    /// List the bpftrace scripts that are ready to run, or print one of them.
    ///
    /// They are in the tool, so that a machine without dmaplane's sources has them. Running one needs root, bpftrace, and
    /// a kernel with CONFIG_BPF_SYSCALL, CONFIG_BPF_EVENTS and CONFIG_EVENT_TRACING.
    #[command(after_help = "Example: dmaplane script stalls | bpftrace -")]
    Script(script::Args),

    /// Print everything that can be counted as OpenMetrics text.
    Metrics,

    /// Move the KV cache of a language model between machines.
    #[command(subcommand)]
    Kv(kv::Command),

    /// Write the manual pages into a folder. Packages use it.
    #[command(hide = true)]
    Man {
        /// The folder, which must be there.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    survive_size_limit();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::note(format_args!("dmaplane: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Catches SIGXFSZ, so that a write beyond RLIMIT_FSIZE fails with EFBIG: by default the signal kills the process
/// without a message.
fn survive_size_limit() {
    // If the signal cannot be caught, it still kills the process.
    let caught = Arc::new(AtomicBool::new(false));
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, caught);
}

fn run(args: &Args) -> Result<()> {
    let open = || Context::open_path(&args.device);
    match &args.command {
        Command::Info => info::run(&open()?, args.json),
        Command::Numa(numa) => numa::run(&open()?, numa, args.json),
        Command::Top(top) => top::run(top, args.json),
        Command::Trace(trace) => trace::run(trace, args.json),
        Command::Script(script) => script::run(script, args.json),
        Command::Metrics => metrics::run(args.json),
        Command::Kv(kv) => kv::run(|| Ok(open()?), kv, args.json),
        Command::Man { dir } => man::write(<Args as clap::CommandFactory>::command(), dir),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn json_is_accepted_after_the_command() {
        let args = Args::try_parse_from(["dmaplane", "info", "--json"]).expect("valid arguments");
        assert!(args.json);
    }
}
