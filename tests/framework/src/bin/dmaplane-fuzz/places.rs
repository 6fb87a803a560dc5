// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which places of the driver's code each input reaches, for whoever chooses among inputs.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

/// Places by input. They are numbered in the order of their first use: addresses are longer, and differ after each
/// boot.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Places {
    inputs: BTreeMap<String, Vec<u32>>,
    #[serde(skip)]
    numbers: HashMap<u64, u32>,
}

impl Places {
    /// Notes what an input has reached.
    pub(crate) fn add(&mut self, input: String, reached: &HashSet<u64>) {
        let mut places = Vec::with_capacity(reached.len());
        for address in reached {
            let next = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
            places.push(*self.numbers.entry(*address).or_insert(next));
        }
        places.sort_unstable();
        self.inputs.insert(input, places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_has_the_same_number_in_all_inputs() {
        let mut places = Places::default();
        places.add("a".to_owned(), &HashSet::from([0xffff_ffff_c000_1000]));
        places.add(
            "b".to_owned(),
            &HashSet::from([0xffff_ffff_c000_1000, 0xffff_ffff_c000_2000]),
        );
        let text = serde_json::to_string(&places).unwrap();
        assert_eq!(text, r#"{"a":[0],"b":[0,1]}"#);
    }
}
