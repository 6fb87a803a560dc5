// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which kernels Debian's suites offer today.

use anyhow::Result;

use super::pin::StockPin;
use crate::ctx::Ctx;
use crate::exit;
use crate::setup::apt;

/// How the names of header packages begin.
const HEADERS: &str = "linux-headers-";

/// A kernel that a suite has headers and source of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Its `uname -r`.
    pub(super) release: String,
    /// The version of all of its packages.
    pub(super) version: String,
    /// `linux-source-7.2`.
    pub(super) source: String,
}

/// Suites that are read together: those of one release of Debian, or what is to become one.
pub(super) struct Group {
    /// Its name for the user.
    pub(super) name: &'static str,
    suites: Vec<String>,
}

impl Group {
    /// All of them, the pinned one first.
    pub(super) fn all(stock: &StockPin) -> Vec<Self> {
        let group = |name, suites: &[&str]| Self {
            name,
            suites: suites.iter().map(|&suite| suite.to_owned()).collect(),
        };
        vec![
            Self {
                name: "debian13",
                suites: stock.suites.clone(),
            },
            group("forky", &["forky"]),
            group("sid", &["sid"]),
            group("experimental", &["sid", "experimental"]),
        ]
    }

    /// The packages of the group.
    pub(super) fn apt<'a>(&self, ctx: &'a Ctx) -> Result<apt::Private<'a>> {
        let suites: Vec<&str> = self.suites.iter().map(String::as_str).collect();
        apt::Private::suites(ctx, self.name, &suites)
    }
}

/// Finds a kernel, by its release, its packages' version or the version of Linux, in the first group that has it.
///
/// # Errors
/// When no group has it; the error lists all kernels there are. When the suites cannot be read.
pub(super) fn find<'a>(
    ctx: &'a Ctx,
    stock: &StockPin,
    wanted: &str,
) -> Result<(Group, apt::Private<'a>, Offer)> {
    let mut others = Vec::new();
    for group in Group::all(stock) {
        let unreadable = |err: &anyhow::Error| {
            exit::environment(format!("cannot read what {} offers: {err:#}", group.name))
        };
        let apt = group.apt(ctx).map_err(|err| unreadable(&err))?;
        let headers = apt.versions(HEADERS).map_err(|err| unreadable(&err))?;
        let sources = apt
            .versions("linux-source-")
            .map_err(|err| unreadable(&err))?;
        let there = offers(&headers, &sources);
        if let Some(offer) = there.iter().find(|offer| offer.is(wanted)) {
            return Ok((group, apt, offer.clone()));
        }
        let releases = there.iter().map(|offer| offer.release.as_str());
        others.push(format!(
            "  {}: {}",
            group.name,
            releases.collect::<Vec<_>>().join(", ")
        ));
    }
    Err(exit::environment(format!(
        "no suite has headers and source of a kernel {wanted:?}; there are:\n{}",
        others.join("\n")
    )))
}

impl Offer {
    fn is(&self, wanted: &str) -> bool {
        let of_linux = self.version.split('-').next();
        self.release == wanted || self.version == wanted || of_linux == Some(wanted)
    }
}

/// The ordinary kernels for amd64 that have headers, and the source in the same version.
fn offers(headers: &[(String, String)], sources: &[(String, String)]) -> Vec<Offer> {
    let mut found = Vec::new();
    for (name, version) in headers {
        let release = name.strip_prefix(HEADERS).unwrap_or(name);
        let kind = release.strip_suffix("-amd64").unwrap_or("-");
        // Not the metapackage for the newest kernel, nor the cloud and real-time kernels.
        if !kind.starts_with(|c: char| c.is_ascii_digit()) || kind.contains('-') {
            continue;
        }
        let series: Vec<_> = kind.split(['.', '+']).take(2).collect();
        let source = format!("linux-source-{}", series.join("."));
        if sources.contains(&(source.clone(), version.clone())) {
            found.push(Offer {
                release: release.to_owned(),
                version: version.clone(),
                source,
            });
        }
    }
    found.sort_by(|a, b| a.release.cmp(&b.release));
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
        let pair = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        all.iter().map(pair).collect()
    }

    #[test]
    fn a_kernel_needs_headers_and_source_of_one_version() {
        let headers = pairs(&[
            ("linux-headers-7.3.4+deb13-amd64", "7.3.4-1~bpo13+1"),
            ("linux-headers-7.2.9+deb13-amd64", "7.2.9-1~bpo13+1"),
            ("linux-headers-7.3.4+deb13-common", "7.3.4-1~bpo13+1"),
            ("linux-headers-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            ("linux-headers-7.3.4+deb13-rt-amd64", "7.3.4-1~bpo13+1"),
            ("linux-headers-amd64", "7.3.4-1~bpo13+1"),
            ("linux-headers-7.3-amd64", "7.3~rc7-1~exp1"),
        ]);
        let sources = pairs(&[
            ("linux-source-7.3", "7.3.4-1~bpo13+1"),
            ("linux-source-7.3", "7.3~rc7-1~exp1"),
            ("linux-source-7.2", "7.2.12-1~bpo13+1"),
        ]);
        let offers = offers(&headers, &sources);
        let releases: Vec<_> = offers.iter().map(|offer| offer.release.as_str()).collect();
        assert_eq!(releases, ["7.3-amd64", "7.3.4+deb13-amd64"]);
        let offer = &offers[1];
        assert_eq!(offer.source, "linux-source-7.3");
        for name in ["7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", "7.3.4"] {
            assert!(offer.is(name), "{name}");
        }
        assert!(!offer.is("7.3") && offers[0].is("7.3~rc7"));
    }
}
