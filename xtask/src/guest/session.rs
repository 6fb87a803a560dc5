// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boots a topology, runs commands in its guests, and brings back what they left.
//!
//! ```ignore
//! let lab = Lab::prepare(ctx, "pair", Profile::Base, AccelChoice::Auto, Driver::Loaded)?;
//! let mut request = Request::empty();
//! // Guest b serves; a's jobs start once b's output holds `ready_when`.
//! request.job("b", Job { ready_when: Some("listening".into()), ..session::job("recv", ["dmaplane", "kv", "recv"]) });
//! request.job("a", session::job("send", ["dmaplane", "kv", "send", "--file", "/any/path/of/the/host"]));
//! let outcome = lab.run(ctx, &request, &mut |event| { /* console lines, output lines */ })?;
//! let verdict = lab.judge(&outcome)?;                // splats, leaks, hangs, failed jobs
//! let made = outcome.share(outcome.guest("b")?).join("kv.bin"); // it wrote /run/dmaplane/kv.bin
//! ```
//!
//! Guests see the host's file system read-only under the same paths (except /run, /proc, /sys,
//! /dev), with a tmpfs over it that takes writes. What is to come back goes to `/run/dmaplane`,
//! `DMAPLANE_SHARE` in the environment; it does not support writable shared mappings.
//! In `pair`, the second guest's first job is started before the first guest's jobs; its remaining
//! jobs and the first guest's run at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::ctx::Ctx;
use crate::driver::{self, Module};
use crate::guest::accel::{self, Accel, AccelChoice};
use crate::guest::binaries::{Binaries, search_path};
use crate::guest::kmods;
use crate::guest::limits::Limits;
use crate::guest::machine::{Qemu, Tail, lossy};
use crate::guest::plan::{self, Job, Meeting, PLAN_FILE, Plan, REPORT_FILE, Report};
use crate::guest::qemu::{Cable, Machine, quoted};
use crate::guest::rundir::RunDir;
use crate::guest::scanner::Rules;
use crate::guest::topology::{Network, Topology};
use crate::guest::verdict::{self, Verdict};
use crate::kernel::{self, Kernel, Profile};
use crate::setup::{self, Need, Tools};

/// How often a guest that does not boot is booted again.
const BOOT_RETRIES: u32 = 2;
/// How often consoles and processes are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Where the runners of two guests meet.
const MEETING_PORT: u16 = 7470;

/// Whether guests have the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Built if necessary, loaded before the jobs, unloaded and checked for leaks after them.
    Loaded,
    /// Not there.
    Absent,
}

/// Everything that booting a topology takes, ready.
pub(crate) struct Lab {
    /// What the guests look like.
    pub(crate) topology: Topology,
    /// Which kernel configuration.
    pub(crate) profile: Profile,
    /// What executes the guests.
    pub(crate) accel: Accel,
    /// How long things may take.
    pub(crate) limits: Limits,
    /// Programs for the guests.
    pub(crate) binaries: Binaries,
    /// Programs of the host.
    pub(crate) tools: Tools,
    pub(crate) root: PathBuf,
    kernel: Kernel,
    module: Option<Module>,
}

/// What to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Jobs, each with the name of its guest.
    jobs: Vec<(String, Job)>,
    /// In addition to the usual environment, for all jobs.
    pub(crate) env: BTreeMap<String, String>,
    /// Files to put into every guest's share: name and content.
    pub(crate) files: Vec<(String, String)>,
    /// Modules of the kernel to load besides rxe.
    pub(crate) modules: Vec<&'static str>,
    /// How long all jobs together may take, unscaled, instead of the usual.
    pub(crate) limit: Option<Duration>,
    /// Without the network: a bare boot.
    bare: bool,
}

