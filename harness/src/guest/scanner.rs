// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds forbidden lines in a console log. A pure function of text and rules.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use regex::Regex;
use serde::{Deserialize, Serialize};
use toml::value::Datetime;

/// How many lines after a finding belong to it, at most.
const CONTEXT_LINES: usize = 40;
/// How many lines after a finding an allow entry looks at, unless it says so itself.
const ALLOW_WITHIN: usize = 16;
/// What the markers of tests in the kernel log start with.
pub const TEST_MARK: &str = "dmaplane-test: ";

/// What to look for, and what to excuse.
pub struct Rules {
    deny: Vec<Deny>,
    allow: Vec<Allow>,
}

struct Deny {
    pattern: Regex,
    unless: Option<Regex>,
    reason: String,
    leak: bool,
}

struct Allow {
    line: Option<Regex>,
    pattern: Regex,
    within: usize,
}

/// One thing that must not be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The line's number in the log, from 1.
    pub line: usize,
    /// The line itself.
    pub text: String,
    /// Why it must not be there.
    pub reason: String,
    /// Whether it reports lost memory or references.
    pub leak: bool,
    /// The test that ran at that moment.
    pub test: Option<String>,
    /// The lines that follow it and belong to it.
    pub context: Vec<String>,
}

impl Finding {
    /// The functions of the first call trace that follows it, innermost first; without those that the kernel only guesses.
    pub fn callers(&self) -> Vec<&str> {
        let is_name = |text: &str| {
            let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            !text.is_empty() && text.chars().all(name)
        };
        self.context
            .iter()
            .skip_while(|line| !line.contains("Call Trace:"))
            .skip(1)
            // "[   12.345678]  function+0x12/0x34 [module]"
            .filter_map(|line| line.split_once("]  ")?.1.split_once("+0x"))
            .map(|(name, _)| name)
            .filter(|name| is_name(name))
            .collect()
    }
}

