// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `vm-test`, and what it has in common with `vm`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::ctx::Ctx;
use crate::exit;
use crate::faults::{self, Purpose};
use crate::guest::accel::AccelChoice;
use crate::guest::report::{self, Telling};
use crate::guest::scanner::Marker;
use crate::guest::selftest;
use crate::guest::session::{Driver, Event, Lab};
pub(crate) use crate::guest::shell::{VmArgs, run as run_vm};
use crate::guest::suite::{Built, Selection, Suite, SuiteRun};
use crate::guest::topology::Topology;
use crate::guest::verdict::Kind;
use crate::guest::vng::Runner;
use crate::kernel::Profile;
use crate::setup::{self, Need};

/// Which guests.
#[derive(Args, Clone, Debug)]
pub(crate) struct LabArgs {
    /// A file of vm/topologies, without its extension.
    #[arg(long, default_value = "numa2", value_name = "NAME")]
    pub(crate) topology: String,
    /// Which kernel configuration.
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) profile: Profile,
    /// What executes the guests; `auto` tries a boot with KVM once and remembers the answer.
    #[arg(long, value_enum)]
    pub(crate) accel: Option<AccelChoice>,
    /// What boots the guests: QEMU directly, or virtme-ng's `vng`. What that cannot do is refused.
    #[arg(long, value_enum, default_value = "qemu")]
    pub(crate) runner: Runner,
}

impl LabArgs {
    /// The lab that is asked for, with the tools that `need` names.
    pub(crate) fn prepare(&self, ctx: &Ctx, need: Need, driver: Driver) -> Result<Lab> {
        // Before anything is built.
        self.runner
            .check(ctx, &Topology::load(&ctx.root, &self.topology)?)?;
        setup::ensure(ctx, need)?;
        let accel = self.accel.unwrap_or(AccelChoice::Auto);
        let lab = Lab::prepare(ctx, &self.topology, self.profile, accel, driver)?;
        Ok(lab.booted_by(self.runner))
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
    lab: LabArgs,
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
    /// length of the suites faults_*. The table at the end has each point; one that never fired
    /// is a failure. Debian's stock kernel cannot: add --profile debug, or base.
    #[arg(long)]
    faults: bool,
    /// With --faults: this fault point alone, and storms of those that are named. Can be given several
    /// times; an unknown name gets the list of those that exist.
    #[arg(long = "point", value_name = "NAME", requires = "faults")]
    points: Vec<String>,
    /// Runs the table of races in full length, with forced windows.
    #[arg(long, conflicts_with = "faults")]
    races: bool,
    /// Tests the harness itself: a failing test, a splat, a leak and a hang must each end in their
    /// own exit code.
    #[arg(long, conflicts_with_all = ["filter", "json", "limit", "faults", "races"])]
    self_test: bool,
}

/// What one run of the suite is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// Which tests.
    pub(crate) selection: Selection,
    /// How long all of them may take, unscaled.
    pub(crate) limit: Option<Duration>,
    /// Where random choices start.
    pub(crate) seed: Option<u64>,
    /// What to do with the results.
    pub(crate) telling: Telling,
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
        faults::check(purpose, args.lab.profile)?;
    }
    let lab = args.lab.prepare(ctx, Need::Guest, Driver::Loaded)?;
    if args.self_test {
        return selftest::run(ctx, &lab);
    }
    let mut options = Options {
        selection: Selection {
            filter: args.filter,
            ..Selection::default()
        },
        limit: args.limit.map(Duration::from_secs),
        seed: args.seed,
        telling: Telling {
            json: args.json,
            keep: args.keep,
        },
    };
    if !args.points.is_empty() {
        Purpose::only(&args.points, &mut options);
    }
    let kind = match purpose {
        Some(purpose) => faults::run(ctx, &lab, purpose, options)?,
        None => test(ctx, &lab, &options)?,
    };
    Ok(ExitCode::from(kind.code()))
}

/// Runs a suite and tells its results.
pub(crate) fn test(ctx: &Ctx, lab: &Lab, options: &Options) -> Result<Kind> {
    Ok(test_and(ctx, lab, options, |_| ())?.0)
}

/// Runs a suite, tells its results, and looks at what it left before that is gone.
pub(crate) fn test_and<T>(
    ctx: &Ctx,
    lab: &Lab,
    options: &Options,
    look: impl FnOnce(&SuiteRun) -> T,
) -> Result<(Kind, T)> {
    let built = Built::build(ctx, lab)?;
    let suite = Suite::select(ctx, lab, &built, options.selection.clone())?;
    let seed = match options.seed {
        Some(seed) => seed,
        None => random()?,
    };
    let total = suite.expected.len();
    let mut progress = ctx.ui.bar(format!("vm-test {}", lab.title()), total as u64);
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
    let mut run = suite.run(ctx, lab, seed, options.limit, &mut follow)?;
    drop(progress);
    let seen = look(&run);
    let kind = report::tell(ctx, lab, &mut run, seed, &options.telling)?;
    Ok((kind, seen))
}

/// A seed of chance.
pub(crate) fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    // Short enough to type again.
    Ok(u64::from_le_bytes(bytes) >> 32)
}
