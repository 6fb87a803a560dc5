// SPDX-License-Identifier: MIT OR Apache-2.0
//! `vm/runs.toml`: which suites run in which guests. The command `test` and the workflows both come from it.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use dmaplane_vmtest::guest::vng::Runner;
use dmaplane_vmtest::kernel::Profile;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    run: Vec<Run>,
}

/// One run of guests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// A file of vm/topologies, without its extension.
    pub(crate) topology: String,
    /// Which kernel.
    pub(crate) profile: Profile,
    /// nextest's filter, where not all suites run.
    #[serde(default = "all")]
    pub(crate) tests: String,
    /// What boots the guests.
    #[serde(default)]
    pub(crate) runner: Runner,
    /// Whether it runs only where time does not matter, such as every night.
    #[serde(default, skip_serializing)]
    long: bool,
}

fn all() -> String {
    "all()".to_owned()
}

impl Run {
    /// `numa2 stock`, and the runner if it is not the usual one.
    pub(crate) fn title(&self) -> String {
        let title = format!("{} {}", self.topology, self.profile.name());
        match self.runner {
            Runner::Qemu => title,
            Runner::VirtmeNg => format!("{title} {}", self.runner.name()),
        }
    }
}

/// The rows of the table, in order; with `long`, all rows, and all suites in each. A row that virtme-ng boots always
/// runs the same few tests: they are about the booting.
///
/// # Errors
/// When the file is missing or malformed; the message says where.
pub(crate) fn load(root: &Path, long: bool) -> Result<Vec<Run>> {
    let path = root.join("vm/runs.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table =
        toml::from_str(&text).with_context(|| format!("{} is malformed", path.display()))?;
    Ok(select(table.run, long))
}

fn select(mut runs: Vec<Run>, long: bool) -> Vec<Run> {
    runs.retain(|run| long || !run.long);
    if long {
        for run in runs.iter_mut().filter(|run| run.runner == Runner::Qemu) {
            run.tests = all();
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmaplane_vmtest::guest::topology::Topology;

    fn root() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    #[test]
    fn every_topology_has_a_run_and_every_run_a_topology() {
        let runs = load(root(), false).unwrap();
        for topology in Topology::all(root()).unwrap() {
            assert!(runs.iter().any(|run| run.topology == topology.name));
        }
        for run in &runs {
            Topology::load(root(), &run.topology).unwrap();
        }
        // What the stock kernel cannot do has to run somewhere: all suites but those that are named. Those run on stock.
        let debug = |run: &&Run| run.profile == Profile::Debug;
        let row = runs.iter().find(debug).unwrap();
        assert!(row.tests.starts_with("not binary(/^(") && row.topology == "numa2");
        assert_eq!(runs[0].tests, "all()");
        assert_eq!(
            (runs[0].topology.as_str(), runs[0].profile),
            ("numa2", Profile::Stock)
        );
    }

    #[test]
    fn virtme_ng_boots_what_it_can_and_no_more_than_a_few_tests() {
        for long in [false, true] {
            let runs = load(root(), long).unwrap();
            let theirs: Vec<_> = runs
                .iter()
                .filter(|run| run.runner == Runner::VirtmeNg)
                .collect();
            assert!(!theirs.is_empty());
            for run in theirs {
                assert_ne!(run.tests, "all()");
                assert!(run.title().ends_with(" virtme-ng"));
                let topology = Topology::load(root(), &run.topology).unwrap();
                assert!(dmaplane_vmtest::guest::vng::lacking(&topology).is_none());
            }
        }
    }

    #[test]
    fn a_long_run_has_all_rows_and_all_suites() {
        let (short, long) = (load(root(), false).unwrap(), load(root(), true).unwrap());
        assert!(short.len() < long.len());
        let mut ours = long.iter().filter(|run| run.runner == Runner::Qemu);
        assert!(ours.all(|run| run.tests == "all()"));
        let mut titles: Vec<_> = long.iter().map(Run::title).collect();
        titles.sort();
        titles.dedup();
        assert_eq!(titles.len(), long.len());
    }
}
