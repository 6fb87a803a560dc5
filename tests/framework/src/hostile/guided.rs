// SPDX-License-Identifier: MIT OR Apache-2.0

//! The hostile process, guided by coverage: its choices come from an input, and inputs that reach new code of the
//! driver are kept and mutated further.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::Plan;
use super::tables::Tables;
use super::thread::Thread;
use crate::kcov::Coverage;
use crate::pattern::Numbers;

/// Shortest and longest input that is made afresh.
const FRESH: (u64, u64) = (8, 160);
/// Longest input of all.
const LONGEST: usize = 512;
/// Inputs that are played on the same files: objects of one meet the next.
const TOGETHER: u64 = 48;

/// What to do, and for how long.
#[derive(Clone, Debug)]
pub struct Guided {
    /// Where the random choices start, and the address of an RDMA device.
    pub plan: Plan,
    /// How long.
    pub time: Duration,
    /// The known inputs.
    pub corpus: Vec<Vec<u64>>,
}

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Inputs that were played.
    pub played: u64,
    /// System calls.
    pub calls: u64,
    /// Places of the driver's code that were reached.
    pub places: usize,
    /// Of them, those that the known inputs reached.
    pub known: usize,
    /// Inputs that reached something new.
    pub fresh: usize,
    /// Milliseconds that it took.
    pub milliseconds: u64,
}

/// Plays, mutates and keeps inputs until the time is over; returns the new ones as well. Passes each input to `show`
/// before playing it, so that one that kills the kernel is known, and to `report` afterwards, with the places that it
/// reached.
///
/// # Errors
/// When the driver cannot be opened or the kernel does not show its coverage.
pub fn guided(
    guided: &Guided,
    mut show: impl FnMut(&[u64]),
    mut report: impl FnMut(&[u64], &HashSet<u64>),
) -> Result<(Seen, Vec<Vec<u64>>)> {
    let start = Instant::now();
    let mut numbers = Numbers::new(guided.plan.seed);
    let mut reached = HashSet::<u64>::new();
    let mut here = HashSet::new();
    let mut corpus = guided.corpus.clone();
    let mut fresh = Vec::new();
    let mut seen = Seen::default();
    let calls = AtomicU64::new(0);
    let mut replay = guided.corpus.iter();
    while start.elapsed() < guided.time || replay.len() > 0 {
        let tables = Tables::open()?;
        let coverage = Coverage::begin()?;
        let none = Numbers::new(numbers.next_u64());
        // Two endpoints to begin with.
        let mut thread = Thread::new(&guided.plan, &tables, &calls, none);
        thread.connect().context("the first connection")?;
        for _ in 0..TOGETHER {
            let known = replay.next();
            let input = match known {
                Some(input) => input.clone(),
                None => changed(&corpus, &mut numbers),
            };
            show(&input);
            coverage.forget();
            thread.numbers = Numbers::played(&input);
            while thread.numbers.is_playing() {
                thread.step()?;
            }
            here.clear();
            coverage.each(|place| {
                here.insert(place);
            });
            report(&input, &here);
            let before = reached.len();
            reached.extend(&here);
            seen.played += 1;
            if known.is_some() {
                seen.known = reached.len();
            } else if reached.len() > before {
                corpus.push(input.clone());
                fresh.push(input);
            }
            if start.elapsed() >= guided.time && replay.len() == 0 {
                break;
            }
        }
    }
    seen.calls = calls.into_inner();
    seen.places = reached.len();
    seen.fresh = fresh.len();
    seen.milliseconds = u64::try_from(start.elapsed().as_millis())?;
    Ok((seen, fresh))
}

/// A new input, or a changed one.
fn changed(corpus: &[Vec<u64>], numbers: &mut Numbers) -> Vec<u64> {
    if corpus.is_empty() || numbers.below(8) == 0 {
        let length = FRESH.0 + numbers.below(FRESH.1 - FRESH.0);
        return (0..length).map(|_| numbers.next_u64()).collect();
    }
    let any = |numbers: &mut Numbers| &corpus[numbers.below(corpus.len() as u64) as usize];
    let mut input = any(numbers).clone();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(input.len() as u64 + 1) as usize;
        match numbers.below(7) {
            0 => input.insert(at, numbers.next_u64()),
            1 if input.len() > 1 => drop(input.remove(at.min(input.len() - 1))),
            // What follows comes from another one.
            2 => {
                let other = any(numbers);
                let from = numbers.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend(&other[from..]);
            }
            3 => {
                let end = (at + 1 + numbers.below(8) as usize).min(input.len());
                let again: Vec<u64> = input[at.min(end)..end].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let last = input.len().saturating_sub(1);
                if let Some(word) = input.get_mut(at.min(last)) {
                    *word = match numbers.below(4) {
                        0 => *word ^ (1 << numbers.below(64)),
                        1 => word.wrapping_add(1),
                        2 => word.wrapping_sub(1),
                        _ => numbers.next_u64(),
                    };
                }
            }
        }
    }
    input.truncate(LONGEST);
    if input.is_empty() {
        input.push(numbers.next_u64());
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_inputs_are_never_empty_nor_too_long() {
        let mut numbers = Numbers::new(3);
        let mut corpus = vec![vec![1], vec![7; LONGEST]];
        for _ in 0..2000 {
            let input = changed(&corpus, &mut numbers);
            assert!((1..=LONGEST).contains(&input.len()), "{}", input.len());
            let place = numbers.below(2) as usize;
            corpus[place] = input;
        }
    }

    #[test]
    fn an_input_is_played_before_the_sequence() {
        let mut numbers = Numbers::played(&[5, 6]);
        assert!(numbers.is_playing());
        assert_eq!((numbers.next_u64(), numbers.next_u64()), (5, 6));
        assert!(!numbers.is_playing());
        let mut same = Numbers::played(&[5, 6]);
        let third = (0..3).map(|_| same.next_u64()).last();
        assert_eq!(Some(numbers.next_u64()), third);
    }
}