/// The result of a scan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// What must not be there.
    pub findings: Vec<Finding>,
    /// What an allow entry excused.
    pub excused: Vec<Finding>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DenyFile {
    deny: Vec<DenyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DenyEntry {
    pattern: String,
    unless: Option<String>,
    reason: String,
    #[serde(default)]
    leak: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowFile {
    allow: Vec<AllowEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AllowEntry {
    line: Option<String>,
    pattern: String,
    within: Option<usize>,
    reason: String,
    link: String,
    expires: Datetime,
}

/// A day: year, month, day of month.
pub type Day = (u16, u8, u8);

impl Rules {
    /// Reads the rules of the checkout.
    pub fn load(root: &Path) -> Result<Self> {
        let dir = root.join("vm/splats");
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Self::parse(&read("deny.toml")?, &read("allow.toml")?, today()?)
    }

    /// Compiles the two lists as they are on that day.
    pub fn parse(deny: &str, allow: &str, today: Day) -> Result<Self> {
        let deny: DenyFile = toml::from_str(deny).context("vm/splats/deny.toml")?;
        let allow: AllowFile = toml::from_str(allow).context("vm/splats/allow.toml")?;
        ensure!(
            !deny.deny.is_empty(),
            "vm/splats/deny.toml is empty: every console would count as clean"
        );
        let deny = deny
            .deny
            .into_iter()
            .map(Deny::new)
            .collect::<Result<_>>()?;
        let allow = allow
            .allow
            .into_iter()
            .map(|entry| Allow::new(entry, today))
            .collect::<Result<_>>()?;
        Ok(Self { deny, allow })
    }

    /// All that the rules deny in this text, each attributed to the test that ran.
    pub fn scan(&self, text: &str) -> Scan {
        let lines: Vec<&str> = text
            .lines()
            .map(|line| line.trim_end_matches('\r'))
            .collect();
        let mut test = None;
        let mut scan = Scan::default();
        for (index, line) in lines.iter().enumerate() {
            match Marker::parse(line) {
                Some(Marker::Begin(name)) => test = Some(name.to_owned()),
                Some(Marker::End { .. }) => test = None,
                None => {}
            }
            // The runner quotes errors that may quote the kernel; markers quote test names.
            if line.contains(TEST_MARK) || line.contains(super::plan::RUNNER_MARK) {
                continue;
            }
            let Some(rule) = self.deny.iter().find(|rule| rule.matches(line)) else {
                continue;
            };
            let after = |count: usize| &lines[index..lines.len().min(index + 1 + count)];
            let excused = self
                .allow
                .iter()
                .any(|allow| allow.excuses(line, after(allow.within)));
            let findings = if excused {
                &mut scan.excused
            } else {
                &mut scan.findings
            };
            findings.push(Finding {
                line: index + 1,
                text: (*line).to_owned(),
                reason: rule.reason.clone(),
                leak: rule.leak,
                test: test.clone(),
                context: after(CONTEXT_LINES)[1..]
                    .iter()
                    .take_while(|line| !line.contains("end trace") && Marker::parse(line).is_none())
                    .map(|line| (*line).to_owned())
                    .collect(),
            });
        }
        scan
    }
}

impl Deny {
    fn new(entry: DenyEntry) -> Result<Self> {
        let DenyEntry {
            pattern,
            unless,
            reason,
            leak,
        } = entry;
        ensure!(
            !reason.trim().is_empty(),
            "deny entry {pattern:?} has no reason"
        );
        let unless = unless.as_deref().map(compile).transpose()?;
        Ok(Self {
            pattern: compile(&pattern)?,
            unless,
            reason,
            leak,
        })
    }

    fn matches(&self, line: &str) -> bool {
        self.pattern.is_match(line)
            && !self
                .unless
                .as_ref()
                .is_some_and(|unless| unless.is_match(line))
    }
}

impl Allow {
    fn new(entry: AllowEntry, today: Day) -> Result<Self> {
        let AllowEntry {
            line,
            pattern,
            within,
            reason,
            link,
            expires,
        } = entry;
        let what = format!("allow entry {pattern:?}");
        ensure!(!reason.trim().is_empty(), "{what} has no reason");
        ensure!(
            link.starts_with("https://"),
            "{what} has no link to where it is tracked"
        );
        let Some(date) = expires.date else {
            bail!("{what}: {expires} is no day")
        };
        ensure!(
            (date.year, date.month, date.day) >= today,
            "{what} expired on {expires}: look at the matter again, then renew or remove it"
        );
        Ok(Self {
            line: line.as_deref().map(compile).transpose()?,
            pattern: compile(&pattern)?,
            within: within.unwrap_or(ALLOW_WITHIN),
        })
    }

    /// Whether it excuses a finding in `line`, which is the first of `lines`.
    fn excuses(&self, line: &str, lines: &[&str]) -> bool {
        let meant = self.line.as_ref().is_none_or(|own| own.is_match(line));
        meant && lines.iter().any(|line| self.pattern.is_match(line))
    }
}

fn compile(pattern: &str) -> Result<Regex> {
    let regex = Regex::new(pattern).with_context(|| format!("pattern {pattern:?}"))?;
    ensure!(
        !regex.is_match(""),
        "pattern {pattern:?} matches everything"
    );
    Ok(regex)
}

/// A test's marker in the kernel log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker<'a> {
    /// A test starts.
    Begin(&'a str),
    /// A test is over.
    End {
        /// Its name.
        name: &'a str,
        /// `ok`, `failed` or `skipped`, maybe followed by a reason.
        result: &'a str,
    },
}

impl<'a> Marker<'a> {
    /// The marker in a console line, if there is one.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (_, marker) = line.split_once(TEST_MARK)?;
        let (verb, rest) = marker.trim_end().split_once(' ')?;
        match verb {
            "begin" => Some(Self::Begin(rest)),
            "end" => {
                let (name, result) = rest.split_once(' ').unwrap_or((rest, ""));
                Some(Self::End { name, result })
            }
            _ => None,
        }
    }
}

/// Today in UTC.
pub fn today() -> Result<Day> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(day_of(now.as_secs() / 86_400))
}

/// The day that many days after 1970-01-01, in the Gregorian calendar.
pub fn day_of(days: u64) -> Day {
    // Counted from 0000-03-01, so that a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let narrow = |value: u64| u8::try_from(value).unwrap_or(u8::MAX);
    (
        u16::try_from(year).unwrap_or(u16::MAX),
        narrow(month),
        narrow(day),
    )
}

#[cfg(test)]
mod tests;
