// SPDX-License-Identifier: MIT OR Apache-2.0
//! A test environment: a topology with everything that booting it takes, and the runs in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::running::{Running, watch_over};
use super::{End, Event, Outcome, Request, SHARE_FOLDER};
use crate::ctx::Ctx;
use crate::driver::{self, Module};
use crate::guest::accel::{self, Accel, AccelChoice};
use crate::guest::binaries::{Binaries, search_path};
use crate::guest::limits::Limits;
use crate::guest::plan::{self, Plan, Rendezvous};
use crate::guest::qemu::{Link, Machine};
use crate::guest::rundir::RunDir;
use crate::guest::scanner::Rules;
use crate::guest::topology::{Network, Topology};
use crate::guest::verdict::{self, Verdict};
use crate::guest::vng::{Runner, Vng};
use crate::kernel::{self, Builder, Kernel, Profile};
use crate::setup::{self, Need, Tools};

/// How often a guest that does not boot is booted again.
const BOOT_RETRIES: u32 = 2;
/// The module of the RDMA devices.
const PROVIDER: &[&str] = &["rdma_rxe"];
/// The user-space interface of RDMA devices, for the programs of others that results are compared with. Elsewhere udev
/// loads it on demand; here nothing does.
const USER_ACCESS: &[&str] = &["ib_uverbs", "rdma_ucm"];
/// The port of the rendezvous between the runners of two guests.
const RENDEZVOUS_PORT: u16 = 7470;
/// How many times longer a boot by virtme-ng takes: udev asks for a driver of each device.
const UDEV: u32 = 3;

/// Whether guests have the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Built if necessary, loaded before the jobs, unloaded and checked for leaks after them.
    Loaded,
    /// Not there.
    Absent,
}

/// Everything that booting a topology takes, ready.
pub struct TestEnv {
    /// What the guests look like.
    pub topology: Topology,
    /// Which kernel configuration.
    pub profile: Profile,
    /// What executes the guests.
    pub accel: Accel,
    /// How long things may take.
    pub limits: Limits,
    /// Programs for the guests.
    pub binaries: Binaries,
    /// Programs of the host.
    pub tools: Tools,
    /// The checkout.
    pub root: PathBuf,
    kernel: Kernel,
    module: Option<Module>,
    runner: Runner,
}

impl TestEnv {
    /// Provides tools, kernel, module and programs, and settles the accelerator.
    pub fn prepare(
        ctx: &Ctx,
        topology: &str,
        profile: Profile,
        choice: AccelChoice,
        driver: Driver,
    ) -> Result<Self> {
        let topology = Topology::load(&ctx.root, topology)?;
        let tools = setup::ensure(ctx, Need::Boot)?;
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
        let mut test_env = Self {
            topology,
            profile,
            accel,
            limits,
            binaries,
            tools,
            root,
            kernel,
            module,
            runner: Runner::Qemu,
        };
        test_env.accel = accel::settle(ctx, &test_env, choice)?;
        test_env.limits = Limits::new(test_env.accel, profile);
        Ok(test_env)
    }

    /// The same, with its guests booted by `runner`, for which [`Runner::check`] must have
    /// succeeded.
    pub fn booted_by(mut self, runner: Runner) -> Self {
        if runner == Runner::VirtmeNg {
            self.limits.boot *= UDEV;
        }
        self.runner = runner;
        self
    }

    /// What boots guests.
    pub fn runner(&self) -> Runner {
        self.runner
    }

    /// The kernel that guests boot.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// QEMU.
    pub fn qemu(&self) -> &Path {
        &self.tools.qemu
    }

    /// `numa2 base tcg`, and the runner if it is not the usual one.
    pub fn title(&self) -> String {
        let mut title = format!(
            "{} {} {}",
            self.topology.name,
            self.profile.name(),
            self.accel.name()
        );
        if self.runner != Runner::Qemu {
            title += " ";
            title += self.runner.name();
        }
        title
    }