/// Something that a guest said.
pub(crate) enum Event<'a> {
    /// A line of the kernel's console.
    Console {
        /// The guest's name.
        guest: &'a str,
        /// Without its end.
        line: &'a str,
    },
    /// A line of a job's output.
    Output {
        /// The guest's name.
        guest: &'a str,
        /// The job's name.
        job: &'a str,
        /// Without its end.
        line: &'a str,
    },
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The run's folder: removed with this value unless kept.
    pub(crate) dir: RunDir,
    /// One for each guest, in the topology's order.
    pub(crate) guests: Vec<GuestOutcome>,
    /// How it ended.
    pub(crate) end: End,
    /// How many boots failed before this one.
    pub(crate) failed_boots: u32,
    /// From the first boot to the last power-off.
    pub(crate) time: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All guests powered off by themselves.
    Off,
    /// The named guest never came to its runner.
    NotBooted(String),
    /// The named guest had to be killed: its time was over.
    TimedOut(String),
}

/// What a guest left.
#[derive(Debug)]
pub(crate) struct GuestOutcome {
    /// Its name.
    pub(crate) name: String,
    /// The folder that it shared, relative to the run's.
    share: PathBuf,
    /// Its console.
    pub(crate) console: String,
    /// What its runner reported, if it came to that.
    pub(crate) report: Option<Report>,
    /// How QEMU ended.
    pub(crate) qemu: String,
    /// QEMU's command line.
    pub(crate) command_line: String,
}

/// A job that inherits the usual environment.
pub(crate) fn job<S: Into<String>>(name: &str, argv: impl IntoIterator<Item = S>) -> Job {
    Job {
        name: name.to_owned(),
        argv: argv.into_iter().map(Into::into).collect(),
        env: BTreeMap::new(),
        netns: None,
        service: false,
        ready_when: None,
        interactive: false,
        collect: Vec::new(),
    }
}

impl Request {
    /// Boots, says hello, powers off.
    pub(crate) fn empty() -> Self {
        Self {
            bare: true,
            ..Self::default()
        }
    }

    /// Adds a job for a guest.
    pub(crate) fn job(&mut self, guest: &str, job: Job) -> &mut Self {
        self.bare = false;
        self.jobs.push((guest.to_owned(), job));
        self
    }
}

impl Outcome {
    /// The guest of this name.
    pub(crate) fn guest(&self, name: &str) -> Result<&GuestOutcome> {
        self.guests
            .iter()
            .find(|guest| guest.name == name)
            .with_context(|| format!("there is no guest {name}"))
    }

    /// Where the files that a guest left are, until this outcome is dropped.
    pub(crate) fn share(&self, guest: &GuestOutcome) -> PathBuf {
        self.dir.path().join(&guest.share)
    }
}

impl Lab {
    /// Provides tools, kernel, module and programs, and settles the accelerator.
    pub(crate) fn prepare(
        ctx: &Ctx,
        topology: &str,
        profile: Profile,
        choice: AccelChoice,
        driver: Driver,
    ) -> Result<Self> {
        let topology = Topology::load(&ctx.root, topology)?;
        let tools = setup::ensure(ctx, Need::Guest)?;
        let (kernel, module) = match driver {
            Driver::Loaded => {
                let module = driver::ensure(ctx, profile)?;
                (module.kernel.clone(), Some(module))
            }
            Driver::Absent => (kernel::ensure(ctx, profile)?, None),
        };
        let binaries = Binaries::build(ctx)?;
        let accel = Accel::Kvm;
        let limits = Limits::new(accel, profile);
        let root = ctx.root.clone();
        let mut lab = Self {
            topology,
            profile,
            accel,
            limits,
            binaries,
            tools,
            root,
            kernel,
            module,
        };
        lab.accel = accel::settle(ctx, &lab, choice)?;
        lab.limits = Limits::new(lab.accel, profile);
        Ok(lab)
    }

    /// The kernel that guests boot.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// QEMU.
    pub(crate) fn qemu(&self) -> &Path {
        &self.tools.qemu
    }

