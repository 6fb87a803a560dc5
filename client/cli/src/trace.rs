// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane trace`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use dmaplane::terminal;
use dmaplane_kv::atomic_file;
use dmaplane_observe::chrome;
use dmaplane_observe::follow::{Side, follow};
use dmaplane_observe::state::State;
use dmaplane_observe::trace::{self, EVENTS};
use dmaplane_observe::tracefs::Recording;
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::output;

/// What to do with trace events.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the driver's events.
    Events,

    /// Record events into a file, as tracefs prints them. Needs root.
    ///
    /// Ends after the time, or on Ctrl-C (SIGINT), SIGTERM or SIGHUP with the events so far.
    #[command(after_help = "Example: dmaplane trace record --seconds 10 --out near.trace")]
    Record {
        /// The file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// How long.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Record only these events; without it, all of the driver's.
        #[arg(long, value_name = "NAME")]
        event: Vec<String>,
    },

    /// Follow one trace id through the events of one or several machines.
    ///
    /// The files are what `dmaplane trace record`, `trace-cmd report` or `perf script` wrote, one for
    /// each machine. Their clocks are compared by the transfers between them.
    #[command(
        after_help = "Example: dmaplane trace follow 42 near=near.trace far=far.trace --chrome out.json"
    )]
    Follow {
        /// The trace id, as entries carry it.
        id: u64,
        /// A machine's recording, with a name for the machine or without.
        #[arg(value_name = "[NAME=]FILE", required_unless_present = "live")]
        files: Vec<String>,
        /// Record on this machine for so many seconds instead of reading files. An operation without
        /// events in that time, because it is stuck, is looked up in the driver's state. Needs root.
        #[arg(long, value_name = "SECONDS", conflicts_with = "files")]
        live: Option<f64>,
        /// Write the timeline as Chrome's trace JSON to this file too.
        #[arg(long, value_name = "FILE")]
        chrome: Option<PathBuf>,
    },
}

pub(crate) fn run(command: &Command, json: bool) -> Result<()> {
    match command {
        Command::Events if json => output::json(&EVENTS),
        Command::Events => output::text(&(EVENTS.join("\n") + "\n")),
        Command::Record {
            out,
            seconds,
            event,
        } => record(out, *seconds, event, json),
        Command::Follow {
            id,
            files,
            live,
            chrome,
        } => {
            if let Some(path) = chrome {
                atomic_file::check(path)?;
            }
            let sides = match live {
                Some(seconds) => vec![Side {
                    name: "here".to_owned(),
                    events: trace::parse(&recorded(&[], duration(*seconds)?)?),
                }],
                None => files.iter().map(|file| side(file)).collect::<Result<_>>()?,
            };
            let mut timeline = follow(*id, &sides);
            // A stuck operation has no more events, but it is there, and the driver knows what it waits for.
            let mut found = !timeline.steps.is_empty();
            if !timeline.has_ended() && live.is_some() {
                let state = State::read().context("cannot read what is in flight")?;
                if let Some(verdict) = state.whereabouts(*id) {
                    timeline.verdict = verdict;
                    found = true;
                }
            }
            if let Some(path) = chrome {
                let text = crate::json::text(&chrome::render(&timeline))?;
                atomic_file::write(path, text.as_bytes())?;
            }
            if json {
                output::json(&timeline)?;
            } else {
                output::text(&timeline.text())?;
            }
            ensure!(found, "{}", timeline.verdict);
            Ok(())
        }
    }
}

fn duration(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{seconds} seconds"))
}

/// Records until `limit` has passed or a signal ends it.
fn recorded(events: &[&str], limit: Duration) -> Result<String> {
    let interrupt = Interrupt::catch().context("cannot catch signals")?;
    let recording = Recording::start(events)?;
    interrupt.wait(limit).context("cannot wait")?;
    Ok(recording.stop()?)
}

/// What was recorded.
#[derive(Serialize)]
struct Recorded {
    file: String,
    /// How long it was recorded.
    seconds: f64,
    events: usize,
    /// Their numbers by name.
    events_by_name: BTreeMap<String, usize>,
    /// Events that later ones overwrote, because the buffer was full; none where tracefs does not report it.
    lost: Option<u64>,
}

impl Recorded {
    fn of(text: &str, out: &Path, seconds: f64) -> Self {
        let events = trace::parse(text);
        let mut events_by_name = BTreeMap::new();
        for event in &events {
            *events_by_name.entry(event.name.clone()).or_default() += 1;
        }
        Self {
            file: out.display().to_string(),
            seconds,
            events: events.len(),
            events_by_name,
            lost: trace::lost(text),
        }
    }

    /// In one line, for people.
    fn text(&self) -> String {
        let text = format!("{} events in {}", self.events, self.file);
        match self.lost {
            None | Some(0) => text,
            Some(lost) => format!(
                "{text}; {lost} earlier ones were lost: record for a shorter time, or fewer by --event"
            ),
        }
    }
}

fn record(out: &Path, seconds: f64, events: &[String], json: bool) -> Result<()> {
    let events: Vec<_> = events.iter().map(String::as_str).collect();
    let limit = duration(seconds)?;
    // Checked first, not after the events have come and gone.
    atomic_file::check(out)?;
    let begin = Instant::now();
    let text = recorded(&events, limit)?;
    let seconds = begin.elapsed().as_secs_f64().min(seconds);
    atomic_file::write(out, text.as_bytes())?;
    let recorded = Recorded::of(&text, out, seconds);
    if json {
        return output::json(&recorded);
    }
    terminal::note(format_args!("dmaplane: {}", recorded.text()));
    Ok(())
}

/// A machine's recording: its name is what stands before `=`, else the file's.
fn side(argument: &str) -> Result<Side> {
    let (name, path) = argument.split_once('=').unwrap_or((argument, argument));
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let events = trace::parse(&text);
    ensure!(
        !events.is_empty(),
        "{path} has no event of dmaplane; there are: {}",
        EVENTS.join(", ")
    );
    Ok(Side {
        name: name.to_owned(),
        events,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 3/8   #P:2\n#\n\
        a-1 [000] ..... 1.000001: op_submit: trace_id=7 op=WRITE\n\
        a-1 [000] ..... 1.000002: op_submit: trace_id=8 op=WRITE\n\
        a-1 [001] ..... 1.000003: op_complete: trace_id=7 op=WRITE\n";

    #[test]
    fn a_recording_is_summed_up() {
        let recorded = Recorded::of(TRACE, Path::new("near.trace"), 2.5);
        let json = serde_json::to_value(&recorded).expect("JSON");
        let wanted = serde_json::json!({
            "file": "near.trace",
            "seconds": 2.5,
            "events": 3,
            "events_by_name": {"op_complete": 1, "op_submit": 2},
            "lost": 5,
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn the_text_says_what_was_lost_and_what_to_do() {
        let out = Path::new("near.trace");
        let text = Recorded::of(TRACE, out, 2.5).text();
        assert!(
            text.starts_with("3 events in near.trace; 5 earlier ones were lost: "),
            "{text}"
        );
        let text = Recorded::of(&TRACE.replace("3/8", "3/3"), out, 2.5).text();
        assert_eq!(text, "3 events in near.trace");
    }
}
