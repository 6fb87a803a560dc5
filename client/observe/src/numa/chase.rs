// SPDX-License-Identifier: MIT OR Apache-2.0

//! A chain of dependent loads: it measures memory latency without the help of prefetching.

/// Bytes from one place of the chain to the next: a cache line, and its neighbour that is fetched with it.
const STRIDE: usize = 128;

/// Links all places of the memory into one ring in an unpredictable order. Returns the number of places.
pub(super) fn link(memory: &mut [u8], seed: u64) -> usize {
    let places = memory.len() / STRIDE;
    let mut order: Vec<u32> = (0..u32::try_from(places).unwrap_or(u32::MAX)).collect();
    let mut state = seed | 1;
    let mut below = |bound: usize| {
        // Marsaglia's xorshift64*: quick, and good enough to outwit a prefetcher.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    };
    // Sattolo's shuffle gives one ring, never several.
    for at in (1..order.len()).rev() {
        order.swap(at, below(at));
    }
    for (at, next) in order.iter().enumerate() {
        memory[at * STRIDE..at * STRIDE + 4].copy_from_slice(&next.to_ne_bytes());
    }
    order.len()
}

/// Follows the ring for `steps` steps from a place, and returns where it ends.
pub(super) fn follow(memory: &[u8], from: u32, steps: u64) -> u32 {
    let mut at = from;
    for _ in 0..steps {
        let start = at as usize * STRIDE;
        let mut next = [0; 4];
        next.copy_from_slice(&memory[start..start + 4]);
        at = u32::from_ne_bytes(next);
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_visits_every_place_once() {
        let mut memory = vec![0; 1000 * STRIDE];
        let places = link(&mut memory, 7);
        assert_eq!(places, 1000);
        let mut seen = vec![false; places];
        let mut at = 0;
        for _ in 0..places {
            assert!(!seen[at as usize], "place {at} comes twice");
            seen[at as usize] = true;
            at = follow(&memory, at, 1);
        }
        assert_eq!(at, 0);
        assert_eq!(follow(&memory, 5, places as u64), 5);
    }
}
