// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Index arithmetic of the submission and completion rings.
//!
//! Indices run freely and wrap at 2^32; an entry's place is its index modulo the ring's size. The index that user space
//! writes is hostile: it is loaded once and used only by the functions below, which bound whatever it claims.

/// Smallest ring.
pub const MIN_ENTRIES: u32 = 1;
/// Largest ring.
pub const MAX_ENTRIES: u32 = 1 << 16;

/// A ring's indices make no sense: more entries are claimed than it has places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Whether a ring may have this size.
pub fn valid_entries(entries: u32) -> bool {
    entries.is_power_of_two() && (MIN_ENTRIES..=MAX_ENTRIES).contains(&entries)
}

/// Place of an index.
pub fn place(index: u32, entries: u32) -> u32 {
    index & (entries - 1)
}

/// Entries between a consumer's and a producer's index.
pub fn queued(head: u32, tail: u32, entries: u32) -> Result<u32, Corrupt> {
    let queued = tail.wrapping_sub(head);
    if queued > entries {
        return Err(Corrupt);
    }
    Ok(queued)
}

/// The kernel's side of a completion ring: how many completions may still be promised.
///
/// A slot is reserved when an entry is accepted and used when its completion is written, so that
/// `posted - user_head + reserved <= entries` as long as the user moves its head honestly. A user
/// that lies about its head overwrites its own completions and nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slots {
    /// One past the last completion written.
    tail: u32,
    /// Accepted entries whose completion is still to come.
    reserved: u32,
}

impl Slots {
    /// Index of the next completion.
    pub fn tail(&self) -> u32 {
        self.tail
    }

    /// Accepted entries whose completion is still to come.
    pub fn reserved(&self) -> u32 {
        self.reserved
    }

    /// Completions that wait for the user.
    pub fn waiting(&self, user_head: u32, entries: u32) -> Result<u32, Corrupt> {
        queued(user_head, self.tail, entries)
    }

    /// Reserves a slot; false when none is free.
    pub fn reserve(&mut self, user_head: u32, entries: u32) -> Result<bool, Corrupt> {
        let waiting = self.waiting(user_head, entries)?;
        if waiting + self.reserved >= entries {
            return Ok(false);
        }
        self.reserved += 1;
        Ok(true)
    }

    /// Turns a reservation into a completion and returns the index to write it at.
    pub fn post(&mut self) -> u32 {
        debug_assert!(self.reserved > 0, "a completion without a reservation");
        self.reserved = self.reserved.saturating_sub(1);
        let index = self.tail;
        self.tail = index.wrapping_add(1);
        index
    }
}