    /// `numa2 base tcg`.
    pub(crate) fn title(&self) -> String {
        format!(
            "{} {} {}",
            self.topology.name,
            self.profile.name(),
            self.accel.name()
        )
    }

    /// Boots the guests, runs the request, powers off. A boot that fails is tried again: it says
    /// nothing about what is tested.
    pub(crate) fn run(
        &self,
        ctx: &Ctx,
        request: &Request,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let start = Instant::now();
        let mut failed_boots = 0;
        loop {
            let mut outcome = self.attempt(ctx, request, self.limits.boot, watch)?;
            outcome.failed_boots = failed_boots;
            outcome.time = start.elapsed();
            let End::NotBooted(guest) = &outcome.end else {
                return Ok(outcome);
            };
            if failed_boots == BOOT_RETRIES {
                return Ok(outcome);
            }
            failed_boots += 1;
            let kept = outcome.dir.keep(ctx)?;
            ctx.ui.warn(format!(
                "guest {guest} did not boot ({failed_boots} of {} attempts); its console is in {}",
                BOOT_RETRIES + 1,
                kept.display()
            ));
        }
    }

    /// Boots the guests once, with this limit for the boot.
    pub(crate) fn boot_once(
        &self,
        ctx: &Ctx,
        request: &Request,
        boot_limit: Duration,
    ) -> Result<Outcome> {
        self.attempt(ctx, request, boot_limit, &mut |_| {})
    }

    /// Judges a run by its jobs, its leaks and its consoles.
    pub(crate) fn judge(&self, outcome: &Outcome) -> Result<Verdict> {
        Ok(verdict::judge(outcome, &Rules::load(&self.root)?, None))
    }

    fn attempt(
        &self,
        ctx: &Ctx,
        request: &Request,
        boot_limit: Duration,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let start = Instant::now();
        let name = self.title().replace(' ', "-");
        let dir = RunDir::create(ctx, &name)?;
        let mut running = Vec::new();
        for index in 0..self.topology.guests.len() {
            running.push(self.start(&dir, request, index)?);
        }
        let interactive = request.jobs.iter().any(|(_, job)| job.interactive);
        let end = if interactive {
            for guest in &mut running {
                guest.qemu.wait()?;
            }
            End::Off
        } else {
            let jobs = self.job_limit(request) + self.limits.end;
            watch_over(&mut running, boot_limit, jobs, self.limits.end, watch)?
        };
        let guests = running
            .into_iter()
            .map(|guest| guest.outcome())
            .collect::<Result<_>>()?;
        Ok(Outcome {
            dir,
            guests,
            end,
            failed_boots: 0,
            time: start.elapsed(),
        })
    }

    fn job_limit(&self, request: &Request) -> Duration {
        request
            .limit
            .map_or(self.limits.jobs, |limit| limit * self.limits.scale)
    }

    fn start(&self, dir: &RunDir, request: &Request, index: usize) -> Result<Running> {
        let guest = &self.topology.guests[index];
        let home = dir.path().join(&guest.name);
        let share = home.join("share");
        fs::create_dir_all(&share).with_context(|| format!("cannot create {}", share.display()))?;
        let plan = self.plan(request, index)?;
        fs::write(share.join(PLAN_FILE), serde_json::to_vec_pretty(&plan)?)?;
        for (name, content) in &request.files {
            fs::write(share.join(name), content)?;
        }
        let interactive = plan.jobs.iter().any(|job| job.interactive);
        let runner = self.binaries.runner();
        let machine = Machine {
            qemu: self.qemu(),
            guest,
            accel: self.accel,
            bz_image: &self.kernel.bz_image,
            init: &runner,
            share: &share,
            console: home.join("console.log"),
            cable: self.cable(dir, index),
            interactive,
            limits: self.limits,
        };
        let line = machine.command_line();
        let command_line = quoted(&line);
        fs::write(home.join("qemu-command.txt"), format!("{command_line}\n"))?;
        fs::copy(&self.kernel.config, home.join("kernel.config"))
            .with_context(|| format!("cannot copy {}", self.kernel.config.display()))?;
        let qemu = Qemu::start(&line, &home.join("qemu.log"), interactive)?;
        let outputs = plan.jobs.iter().filter(|job| !job.interactive);
        Ok(Running {
            name: guest.name.clone(),
            console: Tail::new(home.join("console.log")),
            outputs: outputs
                .map(|job| {
                    (
                        job.name.clone(),
                        Tail::new(share.join(format!("{}.log", job.name))),
                    )
                })
                .collect(),
            home,
            qemu,
            started: None,
            over: false,
            command_line,
        })
    }

