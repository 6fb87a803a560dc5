// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's part: examples/kvcache, built and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::guest::binaries::{cargo, target_dir};
use dmaplane_vmtest::guest::group::Group;
use dmaplane_vmtest::{exec, exit};

/// The files of one run.
pub(crate) struct Work {
    /// The model.
    pub(crate) model: PathBuf,
    /// The cache that prefill writes.
    pub(crate) kv: PathBuf,
    /// The cache that came back from the receiving guest.
    pub(crate) received: PathBuf,
    state: PathBuf,
    dir: PathBuf,
}

impl Work {
    /// Names the files in a folder.
    pub(crate) fn new(dir: &Path, model: PathBuf) -> Self {
        Self {
            model,
            kv: dir.join("prompt.kv"),
            received: dir.join("received.kv"),
            state: dir.join("state.json"),
            dir: dir.to_owned(),
        }
    }
}

/// What `kvcache prefill --json` writes.
#[derive(Deserialize)]
pub(crate) struct Prefill {
    pub(crate) model: String,
    pub(crate) prompt_tokens: u64,
    pub(crate) layers: u64,
    pub(crate) prefill_ms: f64,
}

/// What `kvcache decode --json` and `kvcache reference --json` write.
#[derive(Deserialize)]
pub(crate) struct Spoken {
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) decode_ms: f64,
}

/// The program `kvcache`.
pub(crate) struct KvCache {
    program: PathBuf,
}

/// The command that builds the program for the processor at hand: the quantized kernels are several times
/// faster when the compiler may use its vector instructions.
fn build_command(ctx: &Ctx) -> Result<Command> {
    let mut command = cargo(ctx);
    command.args(["build", "--release", "--package", "kvcache"]);
    command.args(["--config", "build.rustflags=['-Ctarget-cpu=native']"]);
    command.arg("--target-dir").arg(target(ctx)?);
    Ok(command)
}

/// A folder of its own, since other flags would rebuild what all other programs share.
fn target(ctx: &Ctx) -> Result<PathBuf> {
    Ok(target_dir(ctx)?.join("native"))
}

/// The build of the program, started before it is needed and ended when this is dropped. Downloads and single
/// processes leave a processor idle, which compiles it meanwhile.
pub(crate) struct Ahead {
    // Kills the build, so that the wait below ends.
    group: Group,
    build: Child,
}

impl Ahead {
    /// Starts the build with what other processes leave of the processors. [`KvCache::build`] waits for it, and
    /// reports what is wrong with it.
    pub(crate) fn start(ctx: &Ctx) -> Result<Self> {
        let group = Group::new()?;
        let build = build_command(ctx)?;
        let mut command = Command::new("nice");
        command.current_dir(&ctx.root);
        command.arg(build.get_program()).args(build.get_args());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let build = group
            .spawn(&mut command)
            .context("cannot build kvcache ahead")?;
        Ok(Self { group, build })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.group.kill();
        if let Err(error) = self.build.wait() {
            eprintln!("cannot wait for the build of kvcache: {error}");
        }
    }
}

impl KvCache {
    /// Builds it, or waits for the build that [`Ahead`] has begun.
    pub(crate) fn build(ctx: &Ctx) -> Result<Self> {
        let command = build_command(ctx)?;
        let mut progress = ctx.ui.spinner("building kvcache, which runs the model");
        let log = ctx.log_dir()?.join("kvcache-build.log");
        exec::logged(ctx, command, "building kvcache", &log, |line| {
            progress.message(line.trim());
        })?;
        Ok(Self {
            program: target(ctx)?.join("release/kvcache"),
        })
    }

    /// Reads the prompt and writes its cache.
    pub(crate) fn prefill(
        &self,
        ctx: &Ctx,
        work: &Work,
        prompt: &str,
        chunk_size: u64,
    ) -> Result<Prefill> {
        let mut command = self.command(work, "prefill");
        command
            .arg("--out")
            .arg(&work.kv)
            .arg("--state")
            .arg(&work.state);
        command
            .arg(format!("--prompt={prompt}"))
            .arg(format!("--chunk-size={chunk_size}"));
        run(ctx, work, command, "prefill")
    }

    /// Continues from the received cache.
    pub(crate) fn decode(&self, ctx: &Ctx, work: &Work, tokens: u32) -> Result<Spoken> {
        let mut command = self.command(work, "decode");
        command
            .arg("--kv")
            .arg(&work.received)
            .arg("--state")
            .arg(&work.state);
        command.arg("--tokens").arg(tokens.to_string());
        run(ctx, work, command, "decode")
    }

    /// Does both at once, for comparison.
    pub(crate) fn reference(
        &self,
        ctx: &Ctx,
        work: &Work,
        prompt: &str,
        tokens: u32,
    ) -> Result<Spoken> {
        let mut command = self.command(work, "reference");
        command
            .arg(format!("--prompt={prompt}"))
            .arg("--tokens")
            .arg(tokens.to_string());
        run(ctx, work, command, "reference")
    }

    fn command(&self, work: &Work, what: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(what).arg("--model").arg(&work.model);
        command
    }
}

/// Runs a subcommand and reads its report.
fn run<T: DeserializeOwned>(ctx: &Ctx, work: &Work, mut command: Command, what: &str) -> Result<T> {
    let report = work.dir.join(format!("{what}.json"));
    command.arg("--json").arg(&report);
    let progress = ctx.ui.spinner(match what {
        "prefill" => "prefill: reading the prompt",
        "decode" => "decode: continuing from the received cache",
        _ => "the reference run, for comparison",
    });
    let log = ctx.log_dir()?.join(format!("demo-{what}.log"));
    let mut said = None;
    exec::logged(ctx, command, &format!("kvcache {what}"), &log, |line| {
        ctx.ui.detail(line);
        if let Some(why) = line.strip_prefix("error: ") {
            said = Some(why.to_owned());
        }
    })
    .map_err(|error| match &said {
        Some(why) => exit::coded(exit::FAILED, format!("kvcache {what}: {why}\n{error:#}")),
        None => error,
    })?;
    progress.done();
    read_json(&report)
}

/// Reads a report.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not as expected", path.display()))
}

/// Whether two files have the same bytes.
pub(crate) fn same_bytes(a: &Path, b: &Path) -> Result<bool> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    Ok(read(a)? == read(b)?)
}
