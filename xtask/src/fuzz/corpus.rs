// SPDX-License-Identifier: MIT OR Apache-2.0
//! Selects the inputs of the corpus of system calls: those that reach most, and so few that a run can begin with all of
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The most inputs that are kept, and the most bytes of one.
const KEPT: usize = 256;
const BYTES: u64 = 2048;
/// The file that the guest leaves; tests/framework/src/bin/dmaplane-fuzz/places.rs writes it.
const PLACES: &str = "places.json";

/// The places of the driver's code that each input reaches, by its file's name. The numbers are valid within one run
/// only.
type Places = BTreeMap<String, Vec<u32>>;

/// What changes in the corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Changes {
    /// Inputs that were added.
    pub(super) added: Vec<String>,
    /// Inputs that were removed.
    pub(super) removed: Vec<String>,
}

/// Adds what a guest found to the corpus.
pub(super) fn save(share: &Path, corpus: &Path) -> Result<Changes> {
    let text = fs::read_to_string(share.join(PLACES))
        .context("the guest did not leave which places its inputs reach")?;
    let places: Places = serde_json::from_str(&text).context(PLACES)?;
    let known = inputs(corpus)?.into_keys().collect();
    let fresh = inputs(share)?.into_iter();
    let fresh = fresh.filter(|(name, bytes)| name != "last.input" && *bytes <= BYTES);
    let changes = choose(&places, &known, fresh.map(|(name, _)| name).collect(), KEPT);
    for name in &changes.added {
        fs::copy(share.join(name), corpus.join(name)).with_context(|| name.clone())?;
    }
    for name in &changes.removed {
        fs::remove_file(corpus.join(name)).with_context(|| name.clone())?;
    }
    Ok(changes)
}

/// The inputs in a folder, and how long each is.
fn inputs(folder: &Path) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".input") {
            found.insert(name, entry.metadata()?.len());
        }
    }
    Ok(found)
}

/// Adds inputs that reach places which no kept input reaches, starting with those that reach most. If there is no room,
/// the new input replaces one that alone reaches fewer places than the new one adds, in most cases none: the set of all
/// reached places only ever grows.
fn choose(places: &Places, known: &BTreeSet<String>, fresh: Vec<String>, most: usize) -> Changes {
    let mut kept = Kept::new(places);
    for name in known {
        kept.add(name);
    }
    while kept.names.len() > most
        && let Some((_, name)) = kept.least()
    {
        kept.remove(&name);
    }
    let mut left: Vec<_> = fresh
        .into_iter()
        .filter(|name| !known.contains(name))
        .collect();
    loop {
        left.retain(|name| kept.gain(name) > 0);
        let Some(best) = (0..left.len()).max_by_key(|index| kept.gain(&left[*index])) else {
            break;
        };
        let name = left.swap_remove(best);
        let gain = kept.gain(&name);
        kept.add(&name);
        if kept.names.len() > most {
            let least = kept.least().filter(|(own, _)| *own < gain);
            kept.remove(&least.map_or(name, |(_, other)| other));
        }
    }
    Changes {
        added: kept.names.difference(known).cloned().collect(),
        removed: known.difference(&kept.names).cloned().collect(),
    }
}

/// Inputs that stay, and how many of them reach each place.
struct Kept<'a> {
    places: &'a Places,
    names: BTreeSet<String>,
    reaching: Vec<u32>,
}

impl<'a> Kept<'a> {
    fn new(places: &'a Places) -> Self {
        let last = places.values().flatten().max();
        Self {
            places,
            names: BTreeSet::new(),
            reaching: vec![0; last.map_or(0, |last| *last as usize + 1)],
        }
    }

