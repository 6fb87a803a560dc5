// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules about the text of tracked files: licence lines, what the driver may not contain, and
//! nothing that belongs to one machine.

use std::fs;

use anyhow::Result;
use xshell::cmd;

use super::Verdict;
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::setup::Tools;

/// The path of a tracked file in the checkout.
type Name<'a> = &'a str;

/// Files that cannot hold a comment or must not: the licences themselves, generated or prose ones.
const WITHOUT_SPDX: &[&str] = &["LICENSES/", "Cargo.lock", ".gitignore"];
/// Endings of files that do hold one.
const WITH_SPDX: &[&str] = &[
    ".rs", ".c", ".h", ".toml", ".yml", ".yaml", ".sh", ".py", ".mk", "Kbuild", ".ci/run",
];

/// Panic paths: none of them may be in the kernel.
const PANICS: &[&str] = &[
    ".unwrap()",
    ".expect(",
    "panic!(",
    "todo!(",
    "unimplemented!(",
    "unreachable!(",
];

/// Words of a private language, for each of which engineers of the field have another one.
const PRIVATE_WORDS: &[&str] = &[
    "told",
    "tenure",
    "bequeath",
    "willed",
    "breathe",
    "undivided",
    "clockwork",
    "tapes",
];

/// The folders of the checkout whose files documents name.
const SOURCE_FOLDERS: &[&str] = &[
    "driver",
    "logic",
    "uapi",
    "client",
    "tests",
    "xtask",
    "harness",
    "vm",
    "docs",
    "packaging",
    "findings",
    "observe",
    "examples",
];

/// Longest line of a document, in characters.
const DOCUMENT_WIDTH: usize = 120;

/// Where `unsafe` may be: the abstractions over the kernel's C interfaces.
const UNSAFE_ALLOWED: &str = "driver/kx/";

/// Runs every rule on every tracked file.
pub(super) fn check(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let mut found = Vec::new();
    let names = tracked(ctx)?;
    for name in &names {
        // A name without text: a symbolic link to nowhere, or removed and not yet committed.
        let Ok(text) = fs::read_to_string(ctx.root.join(name)) else {
            continue;
        };
        found.extend(findings(name, &text));
        if name.ends_with(".md") {
            found.extend(missing_paths(name, &text, &|path| {
                ctx.root.join(path).exists()
            }));
        }
    }
    if found.is_empty() {
        return Ok(Verdict::Clean);
    }
    Ok(Verdict::Dirty(found.join("\n")))
}

/// Every file that git tracks or would track.
pub(crate) fn tracked(ctx: &Ctx) -> Result<Vec<String>> {
    let shell = ctx.shell()?;
    let list = cmd!(shell, "git ls-files --cached --others --exclude-standard").quiet();
    Ok(list.read()?.lines().map(str::to_owned).collect())
}

fn findings(name: Name, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if wants_spdx(name)
        && !text
            .lines()
            .take(3)
            .any(|l| l.contains("SPDX-License-Identifier: "))
    {
        found.push(format!(
            "{name}: no SPDX-License-Identifier in the first lines"
        ));
    }
    if let Some(expected) = expected_licence(name)
        && let Some(actual) = licence(text)
        && actual != expected
    {
        found.push(format!(
            "{name}: licence `{actual}`, but this folder's is `{expected}`"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{name}:{}", number + 1);
        if let Some(what) = machine_specific(name, line) {
            found.push(format!(
                "{}: {what} does not belong into a tracked file",
                at()
            ));
        }
        if let Some(word) = private_word(name, line) {
            found.push(format!(
                "{}: `{word}` is no word of the field; say reports, notifies, lifetime, fuzz input, ...",
                at()
            ));
        }
        if name.ends_with(".md") && line.chars().count() > DOCUMENT_WIDTH {
            found.push(format!("{}: longer than {DOCUMENT_WIDTH} characters", at()));
        }
        if name.starts_with("driver/") && name.ends_with(".rs") {
            let code = without_comment(line);
            if let Some(panic) = PANICS.iter().find(|panic| code.contains(**panic)) {
                found.push(format!(
                    "{}: `{panic}` can panic; return an error instead",
                    at()
                ));
            }
            if let Some(what) = made_in_any_case(code) {
                found.push(format!(
                    "{}: `{what}` is made and dropped even where the condition is false; say then(|| …)",
                    at()
                ));
            }
            if !name.starts_with(UNSAFE_ALLOWED) && has_word(code, "unsafe") {
                found.push(format!("{}: unsafe outside {UNSAFE_ALLOWED}", at()));
            }
        }
    }
    found
}

/// A value with a name of a type that `then_some` gets: its drop may undo something. Constants and paths such as
/// `Lack::Pages` have none.
fn made_in_any_case(code: &str) -> Option<&str> {
    let (_, argument) = code.split_once(".then_some(")?;
    let end = argument.find(|c: char| !c.is_ascii_alphanumeric())?;
    let (name, rest) = argument.split_at(end);
    let is_type = name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.contains(|c: char| c.is_ascii_lowercase());
    let is_wrapper = ["Ok", "Some", "Err"].contains(&name);
    (is_type && !is_wrapper && rest.trim_start().starts_with(['(', '{'])).then_some(name)
}

/// The paths of the checkout in backquotes that a document names and that are not there.
fn missing_paths(name: Name, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for (nth, quoted) in line.split('`').enumerate() {
            // The odd parts are between backquotes.
            if nth % 2 == 1 && is_path(quoted) && !exists(quoted) {
                found.push(format!("{name}:{}: there is no {quoted}", number + 1));
            }
        }
    }
    found
}

/// Whether a text in backquotes is a path of the checkout, without patterns and placeholders.
fn is_path(text: &str) -> bool {
    let (first, rest) = text.split_once('/').unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    SOURCE_FOLDERS.contains(&first)
        && !rest.is_empty()
        && rest.chars().all(plain)
        && !rest.contains("NAME")
}

/// The first private word of a line. This file has to list them.
fn private_word(name: Name, line: &str) -> Option<&'static str> {
    if name == "xtask/src/lint/source.rs" {
        return None;
    }
    let lower = line.to_lowercase();
    PRIVATE_WORDS
        .iter()
        .find(|word| has_word(&lower, word))
        .copied()
}

