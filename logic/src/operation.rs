// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The life of one operation: from acceptance to its one terminal state.
//!
//! ```text
//!             post()                finish()
//!   Queued ───────────► Posted ───────────────► Ended
//!     │  ◄─────────────   │ ask() notes the end
//!     │      unpost()     ▼ and has the endpoint flushed
//!     └──────────────────────────────────────► Ended
//!            ask(), cut()
//! ```
//! Its endpoint's lock makes each of these steps atomic. Therefore:
//! - exactly one of [`Operation::ask`] (as [`Ask::Now`]), [`Operation::cut`] and [`Operation::finish`]
//!   gives the terminal state, because each of them needs a stage that it leaves for good;
//! - no terminal state is given while the provider has the operation: from `Posted` only
//!   [`Operation::finish`] leads on, which is called when the provider has given it back.

use super::outcome::{errno, Completion, Down, Outcome, State};

/// Why an operation is ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its owner canceled it.
    Canceled,
    /// Its time limit passed: an operation's time limit (not a grant's time to live).
    Expired,
    /// The memory that it uses is taken away.
    Revoked,
}

impl End {
    /// The terminal state of an operation that is ended for this reason.
    pub fn outcome(self) -> Outcome {
        match self {
            End::Canceled => Outcome {
                state: State::Canceled,
                errno: errno::ECANCELED,
            },
            End::Expired => Outcome {
                state: State::Timeout,
                errno: errno::ETIMEDOUT,
            },
            End::Revoked => Outcome {
                state: State::Revoked,
                errno: errno::ESTALE,
            },
        }
    }

    /// The cause of the endpoint's end, where only that can end the operation.
    pub fn cause(self) -> Down {
        match self {
            End::Canceled => Down::Canceled,
            End::Expired => Down::Expired,
            End::Revoked => Down::Revoked,
        }
    }
}

/// What the caller of [`Operation::ask`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// It was queued and has ended: take it out and complete it with the end's outcome.
    Now,
    /// The provider has it: the endpoint must be flushed, and its completion will come.
    Flush,
    /// It has ended, or another end was asked for before.
    Late,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The driver has it.
    Queued,
    /// The provider has it.
    Posted,
    /// It has its terminal state.
    Ended,
}

/// One operation. Its endpoint's lock protects it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    stage: Stage,
    end: Option<End>,
}

impl Default for Operation {
    fn default() -> Self {
        Self::new()
    }
}

impl Operation {
    /// An operation that was just accepted.
    pub const fn new() -> Self {
        Self {
            stage: Stage::Queued,
            end: None,
        }
    }

    /// Marks it as handed to the provider; false when it is not queued.
    #[must_use]
    pub fn post(&mut self) -> bool {
        if self.stage != Stage::Queued {
            return false;
        }
        self.stage = Stage::Posted;
        true
    }

    /// Marks it as queued again: the provider has refused it.
    pub fn unpost(&mut self) {
        if self.stage == Stage::Posted {
            self.stage = Stage::Queued;
        }
    }

    /// Asks for an end before its time. The first end that is asked for counts.
    #[must_use]
    pub fn ask(&mut self, end: End) -> Ask {
        match self.stage {
            Stage::Queued => {
                self.stage = Stage::Ended;
                Ask::Now
            }
            Stage::Posted if self.end.is_none() => {
                self.end = Some(end);
                Ask::Flush
            }
            Stage::Posted | Stage::Ended => Ask::Late,
        }
    }

    /// Ends a queued operation with its endpoint. `None` when it is not queued.
    #[must_use]
    pub fn cut(&mut self, outcome: Outcome) -> Option<Outcome> {
        if self.stage != Stage::Queued {
            return None;
        }
        self.stage = Stage::Ended;
        Some(outcome)
    }

    /// Ends an operation that the provider has given back; returns its terminal state. An end that was asked for
    /// decides, unless the provider was faster. `None` when the provider did not have it.
    #[must_use]
    pub fn finish(
        &mut self,
        completion: Completion,
        down: Option<Down>,
        revoked: bool,
    ) -> Option<Outcome> {
        if self.stage != Stage::Posted {
            return None;
        }
        self.stage = Stage::Ended;
        Some(match (completion, self.end) {
            (Completion::Success, _) | (_, None) => completion.outcome(down, revoked),
            (_, Some(end)) => end.outcome(),
        })
    }
}
