// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `vm-test`, and what it has in common with `vm`.

mod selftest;
mod shell;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::faults::{self, Purpose};
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::accel::AccelChoice;
use dmaplane_vmtest::guest::report::{self, Reporting};
use dmaplane_vmtest::guest::scanner::Marker;
use dmaplane_vmtest::guest::session::{Driver, Event, TestEnv};
use dmaplane_vmtest::guest::suite::{Built, Selection, Suite, SuiteRun};
use dmaplane_vmtest::guest::topology::Topology;
use dmaplane_vmtest::guest::verdict::Kind;
use dmaplane_vmtest::guest::vng::Runner;
use dmaplane_vmtest::kernel::Profile;
use dmaplane_vmtest::setup::{self, Need};
pub(crate) use shell::{VmArgs, run as run_vm};

/// Which guests.
#[derive(Args, Clone, Debug)]
pub(crate) struct TestEnvArgs {
    /// A file of vm/topologies, without its extension.
    #[arg(long, default_value = "numa2", value_name = "NAME")]
    pub(crate) topology: String,
    /// Which kernel configuration.
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) profile: Profile,
    /// What executes the guests; `auto` tries a boot with KVM once and remembers the answer.
    #[arg(long, value_enum)]
    pub(crate) accel: Option<AccelChoice>,
    /// What boots the guests: QEMU directly, or virtme-ng's `vng`. Topologies that `vng` cannot
    /// boot are refused.
    #[arg(long, value_enum, default_value = "qemu")]
    pub(crate) runner: Runner,
}

impl TestEnvArgs {
    /// The requested test environment, with the tools that `need` names.
    pub(crate) fn prepare(&self, ctx: &Ctx, need: Need, driver: Driver) -> Result<TestEnv> {
        // Before anything is built.
        self.runner
            .check(ctx, &Topology::load(&ctx.root, &self.topology)?)?;
        setup::ensure(ctx, need)?;
        let accel = self.accel.unwrap_or(AccelChoice::Auto);
        let test_env = TestEnv::prepare(ctx, &self.topology, self.profile, accel, driver)?;
        Ok(test_env.booted_by(self.runner))
    }
}

/// Boots guests, runs the integration tests inside them, and prints one verdict.
///
/// A run is good when every selected test has a result and passed, the guests came to an orderly
/// end with all gauges at zero and the module unloaded, and no line of vm/splats/deny.toml is on a
/// console. On `debug`, kmemleak has to agree. Anything else has an exit code of its own, and
/// leaves consoles, JUnit, configuration and QEMU's command line in the cache's `artefacts` folder.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct VmTestArgs {
    #[command(flatten)]
    test_env: TestEnvArgs,
    /// Runs only the tests that match: a nextest expression such as 'test(fork)' or
    /// 'binary(buffers)'.
    #[arg(short = 'E', long = "filter", value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Writes everything as JSON: verdict, tests, findings, kernel, accelerator, artefacts.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What the tests' random choices start from; a failure names its seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds for all tests together, before scaling for slow guests.
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Keeps the artefacts of a good run too.
    #[arg(long)]
    keep: bool,
    /// Prints the topologies and boots nothing.
    #[arg(long)]
    list_topologies: bool,
    /// Makes every fallible step fail once, and every fault point of the driver fire: the full
    /// length of the suites faults_*. The table at the end has each point; one that never fired is
    /// a failure. Debian's stock kernel cannot inject faults: add --profile debug, or base.
    #[arg(long)]
    faults: bool,
    /// With --faults: this fault point alone, and storms of those that are named. Can be given several times; an
    /// unknown name prints the list of those that exist.
    #[arg(long = "point", value_name = "NAME", requires = "faults")]
    points: Vec<String>,
    /// Runs the table of races in full length, with delay points that widen each race.
    #[arg(long, conflicts_with = "faults")]
    races: bool,
    /// Full length of the suites that repeat something with random choices, as every night.
    #[arg(long)]
    long: bool,
    /// Tests the harness itself: a failing test, a splat, a leak and a hang must each end in their
    /// own exit code.
    #[arg(long, conflicts_with_all = ["filter", "json", "limit", "faults", "races"])]
    self_test: bool,
}

