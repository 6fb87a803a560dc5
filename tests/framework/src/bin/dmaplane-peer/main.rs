// SPDX-License-Identifier: MIT OR Apache-2.0

//! The other side of a test: a process that uses the driver as requests on a socket say.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
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
}

fn main() -> ExitCode {
    // Serving has no end but an error or the end of the process.
    let Err(error) = run(&Args::parse());
    eprintln!("dmaplane-peer: {error:#}");
    ExitCode::FAILURE
}

fn run(args: &Args) -> Result<Infallible> {
    if let Some(address) = args.listen {
        return serve::forever(address);
    }
    let socket = fcntl_dupfd_cloexec(std::io::stdin(), 3).context("standard input is no socket")?;
    serve::connection(socket)
}
