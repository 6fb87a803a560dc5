// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guests' part: the first one sends, the second one receives.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::host::{Work, read_json};
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::plan::Job;
use dmaplane_vmtest::guest::session::{Event, Outcome, Request, TestEnv, job};
use dmaplane_vmtest::guest::verdict::{Kind, Verdict};

/// Where the receiver listens.
const PORT: u16 = 7472;
/// Seconds without progress after which a transfer is abandoned, before scaling for slow guests.
const IDLE_S: u32 = 10;
/// Seconds to wait for the other side, before scaling.
const CONNECT_S: u32 = 20;
/// What the receiver prints once it accepts a sender.
const READY: &str = "listening on";

/// What `dmaplane --json kv send` reports.
#[derive(Deserialize)]
pub(crate) struct Sent {
    pub(crate) bytes: u64,
    pub(crate) chunks: u64,
    pub(crate) transfer_ms: f64,
    pub(crate) transfer_mb_per_s: f64,
    pub(crate) device: String,
    pub(crate) staging_ms: f64,
    /// Where the cache is on either side, and how RDMA reaches it there.
    pub(crate) memory: Memory,
    #[serde(skip_deserializing)]
    pub(crate) received_into: Memory,
}

/// The memory that a cache is in, as the client describes it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Memory {
    kind: serde_json::Value,
    rdma: String,
}

impl Memory {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        let device = &self.kind["device"];
        let whose = match (device["device"].as_u64(), device["tier"].as_str()) {
            (Some(number), Some(tier)) => format!("device {number} ({tier})"),
            _ => "host".to_owned(),
        };
        format!("{whose}, RDMA {}", self.rdma)
    }
}

/// What the receiver reports in addition.
#[derive(Deserialize)]
struct Received {
    verified: bool,
    bytes: u64,
    memory: Memory,
}

/// Boots the guests, moves `work.kv` from one to the other, and leaves it in `work.received`.
pub(crate) fn run(ctx: &Ctx, test_env: &TestEnv, work: &Work, memory: &str) -> Result<Sent> {
    let [sender, receiver] = &test_env.topology.guests[..] else {
        anyhow::bail!("the demo needs two guests");
    };
    let address = format!("{}:{PORT}", test_env.topology.peer_ip());
    let idle = (IDLE_S * test_env.limits.scale).to_string();
    let connect = (CONNECT_S * test_env.limits.scale).to_string();
    let mut request = Request::default();
    // The receiver's output is its report; only the guest knows where the share is.
    request.job(
        &receiver.name,
        Job {
            ready_when: Some(READY.to_owned()),
            ..shell(
                "recv",
                "exec dmaplane --json kv recv --listen \"$ADDRESS\" --out \"$DMAPLANE_SHARE/kv\" \
                 --memory \"$MEMORY\" --idle-timeout \"$IDLE\" --accept-timeout \"$CONNECT\" \
                 >\"$DMAPLANE_SHARE/recv.json\"",
                [
                    ("ADDRESS", address.clone()),
                    ("MEMORY", memory.to_owned()),
                    ("IDLE", idle.clone()),
                    ("CONNECT", connect.clone()),
                ],
            )
        },
    );
    let kv = work
        .kv
        .to_str()
        .context("the cache folder's path is not UTF-8")?;
    // Layers interleaved: the receiver must not depend on any order.
    request.job(
        &sender.name,
        shell(
            "send",
            "exec dmaplane --json kv send --kv \"$KV\" --to \"$ADDRESS\" --order interleaved \
             --memory \"$MEMORY\" --idle-timeout \"$IDLE\" --connect-timeout \"$CONNECT\" \
             >\"$DMAPLANE_SHARE/send.json\"",
            [
                ("KV", kv.to_owned()),
                ("ADDRESS", address),
                ("MEMORY", memory.to_owned()),
                ("IDLE", idle),
                ("CONNECT", connect),
            ],
        ),
    );
    let size = fs::metadata(&work.kv)?.len();
    // At least 1 MB/s, and a minute for everything else.
    request.limit = Some(Duration::from_secs(60 + size / 1_000_000));

    let title = format!("two guests ({}): the transfer", test_env.accel.name());
    let mut progress = ctx.ui.spinner(title);
    progress.message("booting");
    let mut said = Vec::new();
    let mut outcome = test_env.run(ctx, &request, &mut |event| match event {
        Event::Output { guest, job, line } => {
            progress.message(format!("{guest} {job}: {line}"));
            ctx.ui.detail(format!("{guest} {job}: {line}"));
            said.push(format!("{guest} {job}: {line}"));
        }
        Event::Console { .. } => {}
    })?;
    let verdict = test_env.judge(&outcome)?;
    if verdict.kind != Kind::Ok {
        return Err(failed(ctx, &verdict, &mut outcome, &said)?);
    }
    progress.done();
    let share = outcome.share(outcome.guest(&receiver.name)?);
    let received: Received = read_json(&share.join("recv.json"))?;
    let mut sent: Sent = read_json(
        &outcome
            .share(outcome.guest(&sender.name)?)
            .join("send.json"),
    )?;
    anyhow::ensure!(
        received.verified && received.bytes == sent.bytes,
        "the receiver reports {} of {} bytes, verified: {}",
        received.bytes,
        sent.bytes,
        received.verified
    );
    sent.received_into = received.memory;
    fs::copy(share.join("kv"), &work.received).context("the received cache did not come back")?;
    Ok(sent)
}

fn shell<const N: usize>(name: &str, script: &str, env: [(&str, String); N]) -> Job {
    let env: BTreeMap<_, _> = env.map(|(name, value)| (name.to_owned(), value)).into();
    Job {
        env,
        ..job(name, ["sh", "-c", script])
    }
}

/// Prints why the guests failed, and keeps what they left.
fn failed(
    ctx: &Ctx,
    verdict: &Verdict,
    outcome: &mut Outcome,
    said: &[String],
) -> Result<anyhow::Error> {
    for line in said {
        eprintln!("    {line}");
    }
    // The programs' own error says more than a job's exit code.
    let own = said.iter().rev().find(|line| line.contains(": dmaplane: "));
    let why: Vec<&str> = match own {
        Some(line) if verdict.kind == Kind::Tests => vec![line],
        _ => verdict
            .reasons
            .iter()
            .map(|(_, reason)| reason.as_str())
            .collect(),
    };
    let kept = outcome.dir.keep(ctx)?;
    if let Some(guest) = outcome.guests.iter().find(|guest| guest.report.is_none()) {
        let lines: Vec<_> = guest.console.lines().collect();
        eprintln!("the last lines of guest {}'s console:", guest.name);
        for line in &lines[lines.len().saturating_sub(15)..] {
            eprintln!("    {line}");
        }
    }
    let code = if verdict.kind == Kind::Tests {
        exit::FAILED
    } else {
        verdict.kind.code()
    };
    let message = format!("{}\nConsoles and logs: {}", why.join("; "), kept.display());
    Ok(exit::coded(code, message))
}
