// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `bench`: measurements inside a guest, each next to a reference of the same guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::guest::accel::AccelChoice;
use dmaplane_vmtest::guest::plan::SHARE;
use dmaplane_vmtest::guest::session::{Driver, Request, TestEnv, job};
use dmaplane_vmtest::guest::topology::Network;
use dmaplane_vmtest::kernel::Profile;
use dmaplane_vmtest::setup::{self, Need};
use dmaplane_vmtest::{driver, exit};

/// The file that the guest leaves its rows in.
const ROWS: &str = "rows.json";

/// Size of the BAR whose tiers are measured.
const TIERS_BAR_MIB: u32 = 256;

/// The most that observing may cost, by case: a share of the reference's rate. Recording has a goal for transfers only,
/// where it is one of many costs.
const MAY_COST: [(&str, f64); 5] = [
    ("nop off", 0.01),
    ("nop histograms", 0.02),
    ("write_imm off", 0.01),
    ("write_imm histograms", 0.02),
    ("write_imm on", 0.10),
];

/// What to measure.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// NOP entries per second through a channel, next to one system call for each entry.
    Rings,
    /// A message of 4 KiB there and back, next to `ib_send_lat` (package perftest); idle CPUs poll, as on a host that is tuned
    /// for it.
    Latency,
    /// WRITE and WRITE_IMM by size and depth, next to `ib_write_bw`.
    Stream,
    /// 128 chunks of 1 MiB with immediates, next to `ib_write_bw`.
    Kv,
    /// A device's memory by mapping tier, both directions, next to host memory.
    Tiers,
    /// What trace events and histograms cost, next to a module without them, at the rate of NOPs and of 4 KiB WRITE_IMMs.
    Overhead,
    /// Allocation, zeroing and registration by folio size, and what distance between nodes costs.
    Memory,
}

/// Measures inside a guest and compares with a reference in the same run.
///
/// In emulated guests (accel tcg) only the ratios mean something, not the values. Run nothing else
/// meanwhile.
#[derive(Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct BenchArgs {
    /// What to measure.
    what: What,
    /// Writes the rows as JSON to this file: bench, case, size, depth, value, unit, reference,
    /// ratio, accel.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A tenth of the work, for a first look.
    #[arg(long)]
    quick: bool,
    /// Which kernel. Both sides of a comparison run on the same one.
    #[arg(long, value_enum, default_value = "stock")]
    profile: Profile,
    /// What executes the guests.
    #[arg(long, value_enum)]
    accel: Option<AccelChoice>,
}

