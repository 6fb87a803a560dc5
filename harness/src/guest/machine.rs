// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QEMU process, started by us or by a program that we started. It never outlives us, and its console is read while
//! it grows.

use std::fs::{self, File};
use std::io::{
    self, BufRead as _, BufReader, PipeReader, Read as _, Seek as _, SeekFrom, Write as _,
};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::group::Group;

/// A running QEMU. Dropping it kills it.
pub struct Qemu {
    child: Child,
    status: Option<ExitStatus>,
    /// The processes between us and it, if we did not start it ourselves.
    group: Option<Group>,
    /// The threads that copy their output to its files.
    pumps: Vec<JoinHandle<()>>,
}

impl Qemu {
    /// Starts QEMU; its own messages go to `log`.
    ///
    /// The calling thread must live as long as the guest: the kernel kills QEMU when the thread
    /// that started it ends, which covers even a SIGKILL of this process.
    pub fn start(command_line: &[String], log: &Path, interactive: bool) -> Result<Self> {
        let (program, args) = command_line
            .split_first()
            .context("an empty command line")?;
        let mut command = Command::new(program);
        command.args(args);
        let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stderr(file.try_clone()?);
        if !interactive {
            // In a process group of its own, so that Ctrl-C reaches only us and only we end the
            // guest.
            command.process_group(0).stdin(Stdio::null()).stdout(file);
        }
        let parent = rustix::process::getpid();
        // SAFETY: the closure runs in the forked child and makes two system calls: it neither
        // allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the line above took effect.
                if getppid() != Some(parent) {
                    return Err(io::Error::from_raw_os_error(3));
                }
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        Ok(Self {
            child,
            status: None,
            group: None,
            pumps: Vec::new(),
        })
    }

    /// Starts a program that starts QEMU, with the guest's console on standard error.
    ///
    /// The console goes to `console`; lines in it that are not the kernel's come from the programs themselves and go to
    /// `log` as well. The programs do not open these files: each of several writers would start at the beginning of the
    /// file. Standard output is passed on if the guest is interactive, and is part of the console otherwise.
    pub fn start_by(
        command_line: &[String],
        console: &Path,
        log: &Path,
        interactive: bool,
    ) -> Result<Self> {
        let (program, args) = command_line
            .split_first()
            .context("an empty command line")?;
        let create = |path: &Path| {
            File::create(path).with_context(|| format!("cannot write {}", path.display()))
        };
        let (console, log) = (create(console)?, create(log)?);
        let group = Group::new()?;
        let mut command = Command::new(program);
        let (errors, to_errors) = io::pipe()?;
        let mut output = None;
        if interactive {
            let (from, to) = io::pipe()?;
            command.stdout(to);
            output = Some(from);
        } else {
            command.stdout(to_errors.try_clone()?);
        }
        command.args(args).stdin(Stdio::null()).stderr(to_errors);
        let child = group
            .spawn(&mut command)
            .with_context(|| format!("cannot run {program}"))?;
        // Closes our own ends of the pipes: otherwise their readers would never see the end.
        drop(command);
        let mut pumps = vec![std::thread::spawn(move || split(errors, console, log))];
        if let Some(mut output) = output {
            pumps.push(std::thread::spawn(move || pass_on(&mut output)));
        }
        Ok(Self {
            child,
            status: None,
            group: Some(group),
            pumps,
        })
    }

    /// How QEMU ended, if it did.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            if self.status.is_some() {
                self.clear();
            }
        }
        Ok(self.status)
    }

    /// Ends QEMU at once.
    pub fn kill(&mut self) {
        if self.status.is_none() {
            // Both fail only if it is gone already.
            let _ = self.child.kill();
            self.clear();
            self.status = self.child.wait().ok();
        }
    }

    /// Kills what is left of the processes between us and QEMU, and waits until all of their output is in its files.
    fn clear(&mut self) {
        if let Some(group) = &mut self.group {
            group.kill();
        }
        for pump in self.pumps.drain(..) {
            // The thread does not panic, and the console's reader notices a cut-off console.
            let _ = pump.join();
        }
    }
}

/// Copies a console line by line, and to `log` the lines that the kernel did not write: the kernel's begin with the
/// time.
fn split(from: PipeReader, mut console: File, mut log: File) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let copied = console.write_all(&line);
        if !line.starts_with(b"[") {
            let _ = log.write_all(&line);
        }
        if copied.is_err() {
            return;
        }
        line.clear();
    }
}

/// Copies to standard output, as it comes.
fn pass_on(from: &mut PipeReader) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let mut out = io::stdout().lock();
        if out
            .write_all(&bytes[..read])
            .and_then(|()| out.flush())
            .is_err()
        {
            return;
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A text file that grows, read line by line.
pub struct Tail {
    path: PathBuf,
    at: u64,
    partial: Vec<u8>,
}

impl Tail {
    /// Reads from the beginning; the file need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            at: 0,
            partial: Vec::new(),
        }
    }

    /// The lines that have been completed since the last call.
    pub fn lines(&mut self) -> Vec<String> {
        let Ok(mut file) = File::open(&self.path) else {
            return Vec::new();
        };
        if file.seek(SeekFrom::Start(self.at)).is_err() {
            return Vec::new();
        }
        let Ok(read) = file.read_to_end(&mut self.partial) else {
            return Vec::new();
        };
        self.at += read as u64;
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let done = std::mem::replace(&mut self.partial, rest);
        String::from_utf8_lossy(&done)
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }
}

/// A text file as a whole, whatever bytes a dying guest has put into it; empty if it is not there.
pub fn lossy(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_tail_gives_whole_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut tail = Tail::new(path.clone());
        assert!(tail.lines().is_empty());
        let mut file = File::create(path).unwrap();
        file.write_all(b"one\r\ntw").unwrap();
        assert_eq!(tail.lines(), ["one"]);
        assert!(tail.lines().is_empty());
        file.write_all(b"o\nthree\n\xff\n").unwrap();
        assert_eq!(tail.lines(), ["two", "three", "\u{fffd}"]);
    }

    #[test]
    fn a_dropped_machine_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["sleep", "1000"].map(str::to_owned);
        let qemu = Qemu::start(&words, &dir.path().join("log"), false).unwrap();
        let pid = qemu.child.id();
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        drop(qemu);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_console_through_a_pipe_is_whole_when_its_machine_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let (console, log) = (dir.path().join("console.log"), dir.path().join("log"));
        let script =
            "echo '[    1.0] kernel' >&2; echo 'qemu: no such device' >&2; sleep 1000 & exit 255";
        let words = ["sh", "-c", script].map(str::to_owned);
        let mut qemu = Qemu::start_by(&words, &console, &log, false).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        while qemu.ended().unwrap().is_none() && Instant::now() < limit {
            std::thread::yield_now();
        }
        let status = qemu.ended().unwrap().expect("an end");
        assert_eq!(status.code(), Some(255));
        assert_eq!(lossy(&console), "[    1.0] kernel\nqemu: no such device\n");
        assert_eq!(lossy(&log), "qemu: no such device\n");
    }

    #[test]
    fn an_end_is_noticed_without_waiting_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let words = ["sh", "-c", "exit 7"].map(str::to_owned);
        let mut qemu = Qemu::start(&words, &dir.path().join("log"), false).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match qemu.ended().unwrap() {
                None if Instant::now() < limit => std::thread::yield_now(),
                status => break status,
            }
        };
        assert_eq!(status.and_then(|status| status.code()), Some(7));
    }
}
