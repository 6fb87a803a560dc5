// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask`: everything that a developer or CI runs on this project.

mod bench;
mod demo;
mod faults;
mod fuzz;
mod lint;
mod package;
mod runs;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use dmaplane_vmtest::{driver, exit, kernel, setup};

use dmaplane_vmtest::ctx::Ctx;

/// Builds the pinned kernel and the dmaplane module, boots guests, and tests all of it.
///
/// Each command provides what it needs by itself: `cargo xtask demo` on a fresh machine installs the
/// tools, builds the kernel and the module, and boots the guests.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = exit::HELP)]
struct Cli {
    /// Prints the commands that are run and their output; twice for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks and provides every host tool.
    Setup(setup::SetupArgs),
    /// Fetches, verifies, configures and builds the pinned kernel.
    Kernel(kernel::KernelArgs),
    /// Builds the module against that kernel.
    Driver(driver::DriverArgs),
    /// Opens a shell in a guest that has the module loaded.
    Vm(vm::VmArgs),
    /// Boots guests and runs the integration tests inside them.
    VmTest(vm::VmTestArgs),
    /// Runs everything: lint, host tests, guest tests.
    Test(test::TestArgs),
    /// Moves a language model's KV cache between two guests and checks it.
    Demo(demo::DemoArgs),
    /// Measures inside a guest, next to a reference of the same guest.
    Bench(bench::BenchArgs),
    /// Repeats everything with random seeds and topologies, and keeps a history of it.
    Soak(soak::SoakArgs),
    /// Fuzzes what the driver reads from peers and from user space.
    Fuzz(fuzz::FuzzArgs),
    /// Checks formatting, lints, documentation, licences and headers.
    Lint(lint::LintArgs),
    /// Builds Debian packages of the driver and the tool, and tries them in a clean Debian 13.
    Package(package::PackageArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("error: {err:#}");
            exit::code_of(&err)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let ctx = Ctx::new(cli.verbose)?;
    match cli.command {
        Command::Setup(args) => setup::run(&ctx, args),
        Command::Kernel(args) => kernel::run(&ctx, args),
        Command::Driver(args) => driver::run(&ctx, args),
        Command::Vm(args) => vm::run_vm(&ctx, args),
        Command::VmTest(args) => vm::run_vm_test(&ctx, args),
        Command::Test(args) => test::run(&ctx, args),
        Command::Demo(args) => demo::run(&ctx, args),
        Command::Bench(args) => bench::run(&ctx, args),
        Command::Soak(args) => soak::run(&ctx, args),
        Command::Fuzz(args) => fuzz::run(&ctx, args),
        Command::Lint(args) => lint::run(&ctx, args),
        Command::Package(args) => package::run(&ctx, args),
    }
}