/// One measurement.
#[derive(Deserialize, Serialize)]
struct Row {
    bench: String,
    case: String,
    size: u64,
    depth: u32,
    value: f64,
    unit: String,
    reference: String,
    ratio: f64,
    accel: String,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "all commands have one signature"
)]
pub(crate) fn run(ctx: &Ctx, args: BenchArgs) -> Result<ExitCode> {
    setup::ensure(ctx, Need::Guest)?;
    let accel = args.accel.unwrap_or(AccelChoice::Auto);
    let mut test_env = TestEnv::prepare(ctx, "numa2", args.profile, accel, Driver::Loaded)?;
    if matches!(args.what, What::Latency) {
        // As on a tuned host: waking an emulated CPU costs as much as everything that is measured.
        let arguments = &mut test_env.topology.guests[0].kernel_args;
        arguments.push("idle=poll".to_owned());
    }
    if matches!(args.what, What::Tiers) {
        // The driver cuts a BAR in halves and quarters: each tier has room for the largest size.
        for bar in &mut test_env.topology.guests[0].bars {
            bar.size_mib = TIERS_BAR_MIB;
        }
    }
    let guest = test_env.topology.guests[0].name.clone();
    let what = match args.what {
        What::Rings => "rings",
        What::Latency => "latency",
        What::Stream => "stream",
        What::Kv => "kv",
        What::Tiers => "tiers",
        What::Overhead => "overhead",
        What::Memory => "memory",
    };
    let program = test_env.binaries.dir.join("dmaplane-bench");
    let program = program.display().to_string();
    let rows = Path::new(SHARE).join(ROWS).display().to_string();
    let accel = test_env.accel.name();
    let mut argv: Vec<String> = [&program, what, "--out", &rows, "--accel", accel]
        .map(str::to_owned)
        .to_vec();
    if args.quick {
        argv.push("--quick".to_owned());
    }
    let mut measurement = job("bench", argv);
    measurement.netns =
        matches!(test_env.topology.network, Network::Veth { .. }).then(|| "dp0".to_owned());
    let mut request = Request::empty();
    if matches!(args.what, What::Overhead) {
        let plain = driver::ensure_plain(ctx, args.profile)?;
        let plain = plain.display().to_string();
        request.env.insert("DMAPLANE_KO_PLAIN".to_owned(), plain);
    }
    request.job(&guest, measurement);
    ctx.ui
        .step(format!("measuring {what} on {}", test_env.title()));
    let mut outcome = test_env.run(ctx, &request, &mut |_| {})?;
    let verdict = test_env.judge(&outcome)?;
    for (kind, reason) in &verdict.reasons {
        eprintln!("  {}: {reason}", kind.words());
    }
    let file = outcome.share(outcome.guest(&guest)?).join(ROWS);
    let text = fs::read_to_string(&file);
    let kept = outcome.dir.keep(ctx)?;
    if !verdict.reasons.is_empty() {
        eprintln!("  artefacts: {}", kept.display());
        return Ok(ExitCode::from(verdict.kind.code()));
    }
    let rows: Vec<Row> = serde_json::from_str(&text.context("the guest left no rows")?)?;
    print!("{}{}", table(&rows), verdicts(&rows));
    if let Some(json) = &args.json {
        fs::write(json, serde_json::to_string_pretty(&rows)?)
            .with_context(|| format!("cannot write {}", json.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The rows for people.
fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        text += &format!(
            "{:8} {:24} size {:8} depth {:4} {:14.0} {:10} {:8.3} x {} ({})\n",
            row.bench,
            row.case,
            row.size,
            row.depth,
            row.value,
            row.unit,
            row.ratio,
            row.reference,
            row.accel
        );
    }
    text
}

/// The lines for people that say which goals for the cost of observing were reached. The noise is the difference
/// between two measurements of the same thing.
fn verdicts(rows: &[Row]) -> String {
    let find = |case: &str| {
        rows.iter()
            .find(|row| row.bench == "overhead" && row.case == case)
    };
    let mut text = String::new();
    for (case, may) in MAY_COST {
        let Some(row) = find(case) else { continue };
        let kind = case.split(' ').next().unwrap_or(case);
        let noise = find(&format!("{kind} noise")).map_or(0.0, |row| (row.ratio - 1.0).abs());
        let cost = 1.0 - row.ratio;
        let word = if cost <= may {
            "reached"
        } else if cost - noise <= may {
            "missed by less than the noise"
        } else {
            "missed"
        };
        text += &format!(
            "goal: {case:22} costs {:5.1} % of {}, at most {:.0} %: {word} (noise {:.1} %)\n",
            cost * 100.0,
            row.reference,
            may * 100.0,
            noise * 100.0
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of the overhead bench.
    fn row(case: &str, ratio: f64) -> Row {
        Row {
            bench: "overhead".to_owned(),
            case: case.to_owned(),
            size: 0,
            depth: 16,
            value: 1e6,
            unit: "operations/s".to_owned(),
            reference: "the other".to_owned(),
            ratio,
            accel: "tcg".to_owned(),
        }
    }

    #[test]
    fn goals_are_reached_missed_or_within_the_noise() {
        let rows = [
            row("write_imm noise", 1.01),
            row("write_imm off", 1.02),
            row("write_imm histograms", 0.975),
            row("write_imm on", 0.88),
            row("nop noise", 1.0),
            row("nop on", 0.07),
        ];
        let text = verdicts(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("-2.0 % of the other, at most 1 %: reached"));
        assert!(lines[1].contains("2.5 %") && lines[1].contains("less than the noise"));
        assert!(lines[2].ends_with("at most 10 %: missed (noise 1.0 %)"));
    }

    #[test]
    fn other_benches_have_no_goals() {
        let mut other = row("nop", 10.0);
        other.bench = "rings".to_owned();
        assert_eq!(verdicts(&[other]), "");
    }

    #[test]
    fn a_row_names_its_reference() {
        let json = r#"[{"bench":"rings","case":"nop","size":0,"depth":32,"value":5e6,
            "unit":"entries/s","reference":"one system call per entry","ratio":10.5,"accel":"tcg"}]"#;
        let rows: Vec<Row> = serde_json::from_str(json).expect("rows");
        let text = table(&rows);
        assert!(
            text.contains("10.500 x one system call per entry (tcg)"),
            "{text}"
        );
    }
}
