// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver's rooms face one way: a file uses rooms below its own, never one above.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;

use super::{Verdict, source};
use dmaplane_vmtest::ctx::Ctx;
use dmaplane_vmtest::setup::Tools;

/// The rooms from the lowest floor to the highest. No two of the driver's own rooms share a floor, so they form no cycle.
const FLOORS: &[&[&str]] = &[
    // Shared with user space and with tests on the host; they use nothing of the driver.
    &["uapi", "logic"],
    &["kx"],
    &["base"],
    &["observe"],
    &["channel"],
    &["memory"],
    &["device"],
    &["rdma"],
    &["buffer"],
    &["dispatch"],
    &["context"],
];

/// A use of a room by a file of the driver, whose path is relative to `driver/`.
type Use = (String, String);

/// Checks every file of the driver.
pub(super) fn check(ctx: &Ctx, _: &Tools) -> Result<Verdict> {
    let mut upwards = BTreeSet::new();
    for name in source::tracked(ctx)? {
        let Some(file) = name.strip_prefix("driver/").filter(|f| f.ends_with(".rs")) else {
            continue;
        };
        // Removed and not yet committed.
        let Ok(text) = fs::read_to_string(ctx.root.join(&name)) else {
            continue;
        };
        upwards.extend(upward(file, &text));
    }
    let found = judge(&upwards);
    if found.is_empty() {
        return Ok(Verdict::Clean);
    }
    Ok(Verdict::Dirty(found.join("\n")))
}

fn judge(upwards: &BTreeSet<Use>) -> Vec<String> {
    let complaint = |(file, room): &Use| {
        format!(
            "driver/{file}: uses `{room}`, which is above it; hand in what it needs, or move it up (the \
             floors are in xtask/src/lint/rooms.rs)"
        )
    };
    upwards.iter().map(complaint).collect()
}

/// The floor of a room; `None` for what is no room.
fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms above a file's own that it uses.
fn upward(file: &str, text: &str) -> Vec<Use> {
    let own = file.split(['/', '.']).next().and_then(floor);
    // What is no room, such as the module's main file, is above all.
    let Some(own) = own else { return Vec::new() };
    rooms(text)
        .into_iter()
        .filter(|room| floor(room).is_some_and(|other| other > own))
        .map(|room| (file.to_owned(), room))
        .collect()
}

/// The first words behind each `crate::` of a file, those of a group `crate::{…}` too.
fn rooms(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .map(source::without_comment)
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(entries(group)),
            None => found.extend(word(rest)),
        }
    }
    found
}

/// The first words of a group's entries, up to the brace that closes it.
fn entries(group: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            letter if start && !letter.is_whitespace() => {
                start = false;
                found.extend(group.get(at..).and_then(word));
            }
            _ => {}
        }
    }
    found
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    let word = text.get(..end.unwrap_or(text.len()))?;
    (!word.is_empty()).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_paths_name_rooms() {
        let text = "use crate::{\n    base::{faults::FAULTS, wait},\n    kx,\n};\nuse crate::uapi;\n\
                    // crate::context\nfn f() { crate::rdma::g() }\n";
        let found: Vec<_> = rooms(text).into_iter().collect();
        assert_eq!(found, ["base", "kx", "rdma", "uapi"]);
    }

    #[test]
    fn only_what_is_above_is_found() {
        let text = "use crate::{kx::raw, context::Context, memory::Memory};";
        assert_eq!(
            upward("buffer/pool.rs", text),
            [("buffer/pool.rs".to_owned(), "context".to_owned())]
        );
        assert!(upward("context/mod.rs", text).is_empty());
        assert!(upward("dmaplane_main.rs", text).is_empty());
        assert_eq!(upward("kx/vma.rs", text).len(), 2);
    }
}
