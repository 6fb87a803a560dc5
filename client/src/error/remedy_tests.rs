// SPDX-License-Identifier: MIT OR Apache-2.0

//! Every errno that the interface documents has its text. The documentation is read from the interface's source.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::error::names::name;

/// Every call but those that have no ioctl.
const CALLS: [Call; 24] = [
    Call::Query,
    Call::Destroy,
    Call::BufferCreate,
    Call::BufferQuery,
    Call::BufferRevoke,
    Call::MemoryQuery,
    Call::DeviceQuery,
    Call::DeviceAlloc,
    Call::BufferExport,
    Call::BufferImport,
    Call::BufferFolios,
    Call::PoolCreate,
    Call::PoolCarve,
    Call::PoolQuery,
    Call::ChannelCreate,
    Call::Enter,
    Call::Listen,
    Call::Accept,
    Call::Connect,
    Call::EndpointQuery,
    Call::RdmaQuery,
    Call::GrantCreate,
    Call::GrantWait,
    Call::StatsQuery,
];

/// The call of an ioctl such as `IOC_BUFFER_CREATE`, found by its name.
fn call(ioctl: &str) -> Call {
    let words = ioctl.trim_start_matches("IOC_").split('_');
    let camel: String = words
        .map(|word| word[..1].to_owned() + &word[1..].to_lowercase())
        .collect();
    let mut calls = CALLS.into_iter();
    let found = calls.find(|call| format!("{call:?}") == camel);
    found.unwrap_or_else(|| panic!("{ioctl} has no call of the name {camel}"))
}

/// Words in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The documentation of each ioctl's number, from all files of the interface.
fn documentation() -> BTreeMap<String, String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../uapi/src/abi");
    let mut ioctls = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let mut doc = String::new();
        for line in text.lines() {
            if let Some(more) = line.strip_prefix("///") {
                doc += more;
                continue;
            }
            let name = line
                .strip_prefix("pub const IOC_")
                .and_then(|rest| rest.split_once(": u32"))
                .map(|(name, _)| format!("IOC_{name}"));
            // The type byte is no ioctl.
            if let Some(name) = name.filter(|name| name != "IOC_TYPE") {
                ioctls.insert(name, std::mem::take(&mut doc));
            }
            doc.clear();
        }
    }
    ioctls
}

/// The errnos that each call is documented to give, with those of the calls that its documentation refers to and those of
/// the conventions.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let ioctls = documentation();
    let errnos = |doc: &str| -> BTreeSet<String> {
        let is_errno = |word: &&str| {
            let mut letters = word.chars();
            letters.next() == Some('E')
                && word.len() > 2
                && letters.all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        };
        quoted(doc).filter(is_errno).map(str::to_owned).collect()
    };
    let conventions = ["EFAULT", "ENOMEM", "E2BIG", "EINVAL"];
    let all = ioctls.iter().map(|(name, doc)| {
        let mut found = errnos(doc);
        let after = doc.split_once("Errors:").map_or("", |(_, after)| after);
        for other in quoted(after).filter(|word| word.starts_with("IOC_")) {
            found.extend(errnos(&ioctls[other]));
        }
        found.extend(conventions.map(str::to_owned));
        (name.clone(), found)
    });
    all.collect()
}

#[test]
fn the_documentation_is_found() {
    let documented = documented();
    assert_eq!(documented.len(), CALLS.len(), "{documented:?}");
    let has = |ioctl: &str, errno: &str| documented[ioctl].contains(errno);
    assert!(has("IOC_BUFFER_CREATE", "EDQUOT"));
    // By reference.
    assert!(has("IOC_POOL_CREATE", "EDQUOT"));
    assert!(has("IOC_CONNECT", "EADDRINUSE") && has("IOC_CONNECT", "EACCES"));
}

#[test]
fn every_documented_errno_has_a_cause_and_a_remedy() {
    let by_name: BTreeMap<String, Errno> = (1..134)
        .map(Errno::from_raw_os_error)
        .map(|errno| (name(errno), errno))
        .collect();
    for (ioctl, errnos) in documented() {
        let call = call(&ioctl);
        for text in errnos {
            let errno = by_name.get(&text).copied();
            let errno = errno.unwrap_or_else(|| panic!("{text} of {ioctl} has no name"));
            let (cause, remedy) = explain(call, errno);
            assert!(!cause.contains("undocumented"), "{call:?} {text}");
            let sentence = remedy.starts_with(char::is_uppercase) && !remedy.ends_with('.');
            assert!(sentence, "{call:?} {text}: {remedy}");
        }
    }
}

#[test]
fn a_quota_is_named_with_what_raises_it() {
    for (call, parameter) in [
        (Call::BufferCreate, "max_context_mib"),
        (Call::PoolCreate, "max_context_mib"),
        (Call::DeviceAlloc, "max_context_mib"),
        (Call::BufferImport, "max_context_mib"),
        (Call::GrantWait, "max_context_mib"),
        (Call::GrantCreate, "max_provider_mib"),
        (Call::Accept, "max_endpoints"),
        (Call::Connect, "max_endpoints"),
        (Call::ChannelCreate, "max_channels"),
        (Call::ChannelCreate, "max_context_pollers"),
        (Call::Listen, "max_listeners"),
    ] {
        let (_, remedy) = explain(call, Errno::DQUOT);
        assert!(remedy.contains(parameter), "{call:?}: {remedy}");
    }
}

#[test]
fn an_undocumented_errno_is_named_by_number() {
    assert!(explain(Call::Query, Errno::XDEV).0.contains("undocumented"));
    assert_eq!(name(Errno::XDEV), "errno 18");
}
