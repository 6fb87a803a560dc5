// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane top`.

mod latency;
mod screen;
#[cfg(test)]
mod tests;
mod text;
mod view;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dmaplane_observe::state;

use crate::interrupt::Interrupt;
use crate::output;
use view::{Reading, View};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one reading and end; rates and live latencies then cover the time between two readings.
    #[arg(long)]
    once: bool,
    /// Seconds between two readings.
    #[arg(long, default_value_t = 1.0)]
    interval: f64,
    /// An operation that has waited longer than this is called stuck, unless it waits for its peer to send.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    stuck_ms: u64,
}

/// Shows what the driver does, live or once.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let interval = Duration::try_from_secs_f64(args.interval)
        .ok()
        .filter(|interval| *interval >= Duration::from_millis(50));
    let interval = interval.context("--interval must be at least 0.05 s")?;
    let take =
        || Reading::take().with_context(|| format!("no {}: is the module loaded?", state::SYSFS));
    if args.once || json {
        let before = take()?;
        std::thread::sleep(interval);
        let view = View::of(&take()?, Some(&before), args.stuck_ms);
        return if json {
            output::json(&view)
        } else {
            output::text(&(view.lines().join("\n") + "\n"))
        };
    }
    ensure!(
        std::io::stdout().is_terminal(),
        "standard output is not a terminal: use --once or --json"
    );
    // Before the terminal changes, so that it is restored when a signal ends this.
    let interrupt = Interrupt::catch()?;
    let mut screen = ratatui::try_init().context("cannot use the terminal")?;
    let result = screen::live(&mut screen, interval, args.stuck_ms, take, &interrupt);
    // If the terminal is gone, there is nothing to restore.
    let _ = ratatui::try_restore();
    result
}
