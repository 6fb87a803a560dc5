// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running other programs: with a log, a lock, and an error that shows the lines that matter.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::ctx::Ctx;
use crate::exit;

/// How many of a log's last lines an error shows.
const TAIL: usize = 30;

/// Runs `command` with both outputs in `log`, and calls `on_line` for each line.
///
/// # Errors
/// When it cannot be started or fails: the last lines of its output and where the log is.
pub fn logged(
    ctx: &Ctx,
    mut command: Command,
    what: &str,
    log: &Path,
    mut on_line: impl FnMut(&str),
) -> Result<()> {
    ctx.ui.detail(format!("{command:?}"));
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(file, "# {command:?}")?;
    let (reader, writer) = io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    // The command keeps the writing end open; without this the reader would never see the end.
    drop(command);

    let mut tail = VecDeque::with_capacity(TAIL);
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        file.write_all(&bytes)?;
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        bytes.clear();
        if ctx.verbose > 1 {
            eprintln!("{line}");
        }
        on_line(&line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    let tail = tail
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect::<String>();
    let message = format!(
        "{what} failed ({status}); its last lines:\n{tail}log: {}",
        log.display()
    );
    Err(exit::coded(exit::FAILED, message))
}

/// The standard output of `command`, trimmed.
///
/// # Errors
/// When it cannot be started or fails, with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let out = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(exit::coded(
            exit::FAILED,
            format!("{command:?} failed ({}): {}", out.status, said.trim()),
        ));
    }
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The first executable of this name on PATH.
pub fn which(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let also = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(also)
        .map(|dir| dir.join(name.as_ref()))
        .find(|file| {
            rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file()
        })
}

/// An exclusive lock between processes, held until it is dropped.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the file `path`; waits, and says so, while another process holds it.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn take(ctx: &Ctx, path: &Path, what: &str) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open the lock file {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                ctx.ui.step(format!(
                    "another xtask is at work on {what}; waiting for it"
                ));
                flock(&file, FlockOperation::LockExclusive)?;
            }
            other => other?,
        }
        Ok(Self { _file: file })
    }
}

/// A new folder in `dir` for something unfinished; the caller holds the lock of `dir`.
///
/// What an interrupted run left there is removed: while the lock is held, nobody else uses it.
///
/// # Errors
/// When the folder cannot be read or written.
pub fn scratch(dir: &Path) -> Result<tempfile::TempDir> {
    const PREFIX: &str = "unfinished-";
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(dir)
        .with_context(|| format!("cannot write to {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_last_lines_and_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo broken >&2; exit 3"]);
        let mut lines = 0;
        let err = logged(
            &Ctx::in_folder(dir.path()),
            command,
            "counting",
            &log,
            |_| lines += 1,
        )
        .unwrap_err();
        let text = err.to_string();
        assert_eq!(lines, 101);
        assert!(
            text.starts_with("counting failed (exit status: 3)"),
            "{text}"
        );
        assert!(
            text.contains("    broken\n") && text.contains("    72\n"),
            "{text}"
        );
        assert!(!text.contains("    71\n"), "{text}");
        assert!(text.ends_with("x.log"), "{text}");
        assert_eq!(fs::read_to_string(log).unwrap().lines().count(), 102);
    }

    #[test]
    fn output_is_trimmed_and_errors_say_what_the_program_said() {
        let mut good = Command::new("sh");
        assert_eq!(output(good.args(["-c", "echo ' a '"])).unwrap(), "a");
        let mut bad = Command::new("sh");
        let err = output(bad.args(["-c", "echo why >&2; exit 1"])).unwrap_err();
        assert!(err.to_string().ends_with("why"), "{err}");
    }

    #[test]
    fn a_lock_excludes_and_its_drop_releases() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let ctx = Ctx::in_folder(dir.path());
        let held = Lock::take(&ctx, &path, "a test").unwrap();
        let other = File::options().write(true).open(&path).unwrap();
        let busy = flock(&other, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(busy, Err(Errno::WOULDBLOCK));
        drop(held);
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    }

    #[test]
    fn a_scratch_folder_replaces_what_an_interrupted_run_left() {
        let dir = tempfile::tempdir().unwrap();
        let left = scratch(dir.path()).unwrap().keep();
        fs::write(left.join("half"), "").unwrap();
        fs::write(dir.path().join("kept"), "").unwrap();
        let fresh = scratch(dir.path()).unwrap();
        assert!(fresh.path().is_dir() && !left.exists());
        assert!(dir.path().join("kept").is_file());
    }
}
