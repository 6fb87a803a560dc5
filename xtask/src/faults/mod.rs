// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of the suite with a purpose: `vm-test --faults` and `vm-test --races`, in full length, with a table at the end.

mod needs;
pub(crate) mod points;
mod races;
mod table;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub(crate) use needs::require;

use crate::vm::Options;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::exit;
use dmaplane_vmtest::guest::session::TestEnv;
use dmaplane_vmtest::guest::suite::SuiteRun;
use dmaplane_vmtest::guest::verdict::Kind;
use dmaplane_vmtest::kernel::Profile;
use races::Race;

/// What the guest leaves in its share; tests/framework/src/faults/record.rs has the other side.
const RECORD: &str = "faults.json";

/// The time for all tests of a run together, before scaling for slow guests.
const LIMIT: Duration = Duration::from_secs(1800);

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Every fallible step, every fault point.
    Faults,
    /// The table of races.
    Races,
}

/// What a guest counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Record {
    /// The driver's points.
    pub(crate) points: BTreeMap<String, Counts>,
    /// The sweeps: how many faults, and how many rounds failed because of them.
    pub(crate) sweeps: BTreeMap<String, (u32, u32)>,
    /// Seeds of storms.
    pub(crate) seeds: Vec<u64>,
    /// Races that finished: iterations and milliseconds.
    pub(crate) races: BTreeMap<String, (u64, u64)>,
}

/// What is added to the results of the tests.
#[derive(Serialize)]
struct Report<'a> {
    points: &'a BTreeMap<String, Counts>,
    sweeps: &'a BTreeMap<String, (u32, u32)>,
    seeds: &'a [u64],
    races: &'a BTreeMap<String, Race>,
}

/// What a fault point counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Counts {
    /// How often it was passed.
    pub(crate) passed: u64,
    /// How often it fired.
    pub(crate) fired: u64,
}

impl Purpose {
    /// The tests, as a nextest filter.
    pub(crate) fn filter(self) -> &'static str {
        match self {
            Self::Faults => "binary(/^faults_/)",
            Self::Races => "binary(race_table) | test(=revoke_by_unplugging_again_and_again)",
        }
    }

    /// Kernel options that the purpose needs.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Faults => &[
                "CONFIG_FAULT_INJECTION",
                "CONFIG_FAULT_INJECTION_DEBUG_FS",
                "CONFIG_FAILSLAB",
                "CONFIG_FAIL_PAGE_ALLOC",
                "CONFIG_FAULT_INJECTION_USERCOPY",
            ],
            Self::Races => &[],
        }
    }

    /// Whether the kernel of this profile has them, as far as is known before it is built.
    pub(crate) fn runs_on(self, profile: Profile) -> bool {
        self.options().is_empty() || profile != Profile::Stock
    }

    /// Narrows the options of a run down to some fault points.
    pub(crate) fn only(points: &[String], options: &mut Options) {
        let own = "test(/^point_/)";
        let filter = match options.selection.filter.take() {
            Some(filter) => format!("({own}) & ({filter})"),
            None => own.to_owned(),
        };
        options.selection.filter = Some(filter);
        let chosen = ("DMAPLANE_POINTS".to_owned(), points.join(","));
        options.selection.env.extend([chosen]);
    }

    /// Narrows the options of a run down to this purpose, and asks for full length.
    fn apply(self, options: &mut Options) {
        let own = self.filter();
        let filter = match options.selection.filter.take() {
            Some(filter) => format!("({own}) & ({filter})"),
            None => own.to_owned(),
        };
        options.selection.filter = Some(filter);
        options.selection.long = true;
        options.limit.get_or_insert(LIMIT);
        let full = ("DMAPLANE_FAULTS".to_owned(), "full".to_owned());
        options.selection.env.extend([full]);
    }
}

/// Refuses a profile that cannot serve the purpose, before anything is fetched or built for it.
///
/// # Errors
/// Names the option of the kernel that is missing, and the profiles that have it.
pub(crate) fn check(purpose: Purpose, profile: Profile) -> Result<()> {
    if purpose.runs_on(profile) {
        return Ok(());
    }
    let option = purpose.options().first().unwrap_or(&"");
    Err(exit::coded(
        exit::USAGE,
        format!(
            "--faults needs a kernel with {option}, which Debian's stock kernel lacks; add --profile debug, or --profile \
             base, which is quicker and does not look for misuse of memory"
        ),
    ))
}