/// The options of one run of the suite.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Which tests.
    pub(crate) selection: Selection,
    /// How long all of them may take, unscaled.
    pub(crate) limit: Option<Duration>,
    /// Where random choices start.
    pub(crate) seed: Option<u64>,
    /// What to do with the results.
    pub(crate) reporting: Reporting,
}

/// The command `vm-test`.
pub(crate) fn run_vm_test(ctx: &Ctx, args: VmTestArgs) -> Result<ExitCode> {
    if args.list_topologies {
        for topology in Topology::all(&ctx.root)? {
            println!("{:8} {}", topology.name, topology.description);
        }
        return Ok(ExitCode::SUCCESS);
    }
    // Before anything is built.
    faults::points::check(&ctx.root, &args.points)?;
    let purpose = match (args.faults, args.races) {
        (true, _) => Some(Purpose::Faults),
        (_, true) => Some(Purpose::Races),
        _ => None,
    };
    if let Some(purpose) = purpose {
        faults::check(purpose, args.test_env.profile)?;
    }
    let test_env = args.test_env.prepare(ctx, Need::Guest, Driver::Loaded)?;
    if args.self_test {
        return selftest::run(ctx, &test_env);
    }
    let mut options = Options {
        selection: Selection {
            filter: args.filter,
            ..Selection::default()
        },
        limit: args.limit.map(Duration::from_secs),
        seed: args.seed,
        reporting: Reporting {
            json: args.json,
            keep: args.keep,
        },
    };
    if args.long {
        options.selection.long = true;
        let env = &mut options.selection.env;
        env.insert("DMAPLANE_LONG".to_owned(), "1".to_owned());
    }
    if !args.points.is_empty() {
        Purpose::only(&args.points, &mut options);
    }
    let kind = match purpose {
        Some(purpose) => faults::run(ctx, &test_env, purpose, options)?,
        None => test(ctx, &test_env, &options)?,
    };
    Ok(ExitCode::from(kind.code()))
}

/// Runs a suite and reports its results.
pub(crate) fn test(ctx: &Ctx, test_env: &TestEnv, options: &Options) -> Result<Kind> {
    Ok(test_and(ctx, test_env, options, |_| ())?.0)
}

/// Runs a suite and reports its results; `look` sees what the run left before that is removed.
pub(crate) fn test_and<T>(
    ctx: &Ctx,
    test_env: &TestEnv,
    options: &Options,
    look: impl FnOnce(&SuiteRun) -> T,
) -> Result<(Kind, T)> {
    let built = Built::build(ctx, test_env)?;
    let suite = Suite::select(ctx, test_env, &built, options.selection.clone())?;
    let seed = match options.seed {
        Some(seed) => seed,
        None => random()?,
    };
    let total = suite.expected.len();
    let mut progress = ctx
        .ui
        .bar(format!("vm-test {}", test_env.title()), total as u64);
    let mut done = 0;
    let mut follow = |event: Event<'_>| match event {
        Event::Console { guest, line } => {
            if ctx.verbose > 1 {
                eprintln!("{guest}: {line}");
            }
            match Marker::parse(line) {
                Some(Marker::Begin(name)) => progress.message(name),
                Some(Marker::End { .. }) => {
                    done += 1;
                    progress.set(done);
                }
                None => {}
            }
        }
        Event::Output { guest, job, line } => ctx.ui.detail(format!("{guest} {job}: {line}")),
    };
    let mut run = suite.run(ctx, test_env, seed, options.limit, &mut follow)?;
    drop(progress);
    let seen = look(&run);
    let kind = report::emit(ctx, test_env, &mut run, seed, &options.reporting)?;
    Ok((kind, seen))
}

/// A random seed.
pub(crate) fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    // Short enough to type again.
    Ok(u64::from_le_bytes(bytes) >> 32)
}
