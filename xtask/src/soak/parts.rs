// SPDX-License-Identifier: MIT OR Apache-2.0
//! The parts of a soak, which runs one at a time.

use anyhow::Result;

use super::repeat::{Chosen, Ended, Place};
use crate::faults::{self, Purpose};
use crate::fuzz;
use crate::vm::{self, Options};
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::guest::accel::AccelChoice;
use dmaplane_vmtest::guest::session::{Driver, TestEnv};
use dmaplane_vmtest::kernel::Profile;

/// A part of a soak, which takes minutes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its name for the user and in the history.
    pub(super) name: &'static str,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// These suites, by their files in tests/guest/tests.
    Suites(&'static [&'static str]),
    /// Every suite that no other part has, so that none is forgotten.
    Rest,
    /// The runs of `vm-test` in full length.
    Long(Purpose),
    /// The fuzzer of system calls, in a guest of its own.
    Calls,
    /// A fuzzer on the host.
    Host(&'static str),
}

/// All of them. The harness's own suite, which fails on purpose, is kept out by the profile `guest` of nextest.
pub(super) const PARTS: &[Part] = &[
    suites("basics", &["buffer", "channel", "endpoint", "copy"]),
    suites(
        "channels",
        &[
            "channel_coalesce",
            "channel_poll",
            "channel_sqpoll",
            "channel_waiters",
        ],
    ),
    suites("transfer", &["transfer", "transfer_bounds", "operations"]),
    suites("ends", &["ending", "revoke", "delay_points", "races"]),
    suites("death", &["death", "death_netdev", "death_waiting"]),
    suites("death steps", &["death_steps"]),
    suites("late write", &["late_write"]),
    suites("hostile", &["hostile", "channel_hostile", "hostile_peer"]),
    suites("storm", &["storm"]),
    suites("many", &["many", "module"]),
    suites(
        "numa",
        &[
            "numa",
            "numa_folios",
            "numa_policies",
            "numa_pool",
            "numa_pool_revoke",
        ],
    ),
    suites("network", &["network"]),
    suites(
        "devices",
        &["bar", "bar_export", "revoke_device", "revoke_memory"],
    ),
    suites("dma-bufs", &["dmabuf", "dmabuf_import", "dmabuf_revoked"]),
    part("rest", What::Rest),
    part("faults", What::Long(Purpose::Faults)),
    part("race table", What::Long(Purpose::Races)),
    part("fuzz ioctl", What::Calls),
    part("fuzz ring", What::Host("ring")),
    part("fuzz wire", What::Host("wire")),
];

/// How long a fuzzer runs, in seconds.
const FUZZ: u64 = 180;

const fn part(name: &'static str, what: What) -> Part {
    Part { name, what }
}

