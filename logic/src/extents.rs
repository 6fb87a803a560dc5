// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Ranges of a device's memory: which pages are taken, in a bitmap that the owner provides and locks.

use core::ops::DerefMut;

/// Pages of one word.
const WORD: usize = u64::BITS as usize;

/// Why a range was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is empty, or ends beyond the last page.
    Range,
    /// Some of it is taken.
    Taken,
}

/// Words that a bitmap for this many pages needs.
pub const fn words(pages: usize) -> usize {
    pages.div_ceil(WORD)
}

/// Pages of one zone. A set bit is a page that is taken; bits behind the last page do not count.
#[derive(Debug)]
pub struct Extents<W> {
    bits: W,
    pages: usize,
    free: usize,
}

impl<W: DerefMut<Target = [u64]>> Extents<W> {
    /// All free. `None` when the words, all zero, are fewer than [`words`] says.
    pub fn new(bits: W, pages: usize) -> Option<Self> {
        (bits.len() >= words(pages)).then_some(Self {
            bits,
            pages,
            free: pages,
        })
    }

    /// How many there are.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How many are free.
    pub fn free(&self) -> usize {
        self.free
    }

    fn is_taken(&self, page: usize) -> bool {
        let word = self.bits.get(page / WORD).copied();
        word.is_none_or(|word| word & (1 << (page % WORD)) != 0)
    }

    fn set(&mut self, first: usize, count: usize, taken: bool) {
        for page in first..first + count {
            if let Some(word) = self.bits.get_mut(page / WORD) {
                let bit = 1 << (page % WORD);
                *word = if taken { *word | bit } else { *word & !bit };
            }
        }
    }

    /// Whether a range lies within the zone.
    fn holds(&self, first: usize, count: usize) -> bool {
        let end = first.checked_add(count);
        count != 0 && end.is_some_and(|end| end <= self.pages)
    }

    /// Takes the lowest free range of `count` pages and returns where it begins.
    pub fn take(&mut self, count: usize) -> Option<usize> {
        if count == 0 || count > self.free {
            return None;
        }
        let (mut first, mut run) = (0, 0);
        let mut page = 0;
        while page < self.pages {
            if page % WORD == 0 && run == 0 {
                // Skips a full word at once.
                let full = self.bits.get(page / WORD) == Some(&u64::MAX);
                if full {
                    page += WORD;
                    continue;
                }
            }
            if self.is_taken(page) {
                run = 0;
            } else {
                if run == 0 {
                    first = page;
                }
                run += 1;
                if run == count {
                    self.set(first, count, true);
                    self.free -= count;
                    return Some(first);
                }
            }
            page += 1;
        }
        None
    }

    /// Takes a range that its user chose.
    pub fn take_at(&mut self, first: usize, count: usize) -> Result<(), Refused> {
        if !self.holds(first, count) {
            return Err(Refused::Range);
        }
        if (first..first + count).any(|page| self.is_taken(page)) {
            return Err(Refused::Taken);
        }
        self.set(first, count, true);
        self.free -= count;
        Ok(())
    }

    /// Gives back a range that was taken.
    pub fn give_back(&mut self, first: usize, count: usize) {
        if self.holds(first, count) {
            self.set(first, count, false);
            self.free += count;
        }
    }
}
