// SPDX-License-Identifier: MIT OR Apache-2.0

//! A channel of a scenario, and how the operations ended that it took.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dmaplane::{Channel, Completion, Entry, Errno, Field, State};
use dmaplane_testkit::{ErrorContext as _, Result, anyhow, ensure};

use super::LOOK;

/// Fails unless an operation ended as one without a time limit may. A cancel may report that it ended nothing. With
/// `late`, the objects that an entry names may be destroyed before the entry is taken.
fn ended_as_documented(what: &str, done: &Completion, late: bool) -> Result<()> {
    let Err(error) = done.result() else {
        return Ok(());
    };
    let unfound = [Errno::NOENT, Errno::BUSY].contains(&error.errno());
    if what == "cancel" && error.state() == State::Error && unfound {
        return Ok(());
    }
    let named = [Field::Endpoint, Field::Buffer, Field::Grant].contains(&error.field());
    if late && named && error.errno() == Errno::NOENT {
        return Ok(());
    }
    let errnos: &[Errno] = match error.state() {
        State::Error => &[Errno::NOMEM, Errno::IO, Errno::PROTO, Errno::ACCESS],
        State::Canceled => &[Errno::CANCELED],
        State::Revoked => &[Errno::ACCESS],
        State::PeerDead => &[
            Errno::CONNRESET,
            Errno::OWNERDEAD,
            Errno::TIMEDOUT,
            Errno::NODEV,
        ],
        _ => &[],
    };
    let known = error.field() == Field::None && errnos.contains(&error.errno());
    ensure!(known, "an end that is not documented: {done:?}");
    Ok(())
}

/// A channel and the names of what was pushed into it.
pub(super) struct CompletionLog {
    pub(super) channel: Channel,
    open: HashMap<u64, &'static str>,
    pub(super) ended: HashMap<&'static str, Completion>,
    next: u64,
    late: bool,
}

impl CompletionLog {
    /// A log of entries that a system call takes, or, with `late`, a kernel thread.
    pub(super) fn new(channel: Channel, late: bool) -> Self {
        Self {
            channel,
            open: HashMap::new(),
            ended: HashMap::new(),
            next: 1,
            late,
        }
    }

    pub(super) fn push(&mut self, what: &'static str, entry: Entry) -> Result<()> {
        self.channel.push(entry.user_data(self.next))?;
        self.open.insert(self.next, what);
        self.next += 1;
        Ok(())
    }

    pub(super) fn take(&mut self) -> Result<()> {
        let done: Vec<Completion> = self.channel.completions().collect();
        for done in done {
            let what = self.open.remove(&done.user_data());
            let what = what.ok_or_else(|| anyhow!("a second or a wrong completion: {done:?}"))?;
            ended_as_documented(what, &done, self.late).context(what)?;
            self.ended.insert(what, done);
        }
        Ok(())
    }

    /// Waits for the operations that are left, which end by themselves.
    pub(super) fn finish(&mut self, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            self.take()?;
            if self.open.is_empty() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < limit,
                "no completion after {limit:?}: {:?}, ended: {:?}",
                self.open,
                self.ended
            );
            self.channel.submit_and_wait(1, LOOK)?;
        }
    }

    pub(super) fn was_ok(&self, what: &str) -> bool {
        self.ended.get(what).is_some_and(Completion::is_ok)
    }
}