    fn cable(&self, dir: &RunDir, index: usize) -> Option<Cable> {
        match self.topology.network {
            Network::Veth { .. } => None,
            Network::Link { .. } => {
                let run = dir.path().file_name().unwrap_or_default().to_string_lossy();
                Some(Cable {
                    socket: format!("dmaplane-{run}"),
                    end: u8::from(index > 0),
                })
            }
        }
    }

    fn plan(&self, request: &Request, index: usize) -> Result<Plan> {
        let guest = &self.topology.guests[index];
        for (name, job) in &request.jobs {
            if !self.topology.guests.iter().any(|guest| guest.name == *name) {
                bail!(
                    "topology {} has no guest {name} for job {}",
                    self.topology.name,
                    job.name
                );
            }
        }
        let jobs = request.jobs.iter().filter(|(name, _)| *name == guest.name);
        let mut plan = Plan {
            guest: guest.name.clone(),
            directory: self.root.clone(),
            env: self.environment(&request.env),
            modules: Vec::new(),
            driver: None,
            network: plan::Network::None,
            meeting: None,
            jobs: jobs.map(|(_, job)| job.clone()).collect(),
            limit_s: self.job_limit(request).as_secs(),
            time_scale: self.limits.scale,
        };
        if request.bare {
            return Ok(plan);
        }
        let mut modules = vec!["rdma_rxe"];
        modules.extend(&request.modules);
        plan.modules = kmods::load_order(&self.kernel, &modules)?;
        plan.driver = self.module.as_ref().map(|module| module.ko.clone());
        match &self.topology.network {
            Network::Veth { mtu, local, peer } => {
                let (local, peer) = (local.clone(), peer.clone());
                plan.network = plan::Network::Veth {
                    mtu: *mtu,
                    local,
                    peer,
                };
            }
            Network::Link { mtu } => {
                plan.network = plan::Network::Link {
                    mtu: *mtu,
                    addresses: guest.addresses.clone(),
                };
                let address = format!("{}:{MEETING_PORT}", self.topology.peer_ip());
                plan.meeting = Some(Meeting {
                    address,
                    host: index > 0,
                });
            }
        }
        Ok(plan)
    }