/// Runs the tests and reports. A fault point that never fired is a failure, unless the user chose among the tests.
pub(crate) fn run(
    ctx: &Ctx,
    test_env: &TestEnv,
    purpose: Purpose,
    options: Options,
) -> Result<Kind> {
    require(ctx, test_env, purpose.options())?;
    let mut options = options;
    let whole = options.selection.filter.is_none();
    purpose.apply(&mut options);
    let look = |run: &SuiteRun| {
        let record = read(&run.outcome.share(&run.outcome.guests[0]));
        (record, run.tests.clone())
    };
    let (kind, (record, tests)) = crate::vm::test_and(ctx, test_env, &options, look)?;
    let record = record?;
    let races = races::of(record.as_ref(), &tests);
    if record.is_none() && races.is_empty() {
        return Ok(kind);
    }
    let record = record.unwrap_or_default();
    print!("{}", table::text(&record, &races, purpose));
    if tests.unreadable.is_some() {
        println!("  the tests left no report: what is not in the table did not finish");
    }
    if let Some(json) = &options.reporting.json {
        add_to(json, &record, &races)?;
    }
    let silent = table::silent(&record);
    if purpose == Purpose::Faults && whole && !silent.is_empty() {
        println!("vm-test: FAILED: never fired: {}", silent.join(", "));
        return Ok(kind.max(Kind::Tests));
    }
    Ok(kind)
}

/// The record that a guest left, if it did.
pub(crate) fn read(share: &Path) -> Result<Option<Record>> {
    match fs::read_to_string(share.join(RECORD)) {
        Ok(text) => {
            let record = serde_json::from_str(&text);
            Ok(Some(record.context("the guest's record of faults")?))
        }
        Err(_) => Ok(None),
    }
}

/// Adds the record to the results of the tests.
fn add_to(json: &Path, record: &Record, races: &BTreeMap<String, Race>) -> Result<()> {
    let text = fs::read_to_string(json)?;
    let mut report: serde_json::Value = serde_json::from_str(&text)?;
    if let Some(report) = report.as_object_mut() {
        let own = Report {
            points: &record.points,
            sweeps: &record.sweeps,
            seeds: &record.seeds,
            races,
        };
        report.insert("faults".to_owned(), serde_json::to_value(own)?);
    }
    let text = serde_json::to_string_pretty(&report)? + "\n";
    fs::write(json, text).with_context(|| format!("cannot write {}", json.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmaplane_vmtest::guest::verdict::Tests;

    #[test]
    fn a_filter_of_the_users_narrows_the_runs_own() {
        let mut options = Options::default();
        Purpose::Races.apply(&mut options);
        assert_eq!(
            options.selection.filter.as_deref(),
            Some(Purpose::Races.filter())
        );
        options.selection.filter = Some("test(close)".to_owned());
        Purpose::Faults.apply(&mut options);
        assert_eq!(
            options.selection.filter.as_deref(),
            Some("(binary(/^faults_/)) & (test(close))")
        );
        assert_eq!(options.selection.env["DMAPLANE_FAULTS"], "full");
    }

    #[test]
    fn faults_are_refused_where_the_kernel_cannot_inject_them() {
        let err = check(Purpose::Faults, Profile::Stock).unwrap_err();
        assert_eq!(exit::number_of(&err), exit::USAGE);
        let text = err.to_string();
        for word in [
            "CONFIG_FAULT_INJECTION,",
            "--profile debug",
            "--profile base",
        ] {
            assert!(text.contains(word), "{text}");
        }
        for profile in [Profile::Base, Profile::Debug] {
            check(Purpose::Faults, profile).unwrap();
        }
        // The delay points are the driver's own and exist on every kernel.
        check(Purpose::Races, Profile::Stock).unwrap();
    }

    #[test]
    fn points_are_chosen_by_name() {
        let mut options = Options::default();
        Purpose::only(&["freeze".to_owned(), "post_send".to_owned()], &mut options);
        assert_eq!(options.selection.filter.as_deref(), Some("test(/^point_/)"));
        assert_eq!(options.selection.env["DMAPLANE_POINTS"], "freeze,post_send");
    }

    #[test]
    fn the_guests_record_is_read_and_added_to_the_results() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let text = r#"{"points": {"freeze": {"passed": 3, "fired": 1}}, "sweeps": {"open": [4, 3]},
            "seeds": [7], "races": {"close": [1000, 61000]}}"#;
        fs::write(dir.path().join(RECORD), text).unwrap();
        let record = read(dir.path()).unwrap().unwrap();
        assert_eq!(record.points["freeze"].fired, 1);
        let json = dir.path().join("result.json");
        fs::write(&json, r#"{"exit_code": 0}"#).unwrap();
        add_to(&json, &record, &races::of(Some(&record), &Tests::default())).unwrap();
        let report: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
        assert_eq!(report["faults"]["sweeps"]["open"][0], 4);
        let race = serde_json::json!({"iterations": 1000, "failures": 0, "seconds": 61.0});
        assert_eq!(report["faults"]["races"]["close"], race);
        assert_eq!(report["exit_code"], 0);
    }
}
