// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A buddy allocator over a row of blocks of equal size.
//!
//! What is taken is a run of a power of two of blocks ("of class n": 2^n blocks), aligned to its own length. Taking
//! and giving back cost at most one step for each class, whatever the row's length and history.

use core::ops::DerefMut;

/// Most classes: runs of up to 2^31 blocks.
pub const CLASSES: usize = 32;

const NONE: u32 = u32::MAX;

/// The state of one block. Only that of a run's first block means anything.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Neighbours in the list of free runs of its class.
    next: u32,
    previous: u32,
    run: Run,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    /// Not the first block of a run.
    Inside,
    Free(u8),
    Taken(u8),
}

impl Block {
    /// What new storage is filled with.
    pub const NEW: Self = Self {
        next: NONE,
        previous: NONE,
        run: Run::Inside,
    };
}

/// The allocator, with its storage: one [`Block`] for each block.
///
/// # Invariants
///
/// Free and taken runs cover the row without overlap. Two free runs that could be merged are never beside each other.
/// `waiting` has the bit of each class whose list is not empty.
#[derive(Debug)]
pub struct Buddy<S> {
    blocks: S,
    heads: [u32; CLASSES],
    waiting: u32,
    free: usize,
    taken_runs: usize,
}

impl<S: DerefMut<Target = [Block]>> Buddy<S> {
    /// All blocks free, over storage that is filled with [`Block::NEW`]. `None` for more blocks than an index can name.
    pub fn new(blocks: S) -> Option<Self> {
        let count = blocks.len();
        if count >= NONE as usize {
            return None;
        }
        let mut buddy = Self {
            blocks,
            heads: [NONE; CLASSES],
            waiting: 0,
            free: 0,
            taken_runs: 0,
        };
        // From the left, each time the longest run that is aligned and fits.
        let mut at = 0;
        while at < count {
            // Block 0 is aligned to everything; its trailing zeros are as many as the type has.
            let fits = (count - at).checked_ilog2()?;
            let class = fits.min(at.trailing_zeros());
            buddy.put(at as u32, class as u8);
            at += 1 << class;
        }
        buddy.free = count;
        Some(buddy)
    }

    /// The storage.
    pub fn storage(&self) -> &S {
        &self.blocks
    }

    /// Blocks that are free.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Runs that are taken.
    pub fn taken_runs(&self) -> usize {
        self.taken_runs
    }

    /// Blocks of the longest run that could be taken now.
    pub fn longest(&self) -> usize {
        self.waiting.checked_ilog2().map_or(0, |class| 1 << class)
    }

    /// Class of the shortest run with at least so many blocks.
    pub fn class_of(blocks: usize) -> Option<u8> {
        let class = blocks.checked_next_power_of_two()?.checked_ilog2()?;
        ((class as usize) < CLASSES).then_some(class as u8)
    }

    /// Takes a run and returns its first block. `None` when no run is long enough.
    pub fn take(&mut self, class: u8) -> Option<u32> {
        let fitting = self.waiting & u32::MAX.checked_shl(class.into())?;
        if fitting == 0 {
            return None;
        }
        let mut have = fitting.trailing_zeros() as u8;
        let first = self.pop(have)?;
        // The upper halves go back.
        while have > class {
            have -= 1;
            self.put(first + (1 << have), have);
        }
        self.blocks.get_mut(first as usize)?.run = Run::Taken(class);
        self.free -= 1 << class;
        self.taken_runs += 1;
        Some(first)
    }

    /// Gives a run back. False, and without effect, when no taken run begins there.
    pub fn give(&mut self, first: u32) -> bool {
        let Some(Block {
            run: Run::Taken(class),
            ..
        }) = self.blocks.get(first as usize).copied()
        else {
            return false;
        };
        self.free += 1 << class;
        self.taken_runs -= 1;
        let (mut first, mut class) = (first, class);
        self.set(first, Run::Inside);
        while (class as usize) < CLASSES - 1 {
            let other = first ^ (1 << class);
            let is_free = |block: &Block| block.run == Run::Free(class);
            if !self.blocks.get(other as usize).is_some_and(is_free) {
                break;
            }
            self.unlink(other, class);
            first = first.min(other);
            class += 1;
        }
        self.put(first, class);
        true
    }

    fn set(&mut self, at: u32, run: Run) {
        if let Some(block) = self.blocks.get_mut(at as usize) {
            block.run = run;
        }
    }

    fn head(&self, class: u8) -> u32 {
        self.heads.get(class as usize).copied().unwrap_or(NONE)
    }

    fn set_head(&mut self, class: u8, to: u32) {
        if let Some(head) = self.heads.get_mut(class as usize) {
            *head = to;
        }
        let bit = 1u32.checked_shl(class.into()).unwrap_or(0);
        if to == NONE {
            self.waiting &= !bit;
        } else {
            self.waiting |= bit;
        }
    }

    /// Adds a free run to the list of its class.
    fn put(&mut self, first: u32, class: u8) {
        let next = self.head(class);
        if let Some(block) = self.blocks.get_mut(first as usize) {
            *block = Block {
                next,
                previous: NONE,
                run: Run::Free(class),
            };
        }
        if let Some(block) = self.blocks.get_mut(next as usize) {
            block.previous = first;
        }
        self.set_head(class, first);
    }

    fn pop(&mut self, class: u8) -> Option<u32> {
        let first = self.head(class);
        self.blocks.get(first as usize)?;
        self.unlink(first, class);
        Some(first)
    }

    fn unlink(&mut self, at: u32, class: u8) {
        let Some(block) = self.blocks.get_mut(at as usize) else {
            return;
        };
        let Block { next, previous, .. } = *block;
        *block = Block::NEW;
        if let Some(block) = self.blocks.get_mut(next as usize) {
            block.previous = previous;
        }
        match self.blocks.get_mut(previous as usize) {
            Some(block) => block.next = next,
            None => self.set_head(class, next),
        }
    }
}