fn wants_spdx(name: Name) -> bool {
    WITH_SPDX.iter().any(|end| name.ends_with(end))
        && !WITHOUT_SPDX.iter().any(|no| name.starts_with(no))
}

fn expected_licence(name: Name) -> Option<&'static str> {
    if name.starts_with("driver/") {
        return Some("GPL-2.0-only");
    }
    let user_space = ["harness/", "xtask/", "client/", "tests/", "examples/"];
    let code = name.ends_with(".rs");
    (code && user_space.iter().any(|dir| name.starts_with(dir))).then_some("MIT OR Apache-2.0")
}

fn licence(text: &str) -> Option<&str> {
    let line = text
        .lines()
        .take(3)
        .find_map(|l| l.split_once("SPDX-License-Identifier: "))?
        .1;
    Some(line.trim().trim_end_matches("*/").trim())
}

/// Paths of one machine, and host names of package registries: mirrors are the machine's business.
fn machine_specific(name: Name, line: &str) -> Option<&'static str> {
    // cargo writes the registry's own name into the lock file.
    if name == "Cargo.lock" {
        return None;
    }
    // Written in two parts so that this file passes its own check.
    let patterns: [(&str, &str, &str); 7] = [
        ("/ro", "ot/", "a path of one machine"),
        ("/ho", "me/", "a path of one machine"),
        ("/wo", "rk/", "a path of one machine"),
        ("deb.deb", "ian.org", "a registry's host name"),
        ("crate", "s.io/", "a registry's host name"),
        ("pypi", ".org", "a registry's host name"),
        ("python", "hosted.org", "a registry's host name"),
    ];
    patterns
        .iter()
        .find(|(a, b, _)| {
            line.match_indices(a)
                .any(|(at, _)| line[at + a.len()..].starts_with(b))
        })
        .map(|(_, _, what)| *what)
}

pub(super) fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|w| w == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_not_there_are_found() {
        let exists = |path: &str| path == "driver/kx/bar.rs";
        let text =
            "`driver/kx/bar.rs`, `driver/kx/*.rs`, `docs/NAME.md`, `make/it`\n`driver/gone.rs`\n";
        let found = missing_paths("docs/x.md", text, &exists);
        assert_eq!(found, ["docs/x.md:2: there is no driver/gone.rs"]);
    }

    #[test]
    fn private_words_and_long_lines_of_documents_are_found() {
        assert_eq!(findings("docs/x.md", "The peer was told.\n").len(), 1);
        assert_eq!(
            findings("docs/x.md", &format!("{}\n", "a".repeat(121))).len(),
            1
        );
        assert!(findings("docs/x.md", &format!("{}\n", "a".repeat(120))).is_empty());
        assert!(
            findings(
                "docs/x.md",
                "The peer was notified, and stolder is no word.\n"
            )
            .is_empty()
        );
    }

    const SPDX: &str = "// SPDX-License-Identifier: GPL-2.0-only\n";

    #[test]
    fn a_missing_or_wrong_licence_line_is_found() {
        assert_eq!(findings("driver/a.rs", SPDX), [""; 0]);
        assert_eq!(findings("driver/a.rs", "fn a() {}\n").len(), 1);
        assert_eq!(
            findings(
                "driver/a.c",
                "/* SPDX-License-Identifier: GPL-2.0-only */\n"
            )
            .len(),
            0
        );
        assert_eq!(findings("client/src/a.rs", SPDX).len(), 1);
        assert_eq!(findings("README.md", "# dmaplane\n").len(), 0);
        assert_eq!(findings("LICENSES/x.toml", "").len(), 0);
    }

    #[test]
    fn panics_and_unsafe_are_found_in_the_driver_only() {
        let bad = format!("{SPDX}let a = b.unwrap();\nunsafe {{ c() }}\n");
        assert_eq!(findings("driver/a.rs", &bad).len(), 2);
        assert_eq!(findings("driver/kx/a.rs", &bad).len(), 1);
        let made = format!("{SPDX}free.then_some(Mine(self))\n");
        assert_eq!(findings("driver/a.rs", &made).len(), 1);
        let plain = format!(
            "{SPDX}free.then_some(Lack::Pages).or(a.then_some(REVOKED)).or(b.then_some(()))\n"
        );
        assert_eq!(findings("driver/a.rs", &plain), [""; 0]);
        let good = format!("{SPDX}// unsafe: b.unwrap()\n#![deny(unsafe_op_in_unsafe_fn)]\n");
        assert_eq!(findings("driver/a.rs", &good), [""; 0]);
    }

    #[test]
    fn what_belongs_to_one_machine_is_found() {
        let root = ["/ro", "ot/x"].concat();
        assert_eq!(findings("README.md", &root).len(), 1);
        assert_eq!(findings("README.md", "the /root cause, crates.io"), [""; 0]);
    }
}
