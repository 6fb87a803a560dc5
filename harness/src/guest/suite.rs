// SPDX-License-Identifier: MIT OR Apache-2.0
//! The integration tests as a session: nextest runs in the first guest, on binaries built here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::ctx::Ctx;
use crate::exec;
use crate::exit;
use crate::guest::binaries::cargo;
use crate::guest::junit::{self, TestId};
use crate::guest::plan::{Job, SHARE};
use crate::guest::scanner::Rules;
use crate::guest::session::{Event, Outcome, Request, TestEnv, job};
use crate::guest::topology::Network;
use crate::guest::verdict::{self, Tests, Verdict};
use crate::hash;
use crate::setup::{self, Need};

/// Cargo's profile, nextest's profile, and the folder of both.
const PROFILE: &str = "guest";
/// The crate with the suites.
const PACKAGE: &str = "dmaplane-guest-tests";
/// The job's name, and so its log's.
const JOB: &str = "tests";
/// The kernel's providers of RDMA besides rxe, which tests load.
const OTHER_PROVIDERS: &[&str] = &["siw"];
/// The port of the peer agent in a second guest.
const PEER_PORT: u16 = 7471;

/// How many times longer a test may take in runs of full length.
const LONG: u32 = 4;

/// Which tests.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// nextest's filter expression; without it, all but the harness's own.
    pub filter: Option<String>,
    /// Whether the filter replaces the default one instead of narrowing it.
    pub ignore_default: bool,
    /// Modules of the kernel that the tests need.
    pub modules: Vec<&'static str>,
    /// What the tests find in their environment besides the usual.
    pub env: BTreeMap<String, String>,
    /// Whether a single test may take several times as long as usual.
    pub long: bool,
}

/// Test binaries that are built, as nextest describes them.
pub struct Built {
    binaries_metadata: PathBuf,
    cargo_metadata: PathBuf,
}

/// Built tests, some of which are selected.
pub struct Suite<'a> {
    built: &'a Built,
    selection: Selection,
    /// The tests that the report must hold.
    pub expected: BTreeSet<TestId>,
}

/// The result of a suite's run.
pub struct SuiteRun {
    /// What the guests left.
    pub outcome: Outcome,
    /// What the tests said.
    pub tests: Tests,
    /// The verdict.
    pub verdict: Verdict,
    /// The last lines of nextest's output: its own summary.
    pub summary: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct List {
    rust_suites: BTreeMap<String, ListedBinary>,
}

#[derive(Deserialize)]
struct ListedBinary {
    testcases: BTreeMap<String, ListedTest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ListedTest {
    ignored: bool,
    filter_match: FilterMatch,
}

#[derive(Deserialize)]
struct FilterMatch {
    status: String,
}

impl Built {
    /// Builds the test binaries.
    pub fn build(ctx: &Ctx, test_env: &TestEnv) -> Result<Self> {
        setup::ensure(ctx, Need::Guest)?;
        // A folder for this checkout only: a concurrent run of another checkout would change what nextest runs and
        // where it reports.
        let checkout = hash::texts([ctx.root.to_string_lossy().as_ref()]);
        let dir = ctx.cache_sub(format!("suite/{}", &checkout[..6]))?;
        let binaries_metadata = dir.join("binaries.json");
        let cargo_metadata = dir.join("cargo.json");

        let mut build = cargo(ctx);
        build.args([
            "test",
            "--no-run",
            "--profile",
            PROFILE,
            "--package",
            PACKAGE,
        ]);
        let log = ctx.log_dir()?.join("guest-tests.log");
        let mut progress = ctx.ui.spinner("building the guest tests");
        exec::logged(ctx, build, "building the guest tests", &log, |line| {
            progress.message(line.trim());
        })?;
        drop(progress);

        let mut list = nextest(ctx, test_env);
        list.args(["list", "--cargo-profile", PROFILE, "--package", PACKAGE]);
        list.args(["--list-type", "binaries-only", "--message-format", "json"]);
        keep(&binaries_metadata, &exec::output(&mut list)?)?;
        let mut metadata = cargo(ctx);
        metadata.args(["metadata", "--format-version=1", "--all-features"]);
        keep(&cargo_metadata, &exec::output(&mut metadata)?)?;
        Ok(Self {
            binaries_metadata,
            cargo_metadata,
        })
    }
}

impl<'a> Suite<'a> {
    /// Selects tests; it is an error if none is left.
    pub fn select(
        ctx: &Ctx,
        test_env: &TestEnv,
        built: &'a Built,
        selection: Selection,
    ) -> Result<Self> {
        let mut suite = Self {
            built,
            selection,
            expected: BTreeSet::new(),
        };
        suite.expected = suite.list(ctx, test_env)?;
        Ok(suite)
    }

    fn list(&self, ctx: &Ctx, test_env: &TestEnv) -> Result<BTreeSet<TestId>> {
        let mut command = nextest(ctx, test_env);
        command
            .args(["list", "--message-format", "json"])
            .args(self.options());
        let list: List = serde_json::from_str(&exec::output(&mut command)?)
            .context("nextest's list of tests is not understood")?;
        let mut tests = BTreeSet::new();
        for (binary, listed) in list.rust_suites {
            for (name, test) in listed.testcases {
                if !test.ignored && test.filter_match.status == "matches" {
                    tests.insert((binary.clone(), name));
                }
            }
        }
        if tests.is_empty() {
            let filter = self.selection.filter.as_deref().unwrap_or("all()");
            return Err(exit::coded(
                exit::FAILED,
                format!(
                    "no guest test matches {filter:?}; `cargo nextest list --package {PACKAGE}` \
                     shows what there is"
                ),
            ));
        }
        Ok(tests)
    }