const fn suites(name: &'static str, suites: &'static [&'static str]) -> Part {
    part(name, What::Suites(suites))
}

impl Part {
    /// The only place where it runs, if there is one.
    pub(super) fn place(&self) -> Option<Place> {
        match self.what {
            What::Calls => Some(Place::Guests("numa2".to_owned(), Profile::Debug)),
            What::Host(_) => Some(Place::Host),
            _ => None,
        }
    }

    /// Whether a kernel of this profile has what it needs.
    pub(super) fn runs_on(&self, profile: Profile) -> bool {
        match self.what {
            What::Long(purpose) => purpose.runs_on(profile),
            _ => true,
        }
    }

    /// Whether it can run where the user wants it.
    pub(super) fn fits(&self, topology: Option<&str>, profile: Option<Profile>) -> bool {
        match self.place() {
            None => profile.is_none_or(|profile| self.runs_on(profile)),
            Some(Place::Host) => topology.is_none() && profile.is_none(),
            Some(Place::Guests(here, this)) => {
                topology.is_none_or(|topology| topology == here)
                    && profile.is_none_or(|profile| profile == this)
            }
        }
    }

    /// Its tests, as a nextest filter.
    fn filter(&self) -> Option<String> {
        let any = |suites: &[&str]| {
            let each = suites.iter().map(|suite| format!("binary({suite})"));
            each.collect::<Vec<_>>().join(" | ")
        };
        match self.what {
            What::Suites(suites) => Some(any(suites)),
            What::Rest => {
                let others = PARTS.iter().filter(|part| part.what != What::Rest);
                let others = others.filter_map(Self::filter);
                let others: Vec<_> = others.collect();
                Some(format!("not ({})", others.join(" | ")))
            }
            What::Long(purpose) => Some(purpose.filter().to_owned()),
            What::Calls | What::Host(_) => None,
        }
    }

    /// Runs it once.
    pub(super) fn run(&self, ctx: &Ctx, accel: AccelChoice, chosen: &Chosen) -> Result<Ended> {
        let seed = chosen.seed;
        let (topology, profile) = match (&self.what, &chosen.place) {
            (What::Host(target), _) => {
                return fuzz::host(ctx, target, FUZZ, seed).map(|found| Ended::found(&found));
            }
            (What::Calls, _) => return fuzz::ioctl(ctx, accel, FUZZ, seed).map(Ended::of),
            (_, Place::Guests(topology, profile)) => (topology, *profile),
            (_, Place::Host) => anyhow::bail!("{} needs guests", self.name),
        };
        let test_env = TestEnv::prepare(ctx, topology, profile, accel, Driver::Loaded)?;
        let mut options = Options {
            seed: Some(seed),
            ..Options::default()
        };
        if let What::Long(purpose) = self.what {
            // A fraction of the full length: minutes instead of an hour.
            let fewer = ("DMAPLANE_ITERATIONS".to_owned(), "50".to_owned());
            options.selection.env.extend([fewer]);
            return faults::run(ctx, &test_env, purpose, options).map(Ended::of);
        }
        options.selection.filter = self.filter();
        vm::test(ctx, &test_env, &options).map(Ended::of)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The suites that there are.
    fn all() -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guest/tests");
        let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
        let names = files.map(|file| file.file_name().into_string().unwrap());
        let suites: BTreeSet<_> = names
            .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
            .collect();
        assert!(suites.len() > 40, "{suites:?}");
        suites
    }

    /// Whether a filter selects a suite; it understands the part of nextest's language that is used
    /// here.
    fn takes(filter: &str, suite: &str) -> bool {
        if let Some(inner) = filter.strip_prefix("not (") {
            return !takes(inner.strip_suffix(')').unwrap(), suite);
        }
        filter.split(" | ").any(|term| {
            let name = term
                .strip_prefix("binary(")
                .and_then(|rest| rest.strip_suffix(')'));
            match name.map(|name| name.strip_prefix("/^").unwrap_or(name)) {
                Some(start) if start.ends_with('/') => {
                    suite.starts_with(start.trim_end_matches('/'))
                }
                Some(name) => name == suite,
                None => {
                    assert!(term.starts_with("test(="), "{term}");
                    false
                }
            }
        })
    }

    #[test]
    fn every_suite_is_in_one_part() {
        let nextest = include_str!("../../../.config/nextest.toml");
        assert!(nextest.contains("default-filter = \"not binary(selftest)\""));
        for suite in all() {
            let having = PARTS.iter().filter(|part| {
                let filter = part.filter();
                filter.is_some_and(|filter| takes(&filter, &suite))
            });
            let having: Vec<_> = having.map(|part| part.name).collect();
            assert_eq!(having.len(), 1, "{suite} is in {having:?}");
        }
    }

    #[test]
    fn every_suite_that_a_part_names_is_there() {
        let all = all();
        for part in PARTS {
            if let What::Suites(suites) = part.what {
                for suite in suites {
                    assert!(all.contains(*suite), "{}: {suite}", part.name);
                }
            }
        }
        let rest = PARTS.iter().find(|part| part.what == What::Rest).unwrap();
        let filter = rest.filter().unwrap();
        // A part without a test could never run.
        assert!(all.iter().any(|suite| takes(&filter, suite)), "{filter}");
    }

    #[test]
    fn faults_fit_only_kernels_that_can_inject_them() {
        let part = |name: &str| PARTS.iter().find(|part| part.name == name).unwrap();
        assert!(!part("faults").fits(None, Some(Profile::Stock)));
        assert!(part("faults").fits(Some("pair"), Some(Profile::Debug)));
        assert!(part("faults").fits(None, None));
        assert!(part("race table").fits(None, Some(Profile::Stock)));
    }

    #[test]
    fn the_fuzzers_are_parts_and_run_in_their_place_only() {
        for name in ["fuzz ioctl", "fuzz ring", "fuzz wire"] {
            let part = PARTS.iter().find(|part| part.name == name).unwrap();
            assert!(part.fits(None, None) && !part.fits(Some("pair"), None));
            assert!(!part.fits(None, Some(Profile::Base)), "{name}");
        }
        assert!(PARTS[0].fits(Some("pair"), Some(Profile::Base)));
    }
}
