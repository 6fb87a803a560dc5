// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running a plan's commands: with a log, in a namespace, within the time limit.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, PipeReader, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use dmaplane_testkit::netns;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::kmsg;
use dmaplane_vmtest_plan::{Job, JobEnd, Plan, SHARE};

/// The paravirtual console that an interactive shell sits on.
const SHELL_CONSOLE: &str = "/dev/hvc0";
/// How long a service may take to end after SIGTERM, before the time scale.
const SERVICE_GRACE: Duration = Duration::from_secs(2);

/// A job that has been started.
pub(crate) struct Running {
    name: String,
    group: Pid,
    started: Instant,
    events: Receiver<Event>,
    collect: Vec<PathBuf>,
    waits_for_text: bool,
    service: bool,
}

enum Event {
    Ready,
    Ended(std::io::Result<ExitStatus>),
}

/// Why waiting ended without a job's end.
pub(crate) enum Waited {
    /// The job is over.
    Ended(JobEnd),
    /// The deadline has passed; the job still runs.
    Late,
}

/// Starts a job; its output goes to `NAME.log` in the shared folder.
pub(crate) fn start(plan: &Plan, job: &Job) -> Result<Running> {
    for file in &job.collect {
        // What an earlier run left on the host shines through the overlay and must not pass for new.
        if file.exists() {
            fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        }
    }
    let (events_in, events) = channel();
    let mut command = command(plan, job)?;
    let pump = attach(job, &mut command)?;
    kmsg::say(&format!("job {} starts", job.name));
    let program = job.argv.first().cloned().unwrap_or_default();
    let child = match &job.netns {
        Some(name) => netns::inside(name, || command.spawn())?,
        None => command.spawn(),
    }
    .with_context(|| format!("job {}: cannot run {program}", job.name))?;
    let group = Pid::from_child(&child);
    if let (Some(text), Some((output, log))) = (job.ready_when.clone(), pump) {
        let ready = events_in.clone();
        std::thread::spawn(move || copy_until_end(output, log, &text, &ready));
    }
    std::thread::spawn(move || wait_for(child, &events_in));
    Ok(Running {
        name: job.name.clone(),
        group,
        started: Instant::now(),
        events,
        collect: job.collect.clone(),
        waits_for_text: job.ready_when.is_some(),
        service: job.service,
    })
}

fn command(plan: &Plan, job: &Job) -> Result<Command> {
    let [program, args @ ..] = job.argv.as_slice() else {
        bail!("job {} has no program", job.name);
    };
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(&plan.env)
        .envs(&job.env);
    command.current_dir(&plan.directory);
    Ok(command)
}

/// Connects the command's standard streams; gives the pipe to copy from where someone waits for a
/// text in it. Others write to the file themselves: a process that a job leaves behind would hold
/// a pipe open for ever.
fn attach(job: &Job, command: &mut Command) -> Result<Option<(PipeReader, File)>> {
    if job.interactive {
        let console = File::options().read(true).write(true).open(SHELL_CONSOLE);
        let console = console.with_context(|| format!("cannot open {SHELL_CONSOLE}"))?;
        command
            .stdin(console.try_clone()?)
            .stdout(console.try_clone()?)
            .stderr(console);
        return Ok(None);
    }
    command.process_group(0).stdin(Stdio::null());
    let path = Path::new(SHARE).join(format!("{}.log", job.name));
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    if job.ready_when.is_none() {
        command.stdout(log.try_clone()?).stderr(log);
        return Ok(None);
    }
    let (output, input) = std::io::pipe()?;
    command.stdout(input.try_clone()?).stderr(input);
    Ok(Some((output, log)))
}

fn copy_until_end(output: PipeReader, mut log: File, text: &str, ready: &Sender<Event>) {
    let mut lines = BufReader::new(output);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let _ = log.write_all(&line);
        if String::from_utf8_lossy(&line).contains(text) {
            let _ = ready.send(Event::Ready);
        }
        line.clear();
    }
}

fn wait_for(mut child: Child, end: &Sender<Event>) {
    let _ = end.send(Event::Ended(child.wait()));
}

impl Running {
    /// Waits until the job has said that it is ready.
    pub(crate) fn ready(&mut self, deadline: Instant) -> Result<()> {
        if !self.waits_for_text {
            return Ok(());
        }
        match self.events.recv_timeout(left(deadline)) {
            Ok(Event::Ready) => Ok(()),
            Ok(Event::Ended(status)) => {
                bail!("{} ended before it was ready: {status:?}", self.name)
            }
            Err(RecvTimeoutError::Timeout) => bail!("{} did not get ready in time", self.name),
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("{} was lost", self.name)),
        }
    }

    /// Waits for the job's end and collects its files.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Result<Waited> {
        loop {
            match self.events.recv_timeout(left(deadline)) {
                Ok(Event::Ready) => {}
                Ok(Event::Ended(status)) => return Ok(Waited::Ended(self.end(status?)?)),
                Err(RecvTimeoutError::Timeout) => return Ok(Waited::Late),
                Err(RecvTimeoutError::Disconnected) => bail!("{} was lost", self.name),
            }
        }
    }

    /// Asks the job to end, then makes it.
    pub(crate) fn stop(&mut self, time_scale: u32) -> Result<Waited> {
        let _ = kill_process_group(self.group, Signal::TERM);
        match self.wait(Instant::now() + SERVICE_GRACE * time_scale)? {
            Waited::Late => {
                let _ = kill_process_group(self.group, Signal::KILL);
                self.wait(Instant::now() + SERVICE_GRACE * time_scale)
            }
            ended @ Waited::Ended(_) => Ok(ended),
        }
    }

    fn end(&self, status: ExitStatus) -> Result<JobEnd> {
        for file in self.collect.iter().filter(|file| file.is_file()) {
            let name = file.file_name().context("a file to collect has no name")?;
            let to = Path::new(SHARE).join(name);
            fs::copy(file, &to).with_context(|| format!("cannot collect {}", file.display()))?;
        }
        let end = JobEnd {
            name: self.name.clone(),
            service: self.service,
            code: status.code(),
            signal: status.signal(),
            ms: u64::try_from(self.started.elapsed().as_millis())?,
        };
        kmsg::say(&format!("job {} ended: {status}", end.name));
        Ok(end)
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
