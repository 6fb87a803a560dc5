// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guests while they run: started, followed, ended when their time is over.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{End, Event, GuestOutcome, SHARE_FOLDER};
use crate::guest::machine::{Qemu, Tail, lossy};
use crate::guest::plan::{self, PLAN_FILE, Plan, REPORT_FILE};
use crate::guest::qemu::{Machine, quoted};
use crate::guest::vng::{self, Vng};
use crate::interrupt;

/// How often consoles and processes are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A guest while it runs.
pub(super) struct Running {
    name: String,
    home: PathBuf,
    qemu: Qemu,
    console: Tail,
    outputs: Vec<(String, Tail)>,
    /// When its runner printed its first line.
    started: Option<Instant>,
    over: bool,
    command_line: String,
}

/// Follows the guests until all are off, or until time is over for one of them.
pub(super) fn watch_over(
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
        // The caller drops the guests after this error, which kills them.
        interrupt::check()?;
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
    /// Prepares the guest's folder and starts its QEMU, by virtme-ng if `vng` is given.
    pub(super) fn start(
        home: PathBuf,
        machine: &Machine<'_>,
        vng: Option<Vng<'_>>,
        plan: &Plan,
        files: &[(String, String)],
        config: &Path,
    ) -> Result<Self> {
        let share = machine.share;
        fs::create_dir_all(share).with_context(|| format!("cannot create {}", share.display()))?;
        fs::write(share.join(PLAN_FILE), serde_json::to_vec_pretty(plan)?)?;
        for (name, content) in files {
            fs::write(share.join(name), content)?;
        }
        let line = match &vng {
            Some(vng) => vng::command_line(machine, vng)?,
            None => machine.command_line(),
        };
        let command_line = quoted(&line);
        fs::write(home.join("qemu-command.txt"), format!("{command_line}\n"))?;
        fs::copy(config, home.join("kernel.config"))
            .with_context(|| format!("cannot copy {}", config.display()))?;
        let log = home.join("qemu.log");
        let qemu = match vng {
            Some(_) => Qemu::start_by(&line, &machine.console, &log, machine.interactive)?,
            None => Qemu::start(&line, &log, machine.interactive)?,
        };
        let outputs = plan.jobs.iter().filter(|job| !job.interactive);
        let log = |name: &str| Tail::new(share.join(format!("{name}.log")));
        Ok(Self {
            name: plan.guest.clone(),
            console: Tail::new(machine.console.clone()),
            outputs: outputs
                .map(|job| (job.name.clone(), log(&job.name)))
                .collect(),
            home,
            qemu,
            started: None,
            over: false,
            command_line,
        })
    }

    fn follow(&mut self, watch: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        // Checked first, so that what a guest wrote before its end is still read.
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

    /// What it left.
    pub(super) fn outcome(mut self) -> Result<GuestOutcome> {
        let qemu = match self.qemu.ended()? {
            Some(status) => status.to_string(),
            None => "still running".to_owned(),
        };
        let report =
            match fs::read(self.home.join(SHARE_FOLDER).join(REPORT_FILE)) {
                Ok(bytes) => Some(serde_json::from_slice(&bytes).with_context(|| {
                    format!("the report of guest {} is not understood", self.name)
                })?),
                Err(_) => None,
            };
        Ok(GuestOutcome {
            share: PathBuf::from(&self.name).join(SHARE_FOLDER),
            console: lossy(&self.home.join("console.log")),
            qemu_said: lossy(&self.home.join("qemu.log")).trim().to_owned(),
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
