// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cargo xtask vm`: a shell in a guest, with the module loaded and the network built.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::vm::TestEnvArgs;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::plan::Job;
use dmaplane_vmtest::guest::session::{Driver, Request, job};
use dmaplane_vmtest::guest::topology::Network;
use dmaplane_vmtest::guest::vng::Runner;
use dmaplane_vmtest::setup::Need;

/// Shows the interfaces of the namespace in /sys, as `ip netns exec` does, and keeps what else is mounted there.
const OWN_SYSFS: &str = "mount -t sysfs sysfs /sys && mount -t debugfs debugfs /sys/kernel/debug && \
    mount -t tracefs tracefs /sys/kernel/tracing && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$@\"";

/// Longer than anyone works in one shell.
const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Opens a shell in a guest that has the module loaded.
///
/// The guest sees this machine's file system under the same paths; what it writes is lost with it,
/// apart from what goes to $DMAPLANE_SHARE. In numa2 and numa4 the shell stands in the network
/// namespace dp0, and `ip netns exec dp1 …` is the other side; in pair it is in the first guest.
/// `exit` ends it.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct VmArgs {
    #[command(flatten)]
    test_env: TestEnvArgs,
    /// Without the module.
    #[arg(long)]
    no_driver: bool,
    /// Runs this command instead of a shell, and returns its exit code.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The command `vm`.
pub(crate) fn run(ctx: &Ctx, args: VmArgs) -> Result<ExitCode> {
    let driver = if args.no_driver {
        Driver::Absent
    } else {
        Driver::Loaded
    };
    if args.test_env.runner == Runner::VirtmeNg && args.command.is_empty() {
        return Err(exit::coded(
            exit::USAGE,
            "virtme-ng gives a command in a guest no terminal, so there is no shell. Name a command after `--`, or leave \
             --runner out",
        ));
    }
    let test_env = args.test_env.prepare(ctx, Need::Guest, driver)?;
    let guest = test_env.topology.guests[0].name.clone();
    let mut request = Request::empty();
    // A shell without a controlling terminal has no job control and no Ctrl-C.
    let argv = if args.command.is_empty() {
        ["setsid", "--ctty", "--wait", "bash", "-i"]
            .map(str::to_owned)
            .to_vec()
    } else {
        args.command
    };
    let netns = matches!(test_env.topology.network, Network::Veth { .. }).then(|| "dp0".to_owned());
    let argv = match netns {
        Some(_) => [
            &["unshare", "--mount", "sh", "-c", OWN_SYSFS, "sh"].map(str::to_owned)[..],
            &argv[..],
        ]
        .concat(),
        None => argv,
    };
    let mut shell = Job {
        interactive: true,
        netns,
        ..job("shell", argv)
    };
    shell
        .env
        .insert("PS1".to_owned(), format!("[{guest}] \\w# "));
    request.job(&guest, shell);
    request.limit = Some(FOR_EVER);
    ctx.ui.step(format!(
        "a shell on {}; the kernel's console goes to its log",
        test_env.title()
    ));
    let mut outcome = test_env.run(ctx, &request, &mut |_| {})?;
    let verdict = test_env.judge(&outcome)?;
    for (kind, reason) in &verdict.reasons {
        eprintln!("  {}: {reason}", kind.words());
    }
    let kept = outcome.dir.keep(ctx)?;
    ctx.ui
        .step(format!("consoles and shared folders: {}", kept.display()));
    let report = outcome.guests[0].report.as_ref();
    let code = report
        .and_then(|report| report.jobs.first())
        .and_then(|job| job.code);
    match code {
        Some(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILED))),
        None => Ok(ExitCode::from(verdict.kind.code())),
    }
}