    fn of(&self, name: &str) -> &'a [u32] {
        self.places.get(name).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, name: &str) {
        if self.names.insert(name.to_owned()) {
            for place in self.of(name) {
                self.reaching[*place as usize] += 1;
            }
        }
    }

    fn remove(&mut self, name: &str) {
        if self.names.remove(name) {
            for place in self.of(name) {
                self.reaching[*place as usize] -= 1;
            }
        }
    }

    /// How many of an input's places exactly `count` kept inputs reach.
    fn reached_by(&self, count: u32, name: &str) -> usize {
        let reached = |place: &&u32| self.reaching[**place as usize] == count;
        self.of(name).iter().filter(reached).count()
    }

    /// How many places an input adds.
    fn gain(&self, name: &str) -> usize {
        self.reached_by(0, name)
    }

    /// The input whose removal loses least, and how many places only it reaches. One whose places are not known stays.
    fn least(&self) -> Option<(usize, String)> {
        let seen = |name: &&String| self.places.contains_key(*name);
        let own = |name: &String| (self.reached_by(1, name), name.clone());
        self.names.iter().filter(seen).map(own).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(inputs: &[(&str, &[u32])]) -> Places {
        let inputs = inputs.iter();
        inputs
            .map(|(name, places)| ((*name).to_owned(), places.to_vec()))
            .collect()
    }

    fn chosen(places: &Places, known: &[&str], most: usize) -> Changes {
        let known: BTreeSet<_> = known.iter().map(|name| (*name).to_owned()).collect();
        let fresh = places.keys().filter(|name| !known.contains(*name));
        choose(places, &known, fresh.cloned().collect(), most)
    }

    fn changes(added: &[&str], removed: &[&str]) -> Changes {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Changes {
            added: owned(added),
            removed: owned(removed),
        }
    }

    #[test]
    fn only_what_reaches_something_new_is_added() {
        let places = places(&[
            ("known", &[1, 2]),
            ("same", &[1, 2]),
            ("less", &[3]),
            ("more", &[2, 3, 4]),
        ]);
        // What `less` reaches, `more` does too.
        assert_eq!(chosen(&places, &["known"], 9), changes(&["more"], &[]));
        assert_eq!(chosen(&places, &["known", "more"], 9), Changes::default());
    }

    #[test]
    fn when_full_an_input_goes_whose_places_the_others_reach() {
        let places = places(&[
            ("a", &[1, 2]),
            ("b", &[2, 3]),
            ("c", &[3, 5]),
            ("new", &[3, 4]),
        ]);
        let wanted = changes(&["new"], &["b"]);
        assert_eq!(chosen(&places, &["a", "b", "c"], 3), wanted);
    }

    #[test]
    fn when_full_nothing_goes_that_would_be_missed_as_much() {
        let inputs: &[(&str, &[u32])] = &[("a", &[1]), ("b", &[2]), ("new", &[3])];
        assert_eq!(chosen(&places(inputs), &["a", "b"], 2), Changes::default());
        let inputs: &[(&str, &[u32])] = &[("a", &[1]), ("b", &[2, 5]), ("new", &[3, 4])];
        let wanted = changes(&["new"], &["a"]);
        assert_eq!(chosen(&places(inputs), &["a", "b"], 2), wanted);
    }

    #[test]
    fn a_corpus_of_too_many_shrinks_by_what_is_missed_least() {
        let places = places(&[("a", &[1, 2]), ("b", &[2]), ("c", &[3])]);
        assert_eq!(chosen(&places, &["a", "b", "c"], 2), changes(&[], &["b"]));
        // An input that was not played may reach anything.
        let known = ["a", "b", "unknown"];
        assert_eq!(chosen(&places, &known, 1), changes(&[], &["a", "b"]));
    }

    #[test]
    fn what_is_reached_in_all_never_shrinks() {
        // Reproducible random data: a corpus that is full, and as many new inputs again.
        let mut state = 1u64;
        let mut below = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % bound
        };
        for round in 0..50 {
            let inputs: Places = (0..40)
                .map(|index| {
                    let count = 1 + below(12);
                    let places: BTreeSet<_> = (0..count).map(|_| below(120) as u32).collect();
                    (format!("{index:02}"), places.into_iter().collect())
                })
                .collect();
            let known: BTreeSet<_> = inputs.keys().take(20).cloned().collect();
            let fresh = inputs.keys().skip(20).cloned().collect();
            let changes = choose(&inputs, &known, fresh, 20);
            let mut after = known.clone();
            after.retain(|name| !changes.removed.contains(name));
            after.extend(changes.added.iter().cloned());
            let reach = |names: &BTreeSet<String>| {
                let all = names.iter().flat_map(|name| &inputs[name]);
                all.collect::<BTreeSet<_>>().len()
            };
            assert_eq!(after.len(), 20, "round {round}");
            assert!(reach(&after) > reach(&known), "round {round}: {changes:?}");
        }
    }

    #[test]
    fn short_inputs_are_saved_and_last_input_is_not() {
        let share = tempfile::tempdir().unwrap();
        let corpus = tempfile::tempdir().unwrap();
        assert!(save(share.path(), corpus.path()).is_err());
        for (name, bytes) in [
            ("a.input", 8),
            ("b.input", 4096),
            ("last.input", 8),
            ("x.json", 8),
        ] {
            fs::write(share.path().join(name), vec![0; bytes]).unwrap();
        }
        let names = ["a.input", "b.input", "last.input"];
        let places: Places = names.map(|name| (name.to_owned(), vec![0, 7])).into();
        let text = serde_json::to_string(&places).unwrap();
        fs::write(share.path().join(PLACES), text).unwrap();
        let saved = save(share.path(), corpus.path()).unwrap();
        assert_eq!(saved, changes(&["a.input"], &[]));
        assert!(corpus.path().join("a.input").exists());
        assert_eq!(
            save(share.path(), corpus.path()).unwrap(),
            Changes::default()
        );
    }
}
