// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every task does at the moment that a time limit runs out.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// State, wait channel and kernel stack of each thread that lives in user space or is blocked.
pub(crate) fn all() -> String {
    let mut text = String::new();
    for process in numbered(Path::new("/proc")) {
        for thread in numbered(&process.join("task")) {
            let read = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
            let status = read("status");
            let field = |name: &str| {
                let line = status
                    .lines()
                    .find(|line| line.starts_with(name))
                    .unwrap_or_default();
                line.trim_start_matches(name).trim().to_owned()
            };
            let is_kernel_thread = field("VmSize:").is_empty();
            let state = field("State:");
            if is_kernel_thread && !state.starts_with('D') && !state.starts_with('R') {
                continue;
            }
            let id = thread
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let command = read("cmdline").replace('\0', " ");
            let _ = writeln!(text, "{id} {} [{state}] {command}", field("Name:"));
            let _ = writeln!(text, "{}", read("stack"));
        }
    }
    text
}

fn numbered(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<(u32, std::path::PathBuf)> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}
