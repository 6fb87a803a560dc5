// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The life of memory that may be revoked: as its users see it, and as the revoker does.
//!
//! ```text
//!  enter(), leave()      leave()
//!      ┌──┐               ┌──┐
//!      │  ▼    begin()    │  ▼       end(), without users
//!      Live ───────────► Revoking ───────────► Revoked
//! ```
//! All of it is one word, so that each step is one atomic compare and exchange. Therefore:
//! - nobody enters once a revocation has begun, because the same word says both;
//! - exactly one caller begins, and only it ends;
//! - a revocation ends only when all have left, and the last user to leave learns that it is the last: it wakes the
//!   revoker.

/// Set from the beginning of the revocation on.
const BEGUN: u32 = 1 << 31;
/// Set when it is over.
const ENDED: u32 = 1 << 30;
/// Users.
const USERS: u32 = ENDED - 1;

/// The word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(u32);

/// Where memory is in its life. It only ever moves downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In use.
    Live,
    /// It is being revoked: current users may finish, nobody enters.
    Revoking,
    /// Nobody uses it, and nobody will.
    Revoked,
}

/// Why nobody entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// A revocation has begun.
    Revoked,
    /// There are as many users as can be counted.
    Full,
}

impl Life {
    /// Live, without users.
    pub const fn new() -> Self {
        Self(0)
    }

    /// What an atomic held.
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// For the atomic.
    pub const fn word(self) -> u32 {
        self.0
    }

    /// Where it is.
    pub const fn stage(self) -> Stage {
        if self.0 & ENDED != 0 {
            Stage::Revoked
        } else if self.0 & BEGUN != 0 {
            Stage::Revoking
        } else {
            Stage::Live
        }
    }

    /// Current users.
    pub const fn users(self) -> u32 {
        self.0 & USERS
    }

    /// One more user, unless it is too late.
    pub const fn enter(self) -> Result<Self, Closed> {
        if self.0 & BEGUN != 0 {
            return Err(Closed::Revoked);
        }
        if self.users() == USERS {
            return Err(Closed::Full);
        }
        Ok(Self(self.0 + 1))
    }

    /// One user fewer; true when it was the last one and a revoker waits for that. Without users, nothing changes.
    pub const fn leave(self) -> (Self, bool) {
        if self.users() == 0 {
            return (self, false);
        }
        let after = Self(self.0 - 1);
        (after, after.users() == 0 && self.0 & BEGUN != 0)
    }

    /// Begins the revocation; `None` when somebody has begun it already.
    pub const fn begin(self) -> Option<Self> {
        if self.0 & BEGUN != 0 {
            return None;
        }
        Some(Self(self.0 | BEGUN))
    }

    /// Ends the revocation; `None` when none is under way, or there are still users.
    pub const fn end(self) -> Option<Self> {
        if !matches!(self.stage(), Stage::Revoking) || self.users() != 0 {
            return None;
        }
        Some(Self(self.0 | ENDED))
    }
}
