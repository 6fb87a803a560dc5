// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes one run after the other, each chosen at random and recorded, and sums them up.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::history::{self, Run};
use super::parts::Part;
use crate::fuzz::Found;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::verdict::Kind;
use dmaplane_vmtest::kernel::Profile;

/// Runs in a row without a result that end a soak: its guests do not boot any more, or each run fails at once.
pub(super) const IN_VAIN: usize = 10;

/// Where something runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In guests of a topology, on a kernel.
    Guests(String, Profile),
    /// On this machine itself.
    Host,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (topology, profile) = self.names();
        write!(f, "{topology} {profile}")
    }
}

impl Place {
    /// What the history calls it: topology and profile.
    fn names(&self) -> (&str, &str) {
        match self {
            Self::Guests(topology, profile) => (topology, profile.name()),
            Self::Host => ("host", "-"),
        }
    }
}

/// What one run is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// What is run.
    pub(super) part: &'static Part,
    /// Where.
    pub(super) place: Place,
    /// The seed that repeats it.
    pub(super) seed: u64,
}

/// What is chosen from, and the sequence that chooses.
pub(super) struct Everything {
    /// Never empty, like the other lists.
    pub(super) parts: Vec<&'static Part>,
    pub(super) topologies: Vec<String>,
    /// At least one for each part to run on.
    pub(super) profiles: Vec<Profile>,
    pub(super) choices: Choices,
}

impl Everything {
    fn choose(&mut self) -> Chosen {
        let part = *self.choices.of(&self.parts);
        let topology = self.choices.of(&self.topologies).clone();
        let mut profiles = self.profiles.clone();
        profiles.retain(|profile| part.runs_on(*profile));
        let profile = *self.choices.of(&profiles);
        let seed = self.choices.next() >> 32;
        let place = part.place();
        Chosen {
            part,
            place: place.unwrap_or(Place::Guests(topology, profile)),
            seed,
        }
    }
}

/// A reproducible sequence (splitmix64).
pub(super) struct Choices(pub(super) u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[(self.next() % all.len() as u64) as usize]
    }
}

/// Why the soak stopped.
#[derive(Debug)]
pub(super) enum Stopped {
    /// The time was over.
    Over,
    /// Nothing could be run any more.
    InVain,
    /// By the user.
    Interrupted,
    /// A run could not be recorded.
    Unwritten(anyhow::Error),
}

/// Makes one run after the other and records each, until the time is over. A run that could not be made is recorded as
/// well.
pub(super) fn repeat(
    time: Duration,
    mut everything: Everything,
    mut once: impl FnMut(&Chosen) -> Result<Ended>,
    mut note: impl FnMut(&Chosen, Ended, Duration) -> Result<()>,
) -> Stopped {
    let start = Instant::now();
    let mut in_vain = 0;
    while start.elapsed() < time {
        let chosen = everything.choose();
        let begun = Instant::now();
        let ended = match once(&chosen) {
            Ok(ended) => ended,
            // Ctrl-C: the runs so far are reported all the same.
            Err(err) if exit::number_of(&err) == exit::INTERRUPTED => return Stopped::Interrupted,
            Err(err) => Ended::not_made(&err),
        };
        in_vain = match ended.exit_code {
            exit::GUEST_INFRASTRUCTURE => in_vain + 1,
            _ => 0,
        };
        if let Err(err) = note(&chosen, ended, begun.elapsed()) {
            return Stopped::Unwritten(err);
        }
        if in_vain == IN_VAIN {
            return Stopped::InVain;
        }
    }
    Stopped::Over
}

/// How one run ended.
pub(super) struct Ended {
    /// As `--help` lists them.
    pub(super) exit_code: u8,
    /// In words.
    pub(super) words: String,
}

impl Ended {
    /// In guests.
    pub(super) fn of(kind: Kind) -> Self {
        Self {
            exit_code: kind.code(),
            words: kind.words().to_owned(),
        }
    }

