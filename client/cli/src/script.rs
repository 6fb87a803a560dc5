// SPDX-License-Identifier: MIT OR Apache-2.0

//! `dmaplane script`.

use anyhow::Result;
use dmaplane_observe::scripts::{self, SCRIPTS, Script};
use serde::Serialize;

use crate::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The script to print; without it, the list of them.
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// What `--json` writes about a script.
#[derive(Serialize)]
struct Report {
    name: &'static str,
    shows: &'static str,
    /// The script itself, which the list leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'static str>,
}

impl Report {
    fn new(script: &Script, text: Option<&'static str>) -> Self {
        Self {
            name: script.name,
            shows: script.shows(),
            text,
        }
    }
}

/// Prints a script, or the list of scripts.
pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    if let Some(name) = &args.name {
        let script = scripts::find(name)?;
        return if json {
            output::json(&Report::new(script, Some(script.text)))
        } else {
            output::text(script.text)
        };
    }
    if json {
        output::json(&SCRIPTS.map(|script| Report::new(&script, None)))
    } else {
        output::text(&list())
    }
}

fn list() -> String {
    let lines = SCRIPTS.map(|script| format!("{:10} {}\n", script.name, script.shows()));
    lines.concat() + "\nRun one as root: dmaplane script stalls | bpftrace -\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_a_line_for_each() {
        let text = list();
        for script in SCRIPTS {
            let mut lines = text.lines();
            let line = lines.find(|line| line.starts_with(script.name));
            assert!(
                line.is_some_and(|line| line.ends_with(script.shows())),
                "{text}"
            );
        }
    }

    #[test]
    fn json_has_the_text_of_the_one_that_is_asked_for() {
        let script = scripts::find("stalls").expect("a script");
        let one = serde_json::to_value(Report::new(script, Some(script.text))).expect("JSON");
        assert!(
            one["text"]
                .as_str()
                .is_some_and(|text| text.contains("credit_stall")),
            "{one}"
        );
        let listed = serde_json::to_value(Report::new(script, None)).expect("JSON");
        assert_eq!((&listed["name"], listed.get("text")), (&one["name"], None));
    }
}
