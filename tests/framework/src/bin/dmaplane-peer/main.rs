// SPDX-License-Identifier: MIT OR Apache-2.0

//! The other side of a test: a process that uses the driver as requests on a socket say.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use dmaplane_testkit::hostile::{self, Plan};
use dmaplane_testkit::peer::serve;
use rustix::io::fcntl_dupfd_cloexec;

/// The other side of dmaplane's tests: obeys requests, one JSON object a line.
///
/// Started by the tests themselves, or by the runner of a second guest. The requests are those of
/// `dmaplane_testkit::peer::protocol`.
#[derive(Debug, Parser)]
#[command(version)]
#[command(group = clap::ArgGroup::new("mode").required(true))]
struct Args {
    /// Listen here for tests; each connection gets a process of its own.
    #[arg(long, group = "mode", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,

    /// Serve the one connection that standard input is.
    #[arg(long, group = "mode")]
    serve: bool,

    /// Ill-treat the driver at random, from this seed on, and print what was done as JSON.
    #[arg(long, group = "mode", value_name = "SEED", requires_all = ["calls", "address"])]
    hostile: Option<u64>,
    /// System calls of a hostile process.
    #[arg(long)]
    calls: Option<u64>,
    /// Address of a hostile process' RDMA device.
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Threads of a hostile process.
    #[arg(long, default_value_t = 4)]
    threads: u64,
    /// Seconds without a call after which a hostile process gives up.
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dmaplane::terminal::note(format_args!("dmaplane-peer: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if let (Some(seed), Some(calls), Some(address)) = (args.hostile, args.calls, args.address) {
        let report = hostile::run(&Plan {
            seed,
            threads: args.threads,
            calls,
            address,
            limit: Duration::from_secs(args.limit),
        })?;
        println!("{}", serde_json::to_string(&report)?);
        return Ok(());
    }
    // Serving has no end but an error or the end of the process.
    let Err(error) = serve(args);
    Err(error)
}

fn serve(args: &Args) -> Result<Infallible> {
    if let Some(address) = args.listen {
        return serve::forever(address);
    }
    let socket = fcntl_dupfd_cloexec(std::io::stdin(), 3).context("standard input is no socket")?;
    serve::connection(socket)
}