    /// A fuzzer on the host, which found something or not.
    pub(super) fn found(found: &Found) -> Self {
        let (exit_code, words) = match found {
            Found::Nothing => (0, "ok"),
            Found::Crash(_) => (exit::FAILED, "FAILED"),
        };
        Self {
            exit_code,
            words: words.to_owned(),
        }
    }

    /// A run that could not be made: nothing is known about what it should have tested.
    fn not_made(err: &anyhow::Error) -> Self {
        Self {
            exit_code: exit::GUEST_INFRASTRUCTURE,
            words: format!("{err:#}"),
        }
    }

    /// The run's record for the history.
    pub(super) fn run(self, commit: &str, chosen: &Chosen, time: Duration) -> Run {
        let (topology, profile) = chosen.place.names();
        Run {
            at: history::now(),
            commit: commit.to_owned(),
            part: chosen.part.name.to_owned(),
            topology: topology.to_owned(),
            profile: profile.to_owned(),
            seed: chosen.seed,
            exit_code: self.exit_code,
            words: self.words,
            seconds: time.as_secs(),
        }
    }
}

/// The exit code of all runs together: that of the worst failure; without one, that of what gave no result.
///
/// # Errors
/// When nothing was proven, or when the history lacks something.
pub(super) fn verdict(runs: &[Run], stopped: Stopped) -> Result<u8> {
    if let Stopped::Unwritten(err) = stopped {
        return Err(err.context("the soak ended because its history cannot be written"));
    }
    let failed = runs.iter().filter(|run| run.failed());
    if let Some(worst) = failed.map(|run| run.exit_code).max() {
        return Ok(worst);
    }
    let vain = runs.iter().rev().find(|run| !run.counts());
    if runs.iter().any(Run::counts) {
        return Ok(vain.map_or(0, |run| run.exit_code));
    }
    if matches!(stopped, Stopped::Interrupted) {
        return Err(exit::coded(
            exit::INTERRUPTED,
            "interrupted before any run gave a result",
        ));
    }
    let why = match vain {
        None => {
            "its time was over before the first run; give more by --minutes or --hours".to_owned()
        }
        Some(last) => format!(
            "none of {} runs gave a result; the last one: {}\n`cargo xtask setup --check` shows what this machine \
             lacks, and `cargo xtask vm-test` shows one run with all its output",
            runs.len(),
            last.words
        ),
    };
    Err(exit::coded(
        exit::GUEST_INFRASTRUCTURE,
        format!("the soak has proven nothing: {why}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::parts::PARTS;
    use super::*;

    fn everything() -> Everything {
        Everything {
            parts: PARTS.iter().collect(),
            topologies: vec!["pair".to_owned()],
            profiles: vec![Profile::Base],
            choices: Choices(1),
        }
    }

    /// The result of runs that end like this, one after the other, with Ctrl-C after the last of them.
    fn soaked(ends: impl IntoIterator<Item = Result<Kind>>) -> (Vec<Run>, Result<u8>) {
        let mut ends = ends.into_iter();
        let interrupted = || Err(exit::coded(exit::INTERRUPTED, "interrupted"));
        let mut runs = Vec::new();
        let stopped = repeat(
            Duration::MAX,
            everything(),
            |_| ends.next().unwrap_or_else(interrupted).map(Ended::of),
            |chosen, ended, seconds| {
                runs.push(ended.run("abc", chosen, seconds));
                Ok(())
            },
        );
        let verdict = verdict(&runs, stopped);
        (runs, verdict)
    }

    #[test]
    fn a_run_that_cannot_be_made_does_not_keep_the_others_from_it() {
        let (runs, verdict) = soaked([
            Err(exit::environment("no QEMU")),
            Ok(Kind::Ok),
            Ok(Kind::Infrastructure),
            Ok(Kind::Ok),
        ]);
        let codes: Vec<_> = runs.iter().map(|run| run.exit_code).collect();
        assert_eq!(codes, [14, 0, 14, 0]);
        assert_eq!(runs[0].words, "no QEMU");
        assert_eq!(verdict.unwrap(), exit::GUEST_INFRASTRUCTURE);
    }

    #[test]
    fn what_failed_outweighs_what_gave_no_result() {
        let ends = [Kind::Leak, Kind::Infrastructure, Kind::Tests].map(Ok);
        assert_eq!(soaked(ends).1.unwrap(), exit::GUEST_LEAK);
        assert_eq!(soaked([Ok(Kind::Ok)]).1.unwrap(), 0);
    }

    #[test]
    fn a_soak_that_has_proven_nothing_fails_with_the_cause() {
        let mut rounds = 0;
        let ends = std::iter::from_fn(|| {
            rounds += 1;
            Some(match rounds % 2 {
                0 => Err(exit::environment("no QEMU: install it")),
                _ => Ok(Kind::Infrastructure),
            })
        });
        let (runs, verdict) = soaked(ends);
        assert_eq!(runs.len(), IN_VAIN);
        let err = verdict.unwrap_err();
        assert_eq!(exit::number_of(&err), exit::GUEST_INFRASTRUCTURE);
        let text = err.to_string();
        assert!(text.contains("no QEMU: install it"), "{text}");
        assert!(text.contains("cargo xtask setup --check"), "{text}");
        // Nothing at all, for want of time or by Ctrl-C.
        let err = super::verdict(&[], Stopped::Over).unwrap_err();
        assert!(err.to_string().contains("--minutes"), "{err}");
        let err = soaked([]).1.unwrap_err();
        assert_eq!(exit::number_of(&err), exit::INTERRUPTED);
    }

    #[test]
    fn a_soak_ends_where_nothing_can_be_run_any_more() {
        let ends = [Ok(Kind::Ok)].into_iter();
        let ends = ends.chain(std::iter::repeat_with(|| Ok(Kind::Infrastructure)));
        let (runs, verdict) = soaked(ends);
        assert_eq!(runs.len(), 1 + IN_VAIN);
        assert_eq!(verdict.unwrap(), exit::GUEST_INFRASTRUCTURE);
    }

    #[test]
    fn runs_are_reported_when_the_history_cannot_be_written() {
        let mut runs = Vec::new();
        let stopped = repeat(
            Duration::MAX,
            everything(),
            |_| Ok(Ended::of(Kind::Ok)),
            |chosen, ended, seconds| {
                runs.push(ended.run("abc", chosen, seconds));
                Err(anyhow::anyhow!("no space left"))
            },
        );
        assert_eq!(runs.len(), 1);
        let err = verdict(&runs, stopped).unwrap_err();
        assert!(format!("{err:#}").contains("no space left"), "{err:#}");
    }

    #[test]
    fn faults_are_never_paired_with_a_kernel_that_cannot_inject_them() {
        let mut all = everything();
        all.profiles = vec![Profile::Stock, Profile::Stock, Profile::Debug];
        let mut seen = [0, 0];
        for _ in 0..2000 {
            let chosen = all.choose();
            let Place::Guests(_, profile) = chosen.place else {
                continue;
            };
            assert!(chosen.part.runs_on(profile), "{chosen:?}");
            seen[usize::from(profile == Profile::Stock)] += 1;
            if chosen.part.name == "faults" {
                assert_eq!(profile, Profile::Debug);
            }
        }
        assert!(seen[0] > 0 && seen[1] > seen[0], "{seen:?}");
    }

    #[test]
    fn what_has_a_place_of_its_own_is_noted_there_with_its_seed() {
        let mut all = everything();
        all.parts.retain(|part| part.name == "fuzz wire");
        let chosen = all.choose();
        let seed = chosen.seed;
        let run = Ended::found(&Found::Crash("crashes".into())).run("abc", &chosen, Duration::ZERO);
        assert_eq!((run.topology.as_str(), run.seed), ("host", seed));
        assert!(run.failed() && run.counts());
        assert!(
            !Ended::found(&Found::Nothing)
                .run("abc", &all.choose(), Duration::ZERO)
                .failed()
        );
    }
}
