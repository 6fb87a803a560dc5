// SPDX-License-Identifier: MIT OR Apache-2.0

//! Data whose bytes depend on a seed and on their position, so that a misplaced, missing or stale
//! chunk shows.

use dmaplane::{Buffer, Mapping};

/// Bytes that are handled at a time.
const PIECE: usize = 64 << 10;

/// A reproducible sequence of 64-bit numbers (splitmix64), behind chosen ones if wanted.
#[derive(Clone, Debug)]
pub struct Numbers {
    seed: u64,
    /// What comes first, the next one last.
    input: Vec<u64>,
}

impl Numbers {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            input: Vec::new(),
        }
    }

    /// These numbers, and then the sequence of a seed that follows from them.
    pub fn played(input: &[u64]) -> Self {
        let seed = input.iter().fold(0, |seed, word| mix(seed ^ word));
        Self {
            seed,
            input: input.iter().rev().copied().collect(),
        }
    }

    /// Whether chosen numbers are left.
    pub fn is_playing(&self) -> bool {
        !self.input.is_empty()
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        if let Some(next) = self.input.pop() {
            return next;
        }
        self.seed = self.seed.wrapping_add(GOLDEN);
        mix(self.seed)
    }

    /// A number below `bound`, which is not 0. The bias is irrelevant for tests.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// 0 to `count - 1` in random order.
    pub fn shuffled(&mut self, count: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count).collect();
        for last in (1..order.len()).rev() {
            let other = usize::try_from(self.below(last as u64 + 1)).unwrap_or(0);
            order.swap(last, other);
        }
        order
    }
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn word(seed: u64, index: u64) -> [u8; 8] {
    mix(seed ^ index.wrapping_mul(GOLDEN)).to_le_bytes()
}

/// Fills `data` with what belongs at position `at`.
pub fn fill(seed: u64, at: u64, data: &mut [u8]) {
    let mut index = at / 8;
    let mut skip = (at % 8) as usize;
    let mut rest = data;
    while !rest.is_empty() {
        let bytes = &word(seed, index)[skip..];
        let count = bytes.len().min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&bytes[..count]);
        (rest, index, skip) = (later, index + 1, 0);
    }
}

/// Index of the first byte in `data` that does not belong at position `at` onwards.
pub fn mismatch(seed: u64, at: u64, data: &[u8]) -> Option<usize> {
    let mut wanted = vec![0; data.len()];
    fill(seed, at, &mut wanted);
    data.iter().zip(&wanted).position(|(a, b)| a != b)
}

/// Memory that can be filled and compared piece by piece.
pub trait Memory {
    /// Copies in.
    fn put(&self, offset: u64, data: &[u8]);
    /// Copies out.
    fn get(&self, offset: u64, to: &mut [u8]);
}

impl Memory for Buffer {
    fn put(&self, offset: u64, data: &[u8]) {
        self.write_at(offset, data);
    }

    fn get(&self, offset: u64, to: &mut [u8]) {
        self.read_at(offset, to);
    }
}

impl Memory for Mapping {
    fn put(&self, offset: u64, data: &[u8]) {
        self.write_at(offset, data);
    }

    fn get(&self, offset: u64, to: &mut [u8]) {
        self.read_at(offset, to);
    }
}

/// Fills a range of memory with what belongs at position `at` onwards.
pub fn fill_memory(memory: &impl Memory, offset: u64, length: u64, seed: u64, at: u64) {
    let mut piece = vec![0; PIECE];
    for (done, count) in pieces(length) {
        let piece = &mut piece[..count];
        fill(seed, at + done, piece);
        memory.put(offset + done, piece);
    }
}

/// Offset in the range of the first byte that is not what belongs at position `at` onwards.
pub fn mismatch_in_memory(
    memory: &impl Memory,
    offset: u64,
    length: u64,
    seed: u64,
    at: u64,
) -> Option<u64> {
    let mut piece = vec![0; PIECE];
    pieces(length).find_map(|(done, count)| {
        let piece = &mut piece[..count];
        memory.get(offset + done, piece);
        mismatch(seed, at + done, piece).map(|index| done + index as u64)
    })
}

/// Start and bytes of each piece of a range.
fn pieces(length: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..length).step_by(PIECE).map(move |done| {
        let left = usize::try_from(length - done).unwrap_or(usize::MAX);
        (done, left.min(PIECE))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_put_together_are_the_whole() {
        let mut whole = [0; 100];
        fill(7, 13, &mut whole);
        for cut in 0..100 {
            let mut parts = [0; 100];
            let (a, b) = parts.split_at_mut(cut);
            fill(7, 13, a);
            fill(7, 13 + cut as u64, b);
            assert_eq!(parts, whole, "cut at {cut}");
        }
        assert_eq!(mismatch(7, 13, &whole), None);
    }

    #[test]
    fn misplaced_and_stale_data_show() {
        let mut data = [0; 64];
        fill(7, 0, &mut data);
        assert!(mismatch(7, 8, &data).is_some_and(|at| at < 8));
        assert!(mismatch(8, 0, &data).is_some_and(|at| at < 8));
        data[40] ^= 1;
        assert_eq!(mismatch(7, 0, &data), Some(40));
    }

    #[test]
    fn pieces_cover_a_range_exactly() {
        assert_eq!(pieces(0).count(), 0);
        let all: Vec<_> = pieces(PIECE as u64 + 1).collect();
        assert_eq!(all, [(0, PIECE), (PIECE as u64, 1)]);
    }

    #[test]
    fn an_order_has_every_number_once() {
        let mut order = Numbers::new(3).shuffled(257);
        assert_ne!(order, (0..257).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..257).collect::<Vec<_>>());
    }
}
