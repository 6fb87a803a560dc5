// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user sees while something takes time. All of it goes to stderr.
//!
//! On a terminal these are indicatif's bars; elsewhere plain lines, few enough for a CI log.

use std::fmt;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// How often a bar says something when stderr is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(30);

/// What prints messages and progress bars.
pub struct Ui {
    terminal: bool,
    verbose: u8,
}

impl Ui {
    /// For a run with so much output: how often `-v` was given.
    pub fn new(verbose: u8) -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            verbose,
        }
    }

    /// One line about what happens now.
    pub fn step(&self, text: impl AsRef<str>) {
        eprintln!("==> {}", text.as_ref());
    }

    /// One line that only `-v` shows.
    pub fn detail(&self, text: impl AsRef<str>) {
        if self.verbose > 0 {
            eprintln!("    {}", text.as_ref());
        }
    }

    /// Something that the user should know although it stops nothing.
    pub fn warn(&self, text: impl AsRef<str>) {
        eprintln!("warning: {}", text.as_ref());
    }

    /// A task of unknown length.
    pub fn spinner(&self, text: impl Into<String>) -> Progress {
        self.progress(text.into(), None)
    }

    /// A task of `total` units; the bar estimates when it ends.
    pub fn bar(&self, text: impl Into<String>, total: u64) -> Progress {
        self.progress(text.into(), Some(total))
    }

    fn progress(&self, text: String, total: Option<u64>) -> Progress {
        let now = Instant::now();
        if !self.terminal {
            eprintln!("==> {text}");
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
            return Progress {
                bar,
                text,
                plain: Some(now),
                started: now,
            };
        }
        let bar = ProgressBar::new(total.unwrap_or(0));
        let template = match total {
            Some(_) => "{msg} [{bar:30}] {percent:>3}% {elapsed} eta {eta}",
            None => "{spinner} {msg} {elapsed}",
        };
        // A template that does not parse would be our mistake; the default style still works.
        if let Ok(style) = ProgressStyle::with_template(template) {
            let style = style.with_key("eta", |state: &ProgressState, out: &mut dyn fmt::Write| {
                // A write to a terminal line that is gone may fail.
                let _ = out.write_str(&left(state.pos(), state.len(), state.elapsed()));
            });
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(text.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        Progress {
            bar,
            text,
            plain: None,
            started: now,
        }
    }
}

/// A running task. Dropping it clears the bar; [`Progress::done`] leaves a line with the time.
pub struct Progress {
    bar: ProgressBar,
    text: String,
    /// On plain output, when the last line was written.
    plain: Option<Instant>,
    started: Instant,
}

impl Progress {
    /// Says how far the task is, in its own units.
    pub fn set(&mut self, position: u64) {
        // The estimate of the total may be too small; a bar beyond its end would show no estimate.
        if let Some(total) = self.bar.length()
            && total > 0
            && position >= total
        {
            self.bar.set_length(position + position / 50 + 1);
        }
        self.bar.set_position(position);
        self.say_plainly();
    }

    /// Says what the task is doing.
    pub fn message(&mut self, text: impl AsRef<str>) {
        self.bar
            .set_message(format!("{}: {}", self.text, text.as_ref()));
    }

    fn say_plainly(&mut self) {
        let Some(last) = self.plain else { return };
        if last.elapsed() < PLAIN_INTERVAL {
            return;
        }
        self.plain = Some(Instant::now());
        let elapsed = duration(self.started.elapsed());
        match self.bar.length() {
            Some(total) if total > 0 => {
                let percent = self.bar.position() * 100 / total;
                let eta = left(self.bar.position(), Some(total), self.started.elapsed());
                eprintln!(
                    "    {}: {percent}% after {elapsed}, about {eta} left",
                    self.text
                );
            }
            _ => eprintln!("    {}: {elapsed}", self.text),
        }
    }

    /// Ends a task that succeeded and says how long it took.
    pub fn done(self) {
        let text = format!(
            "    {}: done in {}",
            self.text,
            duration(self.started.elapsed())
        );
        self.bar.finish_and_clear();
        eprintln!("{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How long the rest takes at the average speed so far.
///
/// The steps of a build differ so much in length that the speed of the last few says nothing.
fn left(position: u64, total: Option<u64>, elapsed: Duration) -> String {
    match total {
        Some(total) if position > 0 => {
            let rest = total.saturating_sub(position);
            // Counts of steps are far below the 2^52 that f64 holds exactly.
            duration(elapsed.mul_f64(rest as f64 / position as f64))
        }
        _ => "?".to_owned(),
    }
}

/// `75.3` seconds as `1m15s`; below a minute with one decimal.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds >= 60 {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    } else {
        format!("{:.1}s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(Duration::from_millis(1_540)), "1.5s");
        assert_eq!(duration(Duration::from_secs(75)), "1m15s");
        assert_eq!(duration(Duration::from_secs(3_600)), "60m00s");
    }

    #[test]
    fn the_rest_is_estimated_from_the_average() {
        let minute = Duration::from_secs(60);
        assert_eq!(left(25, Some(100), minute), "3m00s");
        assert_eq!(left(100, Some(100), minute), "0.0s");
        assert_eq!(left(0, Some(100), minute), "?");
        assert_eq!(left(5, None, minute), "?");
    }
}
