// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Names of objects: a slot index and a generation in 32 bits, and the mmap offsets made of them.

/// Bits of a handle that hold the slot's index.
pub const INDEX_BITS: u32 = 20;
/// Most slots of one table.
pub const MAX_SLOTS: usize = 1 << INDEX_BITS;
/// Generations before a slot's names repeat.
pub const GENERATIONS: u16 = 1 << (32 - INDEX_BITS);
/// Bits of an mmap offset below the handle's part: one mapping reaches 1 TiB into its object.
pub const MMAP_SHIFT: u32 = 40;
/// Bits of the generation that fit into an mmap offset, which must stay a positive `loff_t`.
const MMAP_GENERATION_BITS: u32 = 63 - MMAP_SHIFT - INDEX_BITS;

/// A handle's two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// Place in the table.
    pub index: u32,
    /// Use of that place, never 0, so that 0 names nothing.
    pub generation: u16,
}

impl Handle {
    /// The number that user space sees.
    pub fn to_raw(self) -> u32 {
        (u32::from(self.generation) << INDEX_BITS) | self.index
    }

    /// Takes a number apart that user space gave.
    pub fn from_raw(raw: u32) -> Self {
        Self {
            index: raw & (MAX_SLOTS as u32 - 1),
            generation: (raw >> INDEX_BITS) as u16,
        }
    }

    /// The generation after this one.
    pub fn next_generation(generation: u16) -> u16 {
        match (generation + 1) % GENERATIONS {
            0 => 1,
            next => next,
        }
    }

    /// The offset to pass to mmap(2).
    pub fn mmap_offset(self) -> u64 {
        let tag = u64::from(self.generation) & ((1 << MMAP_GENERATION_BITS) - 1);
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
    /// Takes an offset apart that user space passed to mmap(2).
    pub fn from_offset(offset: u64) -> Self {
        let name = offset >> MMAP_SHIFT;
        Self {
            index: (name & (MAX_SLOTS as u64 - 1)) as u32,
            tag: (name >> INDEX_BITS) & ((1 << MMAP_GENERATION_BITS) - 1),
            start: offset & ((1 << MMAP_SHIFT) - 1),
        }
    }

    /// Whether the offset was made for this generation, as far as its bits tell.
    pub fn matches(&self, generation: u16) -> bool {
        u64::from(generation) & ((1 << MMAP_GENERATION_BITS) - 1) == self.tag
    }
}