    /// Boots the guests, runs the request, powers off. A boot that fails is tried again: it says
    /// nothing about what is tested.
    pub fn run(
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
    pub fn boot_once(&self, ctx: &Ctx, request: &Request, boot_limit: Duration) -> Result<Outcome> {
        self.attempt(ctx, request, boot_limit, &mut |_| {})
    }

    /// Judges a run by its jobs, its leaks and its consoles.
    pub fn judge(&self, outcome: &Outcome) -> Result<Verdict> {
        Ok(verdict::judge(outcome, &Rules::load(&self.root)?, None))
    }

    fn attempt(
        &self,
        ctx: &Ctx,
        request: &Request,
        boot_limit: Duration,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        for names in [&request.modules, &request.loadable] {
            kernel::stock::provide(ctx, &self.kernel, names)?;
        }
        let start = Instant::now();
        let name = self.title().replace(' ', "-");
        let dir = RunDir::create(ctx, &name)?;
        let mut running = Vec::new();
        for index in 0..self.topology.guests.len() {
            running.push(self.start(&dir, request, index)?);
        }
        let jobs = self.job_limit(request) + self.limits.end;
        let end = watch_over(&mut running, boot_limit, jobs, self.limits.end, watch)?;
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
        let plan = self.plan(request, index)?;
        let runner = self.binaries.runner();
        let machine = Machine {
            qemu: self.qemu(),
            guest,
            accel: self.accel,
            bz_image: &self.kernel.bz_image,
            initrd: self.kernel.initrd.as_deref(),
            init: &runner,
            share: &home.join(SHARE_FOLDER),
            console: home.join("console.log"),
            link: self.link(dir, index),
            interactive: plan.jobs.iter().any(|job| job.interactive),
            limits: self.limits,
        };
        let busybox = match &self.kernel.builder {
            Builder::Debian(debian) => Some(debian.path("usr/bin/busybox")),
            Builder::Machine => None,
        };
        let vng = Vng {
            bin: &self.tools.vng_bin,
            busybox: busybox.as_deref(),
            checkout: &self.root,
            home: &home,
        };
        let vng = (self.runner == Runner::VirtmeNg).then_some(vng);
        let (files, config) = (&request.files, &self.kernel.config);
        Running::start(home.clone(), &machine, vng, &plan, files, config)
    }

    fn link(&self, dir: &RunDir, index: usize) -> Option<Link> {
        match self.topology.network {
            Network::Veth { .. } => None,
            Network::Link { .. } => {
                let run = dir.path().file_name().unwrap_or_default().to_string_lossy();
                Some(Link {
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
            autoload: None,
            driver: None,
            network: plan::Network::None,
            rendezvous: None,
            jobs: jobs.map(|(_, job)| job.clone()).collect(),
            limit_s: self.job_limit(request).as_secs(),
            time_scale: self.limits.scale,
        };
        if request.bare {
            return Ok(plan);
        }
        let mut modules = PROVIDER.to_vec();
        modules.extend(USER_ACCESS);
        modules.extend(&request.modules);
        let of_kernel = self.kernel.modules()?;
        plan.modules = of_kernel.load_order(&modules)?;
        if let Some(module) = &self.module {
            let needed = of_kernel.needed_by(&module.ko)?;
            let new: Vec<_> = needed
                .into_iter()
                .filter(|ko| !plan.modules.contains(ko))
                .collect();
            plan.modules.extend(new);
        }
        if self.runner == Runner::Qemu {
            // virtme-ng does so by itself.
            plan.autoload.clone_from(&self.kernel.autoload);
        }
        // Tests load the exporters when they need them, and the provider when they have unloaded it.
        for (variable, names) in [
            ("DMAPLANE_PROVIDER", PROVIDER),
            ("DMAPLANE_EXPORTERS", &["vgem", "vivid"]),
            ("DMAPLANE_LOADABLE", &request.loadable),
        ] {
            let files = of_kernel.load_order(names)?;
            let files: Vec<_> = files.iter().map(|ko| ko.display().to_string()).collect();
            plan.env.insert(variable.to_owned(), files.join(":"));
        }
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
                let address = format!("{}:{RENDEZVOUS_PORT}", self.topology.peer_ip());
                plan.rendezvous = Some(Rendezvous {
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
            // Errors name their origin themselves, and symbols take seconds to read here.
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