    fn options(&self) -> Vec<String> {
        let mut options: Vec<String> = vec![
            "--profile".into(),
            PROFILE.into(),
            "--binaries-metadata".into(),
            self.built.binaries_metadata.display().to_string(),
            "--cargo-metadata".into(),
            self.built.cargo_metadata.display().to_string(),
        ];
        if let Some(filter) = &self.selection.filter {
            options.extend(["--filterset".into(), filter.clone()]);
        }
        if self.selection.ignore_default {
            options.push("--ignore-default-filter".into());
        }
        options
    }

    /// The jobs that run the suite in a test environment's guests.
    fn request(&self, test_env: &TestEnv, seed: u64) -> Request {
        let mut request = Request::empty();
        request.modules.clone_from(&self.selection.modules);
        request.loadable = OTHER_PROVIDERS.to_vec();
        request.env.clone_from(&self.selection.env);
        request
            .env
            .insert("DMAPLANE_SEED".to_owned(), seed.to_string());
        // Of the two limits, nextest's expires first, and names the test.
        let period = test_env.limits.test_s / 2 * if self.selection.long { LONG } else { 1 };
        request.files.push((
            "nextest.toml".to_owned(),
            format!(
                "[profile.{PROFILE}]\n\
                 slow-timeout = {{ period = \"{period}s\", terminate-after = 2 }}\n"
            ),
        ));
        let guests = &test_env.topology.guests;
        let mut tests = Job {
            collect: vec![test_env.root.join("target/nextest/guest/junit.xml")],
            ..self.job(test_env)
        };
        match test_env.topology.network {
            Network::Veth { .. } => tests.netns = Some("dp0".to_owned()),
            Network::Link { .. } => {
                let address = format!("{}:{PEER_PORT}", test_env.topology.peer_ip());
                let agent = job("peer", ["dmaplane-peer", "--listen", &address]);
                let ready_when = Some("listening".to_owned());
                request.job(
                    &guests[1].name,
                    Job {
                        service: true,
                        ready_when,
                        ..agent
                    },
                );
            }
        }
        request.job(&guests[0].name, tests);
        request
    }

    fn job(&self, test_env: &TestEnv) -> Job {
        let mut argv = vec![test_env.tools.nextest.display().to_string()];
        let fixed = "nextest run --no-fail-fast --color never --show-progress none \
                     --status-level pass --final-status-level fail --failure-output immediate \
                     --user-config-file none";
        argv.extend(fixed.split_whitespace().map(str::to_owned));
        argv.extend([
            "--tool-config-file".to_owned(),
            format!("dmaplane:{SHARE}/nextest.toml"),
        ]);
        argv.extend(self.options());
        job(JOB, argv)
    }

    /// Runs the suite and judges it.
    pub fn run(
        &self,
        ctx: &Ctx,
        test_env: &TestEnv,
        seed: u64,
        limit: Option<std::time::Duration>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<SuiteRun> {
        // Read before the run: a mistake in the rules must not cost a run.
        let rules = Rules::load(&ctx.root)?;
        let mut request = self.request(test_env, seed);
        request.limit = limit;
        let outcome = test_env.run(ctx, &request, watch)?;
        let lead = &outcome.guests[0];
        let share = outcome.share(lead);
        let mut tests = Tests::default();
        match fs::read_to_string(share.join("junit.xml")).context("JUnit file") {
            Ok(xml) => match junit::parse(&xml) {
                Ok(results) => tests.results = results,
                Err(err) => tests.unreadable = Some(format!("{err:#}")),
            },
            Err(err) => tests.unreadable = Some(format!("{err:#}")),
        }
        if tests.unreadable.is_none() {
            tests.missing = junit::missing(&self.expected, &tests.results);
        }
        let verdict = verdict::judge(&outcome, &rules, Some(&tests));
        let log = fs::read_to_string(share.join(format!("{JOB}.log"))).unwrap_or_default();
        Ok(SuiteRun {
            outcome,
            tests,
            verdict,
            summary: summary(&log),
        })
    }
}

/// Writes a file, unless it has this text already: the guest of another run of this checkout may be reading it.
fn keep(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn nextest(ctx: &Ctx, test_env: &TestEnv) -> Command {
    let mut command = Command::new(&test_env.tools.nextest);
    command.current_dir(&ctx.root).arg("nextest");
    command
}

/// What nextest says at its end, from the line that starts with `Summary`.
fn summary(log: &str) -> Vec<String> {
    let lines: Vec<_> = log.lines().collect();
    let Some(start) = lines
        .iter()
        .rposition(|line| line.trim_start().starts_with("Summary"))
    else {
        return Vec::new();
    };
    lines[start..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_the_end_of_the_log() {
        let log = "    PASS [   0.1s] a b\n------\n     Summary [   1.0s] 2 tests run: 1 passed\n        FAIL x\n";
        assert_eq!(summary(log).len(), 2);
        assert!(summary("nothing").is_empty());
    }

    #[test]
    fn nextests_list_is_understood() {
        let text = r#"{"test-count": 2, "rust-suites": {"p::b": {"testcases": {
            "one": {"ignored": false, "filter-match": {"status": "matches"}},
            "two": {"ignored": true, "filter-match": {"status": "mismatch", "reason": "ignored"}}
        }}}}"#;
        let list: List = serde_json::from_str(text).unwrap();
        assert!(!list.rust_suites["p::b"].testcases["one"].ignored);
    }
}