    fn environment(&self, more: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut env: BTreeMap<String, String> = [
            ("PATH", search_path(&self.binaries.dir)),
            ("HOME", "/root".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            (
                "TERM",
                std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned()),
            ),
            ("RUST_BACKTRACE", "1".to_owned()),
            // Errors say where they come from by themselves, and symbols take seconds to read here.
            ("RUST_LIB_BACKTRACE", "0".to_owned()),
            ("DMAPLANE_TOPOLOGY", self.topology.name.clone()),
            ("DMAPLANE_PROFILE", self.profile.name().to_owned()),
            ("DMAPLANE_ACCEL", self.accel.name().to_owned()),
            ("DMAPLANE_LOCAL_IP", self.topology.local_ip().to_owned()),
            ("DMAPLANE_PEER_IP", self.topology.peer_ip().to_owned()),
            ("DMAPLANE_TIME_SCALE", self.limits.scale.to_string()),
            ("DMAPLANE_SHARE", plan::SHARE.to_owned()),
            ("DMAPLANE_BIN_DIR", self.binaries.dir.display().to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if let Some(module) = &self.module {
            env.insert("DMAPLANE_KO".to_owned(), module.ko.display().to_string());
        }
        env.extend(more.clone());
        env
    }
}

/// A guest while it runs.
struct Running {
    name: String,
    home: PathBuf,
    qemu: Qemu,
    console: Tail,
    outputs: Vec<(String, Tail)>,
    /// When its runner said its first word.
    started: Option<Instant>,
    over: bool,
    command_line: String,
}

/// Follows the guests until all are off, or until time is over for one of them.
fn watch_over(
    guests: &mut [Running],
    boot: Duration,
    jobs: Duration,
    grace: Duration,
    watch: &mut dyn FnMut(Event<'_>),
) -> Result<End> {
    let start = Instant::now();
    // Once one guest is off, the others have little left to do.
    let mut all_off_by = None;
    loop {
        for guest in guests.iter_mut() {
            guest.follow(watch)?;
        }
        let now = Instant::now();
        let mut late = None;
        for guest in guests.iter().filter(|guest| !guest.over) {
            match guest.started {
                None if now > start + boot => late = Some(End::NotBooted(guest.name.clone())),
                Some(at) if now > at + jobs => late = Some(End::TimedOut(guest.name.clone())),
                _ if all_off_by.is_some_and(|by| now > by) => {
                    late = Some(End::TimedOut(guest.name.clone()));
                }
                _ => {}
            }
        }
        if let Some(guest) = guests
            .iter()
            .find(|guest| guest.over && guest.started.is_none())
        {
            late = Some(End::NotBooted(guest.name.clone()));
        }
        if let Some(late) = late {
            for guest in guests.iter_mut() {
                guest.qemu.kill();
                guest.follow(watch)?;
            }
            return Ok(late);
        }
        if guests.iter().all(|guest| guest.over) {
            return Ok(End::Off);
        }
        if all_off_by.is_none() && guests.iter().any(|guest| guest.over) {
            all_off_by = Some(now + grace);
        }
        std::thread::sleep(LOOK);
    }
}

impl Running {
    fn follow(&mut self, watch: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        // Asked first, so that what a guest wrote before its end is read after it.
        self.over = self.qemu.ended()?.is_some();
        let guest = self.name.as_str();
        for line in self.console.lines() {
            if self.started.is_none() && is_start(&line) {
                self.started = Some(Instant::now());
            }
            watch(Event::Console { guest, line: &line });
        }
        for (job, tail) in &mut self.outputs {
            for line in tail.lines() {
                watch(Event::Output {
                    guest,
                    job,
                    line: &line,
                });
            }
        }
        Ok(())
    }

    fn outcome(mut self) -> Result<GuestOutcome> {
        let qemu = match self.qemu.ended()? {
            Some(status) => status.to_string(),
            None => "still running".to_owned(),
        };
        let report =
            match fs::read(self.home.join("share").join(REPORT_FILE)) {
                Ok(bytes) => Some(serde_json::from_slice(&bytes).with_context(|| {
                    format!("the report of guest {} is not understood", self.name)
                })?),
                Err(_) => None,
            };
        Ok(GuestOutcome {
            share: PathBuf::from(&self.name).join("share"),
            console: lossy(&self.home.join("console.log")),
            name: self.name,
            report,
            qemu,
            command_line: self.command_line,
        })
    }
}

fn is_start(line: &str) -> bool {
    line.split_once(plan::RUNNER_MARK)
        .is_some_and(|(_, word)| word.trim() == plan::STARTED)
}

#[cfg(test)]
impl GuestOutcome {
    /// One that never ran.
    pub(crate) fn fake(name: &str, console: &str, report: Option<Report>) -> Self {
        Self {
            name: name.to_owned(),
            share: PathBuf::from(name),
            console: console.to_owned(),
            report,
            qemu: "exit status: 0".to_owned(),
            command_line: "qemu".to_owned(),
        }
    }
}
