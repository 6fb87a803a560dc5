// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Handles of objects: a slot index and a generation in 32 bits, and the mmap offsets made of them.
//!
//! A handle that was given up names nothing until it repeats. A slot is reused after all other free slots, and then
//! under its next generation. So a handle repeats after at least [`GENERATIONS`]` - 1` new objects when all slots but
//! one are in use all the time, and after `(GENERATIONS - 1) * free` in general, where `free` is the least number of
//! slots that were free: 2^32 - 2^15 with none in use. An mmap offset has fewer bits: it repeats after at least
//! [`MMAP_GENERATIONS`]` - 1` new objects in the first case and 2^23 - 2^15 in the second.

/// Bits of a handle that hold the slot's index.
pub const INDEX_BITS: u32 = 15;
/// Most slots of one table.
pub const MAX_SLOTS: usize = 1 << INDEX_BITS;
/// Generations before a slot's handles repeat; 0 is left out.
pub const GENERATIONS: u32 = 1 << (32 - INDEX_BITS);
/// Bits of an mmap offset below the handle's part: one mapping reaches 1 TiB into its object.
pub const MMAP_SHIFT: u32 = 40;
/// Bits of the generation that fit into an mmap offset, which must stay a positive `loff_t`.
const MMAP_GENERATION_BITS: u32 = 63 - MMAP_SHIFT - INDEX_BITS;
/// Generations before a slot's mmap offsets repeat.
pub const MMAP_GENERATIONS: u32 = 1 << MMAP_GENERATION_BITS;

/// A handle's two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Place in the table.
    pub index: u32,
    /// Use of that place, never 0, so that 0 names nothing.
    pub generation: u32,
}

impl Handle {
    /// The number that user space sees.
    pub fn to_raw(self) -> u32 {
        (self.generation << INDEX_BITS) | self.index
    }

    /// Splits a number that user space gave.
    pub fn from_raw(raw: u32) -> Self {
        Self {
            index: raw & (MAX_SLOTS as u32 - 1),
            generation: raw >> INDEX_BITS,
        }
    }

    /// The generation after this one.
    pub fn next_generation(generation: u32) -> u32 {
        match (generation + 1) % GENERATIONS {
            0 => 1,
            next => next,
        }
    }

    /// The offset to pass to mmap(2).
    pub fn mmap_offset(self) -> u64 {
        let tag = u64::from(self.generation % MMAP_GENERATIONS);
        ((tag << INDEX_BITS) | u64::from(self.index)) << MMAP_SHIFT
    }
}

/// What an mmap offset names: a slot, a few bits of its generation, and a start in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapTarget {
    /// Place in the table.
    pub index: u32,
    tag: u64,
    /// Start in the object, in bytes.
    pub start: u64,
}

impl MmapTarget {
    /// Splits an offset that user space passed to mmap(2).
    pub fn from_offset(offset: u64) -> Self {
        let name = offset >> MMAP_SHIFT;
        Self {
            index: (name & (MAX_SLOTS as u64 - 1)) as u32,
            tag: (name >> INDEX_BITS) & (u64::from(MMAP_GENERATIONS) - 1),
            start: offset & ((1 << MMAP_SHIFT) - 1),
        }
    }

    /// Whether the offset was made for this generation, as far as its bits show.
    pub fn matches(&self, generation: u32) -> bool {
        u64::from(generation % MMAP_GENERATIONS) == self.tag
    }
}

/// What a free slot holds: the slot that was given up after it.
pub trait Links {
    /// The slot after a free one.
    fn next(&self, index: u32) -> Option<u32>;
    /// Sets it.
    fn set_next(&mut self, index: u32, next: Option<u32>);
}

/// The free slots of a table: the one that was given up first comes first, so that a handle stays unused as long as
/// possible.
#[derive(Debug, Default)]
pub struct FreeSlots {
    /// First and last.
    ends: Option<(u32, u32)>,
}

impl FreeSlots {
    /// None yet.
    pub const fn new() -> Self {
        Self { ends: None }
    }

    /// Adds a slot that was given up.
    pub fn give_up(&mut self, links: &mut impl Links, index: u32) {
        links.set_next(index, None);
        self.ends = match self.ends {
            Some((first, last)) => {
                links.set_next(last, Some(index));
                Some((first, index))
            }
            None => Some((index, index)),
        };
    }

    /// Takes the slot that was given up first.
    pub fn take(&mut self, links: &impl Links) -> Option<u32> {
        let (first, last) = self.ends?;
        self.ends = links.next(first).map(|next| (next, last));
        Some(first)
    }
}
