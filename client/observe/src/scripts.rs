// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bpftrace scripts of the folder `observe`, for machines that have the tool but not the sources.

use serde::Serialize;

/// One script.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Script {
    /// Its name, which is its file's without `.bt`.
    pub name: &'static str,
    /// The script itself.
    pub text: &'static str,
}

impl Script {
    const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text }
    }

    /// What it shows: the first line of its head after the licence.
    pub fn shows(&self) -> &'static str {
        let head = self
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("// "));
        let mut head = head.filter(|line| !line.starts_with("SPDX-License-Identifier"));
        head.next().unwrap_or("")
    }
}

/// All of them.
pub const SCRIPTS: [Script; 5] = [
    Script::new("failures", include_str!("../../../observe/failures.bt")),
    Script::new("latency", include_str!("../../../observe/latency.bt")),
    Script::new("memory", include_str!("../../../observe/memory.bt")),
    Script::new("stalls", include_str!("../../../observe/stalls.bt")),
    Script::new("teardown", include_str!("../../../observe/teardown.bt")),
];

/// There is no such script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no script {name}; there are: {}", SCRIPTS.map(|script| script.name).join(", "))]
pub struct Unknown {
    /// What was asked for.
    pub name: String,
}

/// The script of this name.
///
/// # Errors
/// [`Unknown`], which lists those that there are.
pub fn find(name: &str) -> Result<&'static Script, Unknown> {
    let unknown = || Unknown {
        name: name.to_owned(),
    };
    let mut scripts = SCRIPTS.iter();
    scripts
        .find(|script| script.name == name)
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_script_of_the_folder_is_here() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../observe");
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|ending| ending == "bt") {
                let name = path.file_stem().expect("a name").to_string_lossy();
                let text = fs::read_to_string(&path).expect("a script");
                files.insert(name.into_owned(), text);
            }
        }
        let here = SCRIPTS.map(|script| (script.name.to_owned(), script.text.to_owned()));
        assert_eq!(BTreeMap::from(here), files);
    }

    #[test]
    fn each_says_what_it_shows() {
        for script in SCRIPTS {
            let shows = script.shows();
            assert!(
                shows.starts_with(char::is_uppercase),
                "{}: {shows}",
                script.name
            );
            assert!(shows.ends_with('.'), "{}: {shows}", script.name);
        }
        assert!(SCRIPTS.map(|script| script.name).is_sorted());
    }

    #[test]
    fn an_unknown_script_gets_the_list() {
        assert_eq!(find("stalls").expect("a script").name, "stalls");
        let text = find("stall").expect_err("no such script").to_string();
        let wanted =
            "there is no script stall; there are: failures, latency, memory, stalls, teardown";
        assert_eq!(text, wanted);
    }
}
